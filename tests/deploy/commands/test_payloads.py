"""`sidelight payloads` as people use it: what is shown of a request, what a terminal never sees, and how it ends."""

from __future__ import annotations

import gzip
import json
import signal
import unicodedata
from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploy.cli import main
from deploy.commands import payloads
from deploy.listing import json_printable, printable
from streams.bindings import decode_event
from streams.events import CONTENT_ENCODING, INFERENCE_HEADER_LENGTH, RESPONSE_TYPE, Event
from streams.topics import Topics
from tests.deploy.commands.calling import Sidelight, lines_of
from tests.deploy.laying import NO_EVENT, NOW_MS, Laid, create, event, lay, spread

EVIL = "\x1b]0;owned\x07\x1b[2J\x9b31m\u202egpj\x7f\u2028end"
REQUEST = event(
    "q1", b'{"instances":[[1]]}', correlationid="c1", method="POST", path="/v1/models/credit:predict",
)  # fmt: skip
RESPONSE = event(
    "r1", b'{"predictions":[0]}', RESPONSE_TYPE, correlationid="c1", path="/v1/models/credit:predict",
    statuscode="200", latencyus="12345",
)  # fmt: skip


def named(sidelight: Sidelight, kafka: str, topics: Topics, *words: str) -> list[str]:
    """Run `sidelight payloads`; give its lines."""
    return lines_of(sidelight("payloads", "--kafka", kafka, "--prefix", topics.prefix, *words))


@pytest.mark.kafka
def test_a_line_for_each_event_in_the_order_of_time(sidelight: Sidelight, kafka: str, topics: Topics) -> None:
    """Time, service, type, call, status, latency, size and correlation id; no bodies: they may be personal."""
    create(kafka, topics.payloads, 2)
    lay(kafka, topics.payloads, [Laid(RESPONSE, 0, NOW_MS - 1), Laid(REQUEST, 1, NOW_MS - 2)])
    run = sidelight("payloads", "--kafka", kafka, "--prefix", topics.prefix)

    assert lines_of(run) == [
        f"{REQUEST.time}  default/credit  request   POST  /v1/models/credit:predict  19 B  [c1]",
        f"{REQUEST.time}  default/credit  response  /v1/models/credit:predict  200  12.3 ms  19 B  [c1]",
    ]
    assert run.stderr == f"reading {topics.payloads} at {kafka}\n"


@pytest.mark.kafka
def test_json_is_the_event(sidelight: Sidelight, kafka: str, topics: Topics) -> None:
    """One CloudEvent per line for `jq`; its data only with --bodies, and then byte for byte."""
    create(kafka, topics.payloads)
    binary = event("b", bytes(range(256)))
    sent = [REQUEST, RESPONSE, replace(binary, datacontenttype="application/octet-stream"), event("none", None)]
    lay(kafka, topics.payloads, map(Laid, sent))

    without = [decode_event(line.encode()) for line in named(sidelight, kafka, topics, "--json")]
    whole = [decode_event(line.encode()) for line in named(sidelight, kafka, topics, "--json", "--bodies")]
    assert without == [replace(one, data=None) for one in sent]
    assert whole == sent


@pytest.mark.kafka
def test_services_and_counts_choose(sidelight: Sidelight, kafka: str, topics: Topics) -> None:
    """Only the named services, only so many of them; a service that sent nothing is no error."""
    create(kafka, topics.payloads)
    own = [event(f"e{at}", inferenceservicename=name) for at, name in enumerate(("a", "b", "a", "c", "a"))]
    lay(kafka, topics.payloads, map(Laid, own))

    def ids(*words: str) -> list[str]:
        return [line[-3:-1] for line in named(sidelight, kafka, topics, *words)]

    assert ids("--service", "default/a", "--count", "2") == ["e0", "e2"]
    assert ids("--service", "default/b", "--service", "default/c") == ["e1", "e3"]
    assert ids("--service", "other/a") == []


@pytest.mark.kafka
def test_nothing_that_a_terminal_obeys_comes_out(sidelight: Sidelight, kafka: str, topics: Topics) -> None:
    """Paths, ids and bodies are whatever a client sends; escapes are spelt out, and JSON means the same as before."""
    create(kafka, topics.payloads)
    body = json.dumps({"instances": [EVIL]}, ensure_ascii=False).encode()
    evil = event("evil", body, correlationid=EVIL, path=f"/{EVIL}", method=EVIL)
    lay(kafka, topics.payloads, [Laid(evil), Laid(((("ce_id", b"1\x1b[2J"), ("ce_specversion", b"\x1b[2J")), b""))])
    shown = sidelight("payloads", "--kafka", kafka, "--prefix", topics.prefix, "--bodies")
    lines = named(sidelight, kafka, topics, "--json", "--bodies")

    for text in (shown.stdout, shown.stderr, *lines):
        assert {character for character in text if unicodedata.category(character)[0] == "C"} <= {"\n"}
    assert r"\x1b]0;owned\x07" in shown.stdout
    assert json.loads(lines[0])["correlationid"] == EVIL
    assert json.loads(lines[0])["data"] == {"instances": [EVIL]}


@pytest.mark.kafka
def test_unreadable_records_are_told_beside_the_output(sidelight: Sidelight, kafka: str, topics: Topics) -> None:
    """Where and why on standard error, with their number at the end; a pipe gets only what is good."""
    create(kafka, topics.payloads)
    lay(kafka, topics.payloads, [Laid(REQUEST), Laid(NO_EVENT), Laid(RESPONSE)])
    run = sidelight("payloads", "--kafka", kafka, "--prefix", topics.prefix)

    assert len(lines_of(run)) == 2
    assert f"{topics.payloads}[0]@1: unreadable: not-a-cloudevent" in run.stderr
    assert run.stderr.endswith("\n1 record was unreadable\n")


@pytest.mark.kafka
@pytest.mark.parametrize("together", [False, True])
def test_a_reader_that_has_seen_enough_ends_it(
    sidelight: Sidelight, kafka: str, topics: Topics, *, together: bool
) -> None:
    """`| head -1`, and `2>&1 | head -1`: no traceback and exit code 0, also with something left to say at the end."""
    create(kafka, topics.payloads)
    lay(kafka, topics.payloads, [Laid(NO_EVENT), *(Laid(event(f"e{at}", b"x" * 5_000)) for at in range(300))])
    words = ("payloads", "--kafka", kafka, "--prefix", topics.prefix, "--bodies")
    with sidelight.start(*words, together=together) as process:
        assert process.stdout is not None
        first = process.stdout.readline()
        process.stdout.close()
        said = "" if process.stderr is None else process.stderr.read()

        assert process.wait(60) == 0
    assert first != ""
    assert "Traceback" not in said
    assert "BrokenPipe" not in said


@pytest.mark.kafka
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_following_ends_well_on_a_signal(
    sidelight: Sidelight, kafka: str, topics: Topics, number: signal.Signals
) -> None:
    """What comes is shown as it comes; Ctrl-C is how one leaves, so it is no failure."""
    create(kafka, topics.payloads)
    with sidelight.start("payloads", "--kafka", kafka, "--prefix", topics.prefix, "--follow") as process:
        assert process.stdout is not None
        assert process.stderr is not None
        began = process.stderr.readline()
        lay(kafka, topics.payloads, [Laid(REQUEST)])
        shown = process.stdout.readline()
        process.send_signal(number)
        rest, said = process.communicate(timeout=30)

    assert began == f"following {topics.payloads} at {kafka}\n"
    assert "[c1]" in shown
    assert (process.returncode, rest, said) == (0, "", "")


@pytest.mark.kafka
def test_a_count_ends_a_follow(sidelight: Sidelight, kafka: str, topics: Topics) -> None:
    """`--follow --from-beginning --count 3` ends by itself."""
    create(kafka, topics.payloads, 2)
    lay(kafka, topics.payloads, spread(["a", "b", "c", "d"], 2))

    found = named(sidelight, kafka, topics, "--follow", "--from-beginning", "--count", "3")
    assert [line[-3:] for line in found] == ["[a]", "[b]", "[c]"]


@pytest.mark.kafka
def test_a_missing_topic_and_a_missing_run_are_one_line(sidelight: Sidelight, kafka: str, topics: Topics) -> None:
    """What is missing, and what to do; exit code 2."""
    missing = sidelight("payloads", "--kafka", kafka, "--prefix", topics.prefix)
    alone = sidelight("payloads")

    assert missing.returncode == alone.returncode == 2
    assert missing.stderr.startswith(f"sidelight payloads: topic '{topics.payloads}' does not exist at {kafka}; ")
    assert alone.stderr == (
        "sidelight payloads: nothing is running here; start with `sidelight up service.yaml`, "
        "or name --kafka host:port\n"
    )


def gzipped(identity: str, data: bytes, **extensions: str) -> Event:
    """Make an event whose body is compressed and says so."""
    return event(identity, gzip.compress(data), **{CONTENT_ENCODING: "gzip"}, **extensions)


def test_bodies_are_shown_as_text() -> None:
    """Plain and compressed ones, said or unsaid; of binary tensors the JSON part and the size of the rest."""
    tensors = b'{"inputs":[]}' + bytes(range(128, 168))

    assert payloads.body(event("a", b'{"x":1}')) == '{"x":1}'
    assert payloads.body(event("a", None)) == payloads.body(event("a", b"")) == "(empty)"
    assert payloads.body(gzipped("a", b'{"x":1}')) == '{"x":1}'
    assert payloads.body(event("a", gzip.compress(b'{"x":1}'))) == '{"x":1}'
    assert (
        payloads.body(event("a", tensors, **{INFERENCE_HEADER_LENGTH: "13"}))
        == '{"inputs":[]} (and 40 bytes of tensors)'
    )
    assert (
        payloads.body(gzipped("a", tensors, **{INFERENCE_HEADER_LENGTH: "13"}))
        == '{"inputs":[]} (and 40 bytes of tensors)'
    )
    assert payloads.body(event("a", b"\x80abc")) == "(4 bytes, no text)"


def test_big_bodies_are_cut_and_their_size_is_never_understated() -> None:
    """64 KiB are shown; of a compressed one no more is unpacked, so its size is told as a lower bound."""
    most = 64 << 10
    tensors = {INFERENCE_HEADER_LENGTH: "2"}

    assert payloads.body(event("a", b"x" * most)) == "x" * most
    assert payloads.body(event("a", b"x" * (most + 1))) == "x" * most + " (and more)"
    assert payloads.body(gzipped("a", b"x" * (50 << 20))) == "x" * most + " (and more)"
    assert (
        payloads.body(gzipped("a", b"{}" + b"\x80" * (5 << 20), **tensors))
        == f"{{}} (and at least {most - 1} bytes of tensors)"
    )
    assert payloads.body(gzipped("a", b"\x80" * (5 << 20))) == f"(at least {most + 1} bytes, no text)"


@pytest.mark.parametrize("cut", [1, 2, 3])
def test_a_character_cut_in_two_hides_nothing(cut: int) -> None:
    """The logger keeps the first bytes of a body, wherever that is in a character; what is whole is shown."""
    whole = '{"name":"Zoë 😀'

    assert payloads.body(event("a", whole.encode()[:-cut], truncated="true")).startswith('{"name":"Zoë ')


def test_marks_are_shown_when_they_are_set() -> None:
    """Synthetic, truncated and aborted events say so; one that says false does not."""
    shown = payloads.shown(event("a", synthetic="true", truncated="false", aborted=True))

    assert "  synthetic  aborted  " in shown
    assert "truncated" not in shown


def test_a_broken_compression_is_told() -> None:
    """A body that says gzip and is none."""
    assert payloads.body(event("a", b"{}", **{CONTENT_ENCODING: "gzip"})).startswith("(2 bytes, broken gzip: ")


@given(
    st.binary(max_size=200),
    st.sampled_from([bytes, gzip.compress]),
    st.sampled_from(["", "gzip", "GZIP", "br"]),
    st.text(max_size=6),
)
def test_any_body_is_one_text(data: bytes, pack: Callable[[bytes], bytes], encoding: str, head: str) -> None:
    """Whatever clients send and say about it: some text, nothing that fails, nothing that a terminal obeys."""
    text = payloads.body(event("a", pack(data), **{CONTENT_ENCODING: encoding, INFERENCE_HEADER_LENGTH: head}))

    assert text
    assert all(character.isprintable() or character == "\n" for character in printable(text))


@given(st.recursive(st.none() | st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)))
def test_json_keeps_its_meaning(value: object) -> None:
    """Spelling out what a terminal would obey changes no string."""
    text = json_printable(json.dumps(value, ensure_ascii=False))

    assert text.isprintable()
    assert json.loads(text) == value


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (("--since", "yesterday"), "argument --since: expected a time such as 90s, 10m, 2h or 1d, got 'yesterday'"),
        (("--service", "credit"), "argument --service: expected namespace/name, got 'credit'"),
        (("--count", "0"), "argument --count: expected a whole number from 1 up, got '0'"),
        (("--since", "1h", "--from-beginning"), "not allowed with argument --since"),
        (("--foll",), "unrecognized arguments: --foll"),
        (("alerts",), "unrecognized arguments: alerts"),
    ],
)
def test_mistakes_are_told(capsys: pytest.CaptureFixture[str], words: tuple[str, ...], problem: str) -> None:
    """Which argument, expected and got; exit code 2."""
    with pytest.raises(SystemExit) as ended:
        main(["payloads", *words])

    assert ended.value.code == 2
    assert problem in capsys.readouterr().err.splitlines()[-1]
