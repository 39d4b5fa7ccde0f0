"""llhttp's request cases and smuggler's mutations, from checkouts, through the proxy to servers of every kind."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.logger.corpus.backends import BACKENDS
from tests.logger.corpus.hostile import Case
from tests.logger.corpus.passage import Passage, pass_through, refusals
from tests.logger.corpus.published import (
    Published,
    aim,
    encoded,
    fill,
    llhttp_cases,
    mutations,
    smuggler_cases,
    spans,
    unescape,
)

MARKDOWN = """\
Things
======

## First

<!-- meta={"type": "request", "noScan": true} -->
```http
GET /a HTTP/1.1
X: \\x80\\
y


```
_A remark._

```log
off=0 message begin
off=0 len=3 span[method]="GET"
off=4 len=2 span[url]="/a"
off=15 version complete
off=17 len=1 span[header_field]="X"
off=26 message complete
```

### Second

<!-- meta={"type": "request-lenient-headers"} -->
```http
GET / HTTP/1.1
Host: a


```

```log
off=0 message begin
off=25 message complete
```
"""
MUTATIONS = """\
def render(gadget):
    p = Payload()
    p.header = "__METHOD__ __ENDPOINT__?cb=__RANDOM__ HTTP/1.1\\r\\n" + gadget + "\\r\\n"
    p.header += "Host: __HOST__\\r\\nContent-Length: __REPLACE_CL__\\r\\n"
    return p

for i in range(0xfe, 0x100):
    mutations["end-%02x" % i] = render("Transfer-Encoding: chunked%c" % i)
"""


def folder_of(request: pytest.FixtureRequest, option: str) -> Path:
    """Give the folder that an option names; skip the test when there is none."""
    folder = request.config.getoption(option)
    if folder is None:
        pytest.skip(f"a checkout is needed: {option} DIR")
    return Path(str(folder))


def refused_though_taken(passage: Passage) -> Counter[str]:
    """Count why requests that llhttp takes were refused."""
    reasons: Counter[str] = Counter()
    for case in passage.cases:
        if isinstance(case, Published):
            reasons.update(filter(None, refusals(passage.answers[case.name])[: case.taken]))
    return reasons


@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", BACKENDS)
@pytest.mark.parametrize("corpus", ["llhttp", "smuggler"])
def test_nothing_published_is_smuggled(
    corpus: str,
    name: str,
    tmp_path: Path,
    request: pytest.FixtureRequest,
    record_property: Callable[[str, object], None],
) -> None:
    """Every request that a server saw is one that the proxy made, with the content that the proxy logged."""
    folder = folder_of(request, f"--{corpus}")
    cases: list[Case] = [*llhttp_cases(folder)] if corpus == "llhttp" else smuggler_cases(folder)
    passage = pass_through(cases, name, tmp_path)

    assert len(cases) > 100
    passage.check()
    record_property("figures", f"{corpus}, {name}: {passage.figures()}")
    for reason, count in refused_though_taken(passage).most_common():
        record_property("figures", f"  llhttp takes, the proxy refuses: {count} times {reason}")


def test_offsets_are_those_of_llhttp(request: pytest.FixtureRequest) -> None:
    """The bytes that we read are those that llhttp's runner sends: its own log names every part and where it stands."""
    cases = llhttp_cases(folder_of(request, "--llhttp"))
    checked = 0
    for case in cases:
        for span in case.spans:
            checked += 1
            found = case.data[span.start : span.start + span.length].decode(errors="surrogateescape")

            assert found == unescape(span.text), case.name
    assert checked > 1000


def test_a_case_is_read(tmp_path: Path) -> None:
    """Metadata, bytes and what the parser says of them; a remark between the blocks does no harm."""
    (tmp_path / "test" / "request").mkdir(parents=True)
    (tmp_path / "test" / "request" / "x.md").write_text(MARKDOWN)
    plain, aimed, latin, lenient = llhttp_cases(tmp_path)

    assert (plain.name, plain.taken) == ("x-0 (First) utf-8", 1)
    assert plain.data == b"GET /a HTTP/1.1\r\nX: \xc2\x80y\r\n\r\n"
    assert latin.data == b"GET /a HTTP/1.1\r\nX: \x80y\r\n\r\n"
    assert aimed.data == b"POST /v1/models/m:predict HTTP/1.1\r\nHost: h\r\nX: \xc2\x80y\r\n\r\n"
    assert (lenient.data, lenient.taken) == (b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", 0)


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("a\n", "a"),
        ("a\n\n", "a\r\n"),
        ("a\\\nb", "ab"),
        (r"a\r\nb", "a\r\nb"),
        (r"\t\f\x41\101\0", "\t\fAA\0"),
        (r"\01\test", "\x01\test"),
    ],
)
def test_escapes_are_undone(source: str, text: str) -> None:
    """A block's escapes become bytes; the last end of line belongs to the block, not to the case."""
    assert unescape(source) == text


def test_a_host_that_is_there_stays() -> None:
    """A case that is aimed at a model gets a Host only where it has none."""
    data = b"PUT / HTTP/1.1\r\nHOST: a\r\n\r\n"
    log = (
        'off=0 len=3 span[method]="PUT"\noff=4 len=1 span[url]="/"\noff=14 version complete\n'
        'off=16 len=4 span[header_field]="HOST"\n'
    )

    assert [(span.kind, span.start) for span in spans(log)] == [("method", 0), ("url", 4), ("header_field", 16)]
    assert aim(data, log) == b"POST /v1/models/m:predict HTTP/1.1\r\nHOST: a\r\n\r\n"


def test_mutations_are_read(tmp_path: Path) -> None:
    """Each template in all its forms, and where a byte above 127 could go out in two ways, in both."""
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "x.py").write_text(MUTATIONS)
    cases = smuggler_cases(tmp_path)
    line = b"POST /v1/models/m:predict?cb=%b HTTP/1.1\r\n" % fill("__RANDOM__", 0).encode()

    assert len({case.data for case in cases}) == len({case.name for case in cases}) == len(cases) == 2 * 2 * 6
    assert cases[1].name == "x end-fe te.cl 6 latin-1"
    assert cases[1].data == (line + b"Transfer-Encoding: chunked\xfe\r\nHost: h\r\nContent-Length: 6\r\n\r\n0\r\n\r\nX")


def test_mutations_reach_nothing() -> None:
    """A file of mutations can neither import nor open anything."""
    with pytest.raises(ImportError):
        mutations("import os", "x")
    with pytest.raises(NameError):
        mutations("open('x')", "x")


def test_ascii_is_sent_once() -> None:
    """Text that has one encoding only is one case."""
    assert list(encoded("a")) == [("utf-8", b"a")]
    assert [data for _, data in encoded("\xff")] == [b"\xc3\xbf", b"\xff"]
    assert len(list(encoded("\xff\u0394"))) == 1
