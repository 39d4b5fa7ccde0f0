"""Reads two published corpora where they lie: llhttp's request cases and smuggler's mutations. Nothing of them is here.

llhttp's cases are Markdown: a comment with metadata, a block `http` with the bytes, a block `log` with what its parser
says of them. smuggler's are Python files that put templates of a head into a dictionary.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import count, pairwise
from pathlib import Path
from typing import Any, Final

from tests.logger.corpus.hostile import HOST, PATH, Case

_CASE: Final = re.compile(
    r"^<!--\s*meta=(?P<meta>\{.*?\})\s*-->\s*^```http\n(?P<input>.*?)^```$(?:(?!^```).)*^```log\n(?P<log>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
_HEADING: Final = re.compile(r"^#+ (.*)$", re.MULTILINE)
_SPAN: Final = re.compile(r'off=(\d+) len=(\d+) span\[(\w+)\]="(.*)"$', re.MULTILINE)
_LINE_END: Final = re.compile(r"off=(\d+) version complete$", re.MULTILINE)
_ERROR: Final = re.compile(r"error code=(\d+) ")
_PAUSED: Final = frozenset({"21", "22"})
"""No errors: the parser stops where another protocol, or a tunnel, begins."""
_ESCAPES: Final[tuple[tuple[str, str | Callable[[re.Match[str]], str]], ...]] = (
    (r"\\(\r\n|\r|\n)", ""),
    (r"\r\n|\r|\n", "\r\n"),
    (r"\\r", "\r"),
    (r"\\n", "\n"),
    (r"\\t", "\t"),
    (r"\\f", "\f"),
    (r"\\x([0-9a-fA-F]+)", lambda found: chr(int(found[1], 16) & 0xFFFF)),
    (r"\\([0-7]{1,3})", lambda found: chr(int(found[1], 8))),
)
"""In the order in which llhttp's runner undoes them, which matters: `\\01\\test` holds a tab."""
_FORMS: Final[tuple[tuple[str, str, tuple[int | None, ...]], ...]] = (
    ("te.cl", "0\r\n\r\nX", (6, 5, None)),
    ("cl.te", "1\r\nZ\r\n0\r\n\r\n", (4, 11, None)),
)
"""How smuggler tries each mutation: content whose two readings differ in length, and the lengths that it claims.

None is ours: no length is claimed, so that the mutation alone says where the content ends.
"""


@dataclass(frozen=True, slots=True)
class Span:
    """A part of a message, as llhttp's own log tells of it."""

    start: int
    length: int
    kind: str
    text: str


@dataclass(frozen=True, slots=True)
class Published(Case):
    """A case of llhttp's; `taken` is how many requests its parser takes of it without any leniency, 0 if it errs."""

    taken: int = 0
    spans: tuple[Span, ...] = ()
    """Of a case that is sent as it is."""


def llhttp_cases(folder: Path) -> list[Published]:
    """Read a checkout of llhttp: each case as it is, and aimed at a model, so that it is logged if it passes."""
    found: list[Published] = []
    for path in sorted(folder.glob("test/request/*.md")):
        text = path.read_text()
        for number, match in enumerate(_CASE.finditer(text)):
            headings = _HEADING.findall(text[: match.start()])
            name = f"{path.stem}-{number} ({headings[-1] if headings else ''})"
            found += _both(name, match["input"], match["log"], json.loads(match["meta"]))
    return found


def _both(name: str, source: str, log: str, meta: dict[str, Any]) -> Iterator[Published]:
    text = unescape(source)
    strict = meta["type"] == "request" and not meta.get("skipBody") and set(_ERROR.findall(log)) <= _PAUSED
    taken = log.count("message complete") if strict else 0
    for encoding, data in encoded(text):
        known = tuple(spans(log)) if encoding == "utf-8" else ()
        yield Published(f"{name} {encoding}", data, taken=taken, spans=known)
        if known and (aimed := aim(data, log)) != data:
            yield Published(f"{name} aimed", aimed, taken=taken)


def unescape(source: str) -> str:
    """Undo the escapes of a block as llhttp's own runner does."""
    text = source.removesuffix("\n")
    for pattern, value in _ESCAPES:
        text = re.sub(pattern, value, text)
    return text


def encoded(text: str) -> Iterator[tuple[str, bytes]]:
    """Give what both projects send, and what they mean: a byte above 127, written as a character, goes out as two."""
    yield "utf-8", text.encode()
    if not text.isascii() and ord(max(text)) < 256:
        yield "latin-1", text.encode("latin-1")


def spans(log: str) -> list[Span]:
    """Give the parts of messages that a log names."""
    return [Span(int(off), int(length), kind, text) for off, length, kind, text in _SPAN.findall(log)]


def aim(data: bytes, log: str) -> bytes:
    """Make its messages inference calls that name a host, and change nothing else: the log says where what stands."""
    edits: list[tuple[int, int, bytes]] = []
    hosts = [span.start for span in spans(log) if span.kind == "header_field" and span.text.lower() == "host"]
    ends = [int(off) + 2 for off in _LINE_END.findall(log)]
    edits += [(span.start, span.length, b"POST") for span in spans(log) if span.kind == "method"]
    edits += [(span.start, span.length, PATH) for span in spans(log) if span.kind == "url"]
    for end, after in pairwise([*ends, len(data)]):
        if not any(end <= host < after for host in hosts) and data[end - 2 : end] == b"\r\n":
            edits.append((end, 0, HOST))
    for start, length, value in sorted(edits, reverse=True):
        data = data[:start] + value + data[start + length :]
    return data


class Template:
    """What smuggler's files ask for: something that takes a head."""

    header = ""


def smuggler_cases(folder: Path) -> list[Case]:
    """Read a checkout of smuggler: every mutation of its files in the four forms in which it is tried, and two more."""
    found: dict[bytes, Case] = {}
    for path in sorted(folder.glob("configs/*.py")):
        for name, template in mutations(path.read_text(), str(path)).items():
            for kind, body, lengths in _FORMS:
                for length in lengths:
                    text = fill(template.header + "\r\n" + body, length)
                    for encoding, data in encoded(text):
                        found.setdefault(data, Case(f"{path.stem} {name} {kind} {length} {encoding}", data))
    return list(found.values())


def mutations(source: str, name: str) -> dict[str, Template]:
    """Run one of smuggler's files; it may count and fill in templates, and reaches nothing else."""
    found: dict[str, Template] = {}
    names = {"__builtins__": {"range": range}, "Payload": Template, "mutations": found}
    exec(compile(source, name, "exec"), names)  # noqa: S102 - such a file is code, and the caller asked for it
    return found


def fill(text: str, length: int | None) -> str:
    """Write what a template leaves open; the random numbers are the same each time."""
    numbers = (str(random.Random(number).randrange(10**16)) for number in count())
    text = re.sub("__RANDOM__", lambda _: next(numbers), text)
    if length is None:
        text = text.replace("Content-Length: __REPLACE_CL__\r\n", "")
    for mark, value in (
        ("__REPLACE_CL__", str(length)),
        ("__METHOD__", "POST"),
        ("__ENDPOINT__", PATH.decode()),
        ("__HOST__", "h"),
    ):
        text = text.replace(mark, value)
    return text
