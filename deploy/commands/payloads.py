"""`sidelight payloads`: reads the payload topic. Bodies are shown only when asked for."""

from __future__ import annotations

import argparse
import codecs
import zlib
from dataclasses import replace

from deploy.listing import View, add_follow_arguments, print_events, source
from deploy.privacy import add_keys_argument, opening_keys
from streams import envelope
from streams.errors import Sealed
from streams.events import (
    ABORTED,
    CONTENT_ENCODING,
    INFERENCE_HEADER_LENGTH,
    LATENCY_US,
    METHOD,
    PATH,
    STATUS_CODE,
    SYNTHETIC,
    TRUNCATED,
    Event,
)
from streams.keyring import Keyring

HELP = "show logged requests and responses"
EXAMPLES = """\
  sidelight payloads --follow
  sidelight payloads --since 10m --service default/iris --bodies
  sidelight payloads --from-beginning --json --count 10
  sidelight payloads --bodies --keys payloads.keys
  sidelight payloads --kafka broker:9093 --kafka-ca-file ca.crt --kafka-sasl-mechanism SCRAM-SHA-512 \\
      --kafka-username-file username --kafka-password-file password"""

_GZIP = b"\x1f\x8b"
_MOST = 64 << 10
"""Bytes of a body that are shown: a terminal is no place for more."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    add_follow_arguments(parser)
    parser.add_argument("--bodies", action="store_true", help="show the bodies, too: they may hold personal data")
    add_keys_argument(parser)


def run(arguments: argparse.Namespace) -> int:
    """Do it."""
    found, keys = source(arguments), opening_keys(arguments)
    with_bodies = View(
        text=lambda event: f"{shown(event)}\n{opened_body(event, keys)}", json=lambda event: readable(event, keys)
    )
    without = View(text=shown, json=lambda event: replace(event, data=None))
    return print_events(arguments, found, (found.topics.payloads,), with_bodies if arguments.bodies else without)


def shown(event: Event) -> str:
    """Give a payload event as one line: time, service, type, what was called, status, latency, size, correlation id."""
    latency = event.number(LATENCY_US)
    marks = [mark for mark in (SYNTHETIC, TRUNCATED, ABORTED) if event.text(mark) not in {"", "false"}]
    facts = (
        event.time or "-", event.service(), f"{event.type.rpartition('.')[2]:<8}", event.text(METHOD), event.text(PATH),
        event.text(STATUS_CODE), "" if latency is None else f"{latency / 1000:.1f} ms", f"{len(event.data or b'')} B",
        *marks, f"[{event.correlation()}]",
    )  # fmt: skip
    return "  ".join(fact for fact in facts if fact)


def readable(event: Event, keys: Keyring) -> Event:
    """Give an event with its data opened, when there is a key for it; else as it is."""
    try:
        return envelope.opened(event, keys)
    except Sealed:
        return event


def opened_body(event: Event, keys: Keyring) -> str:
    """Give a body as text, or why it cannot be opened."""
    try:
        return body(envelope.opened(event, keys))
    except Sealed as exc:
        return f"({len(event.data or b'')} bytes, {exc})"


def body(event: Event) -> str:
    """Give a body as text: decompressed, and of a V2 body with binary tensors the JSON part."""
    data, cut = event.data or b"", False
    if data[:2] == _GZIP or event.text(CONTENT_ENCODING).lower() == "gzip":
        try:
            data = zlib.decompressobj(wbits=31).decompress(data, _MOST + 1)
        except zlib.error as exc:
            return f"({len(data)} bytes, broken gzip: {exc})"
        cut = len(data) > _MOST
    head = event.number(INFERENCE_HEADER_LENGTH)
    part = data[: _MOST if head is None else min(head, _MOST)]
    try:
        # Incremental, as a limit may have cut the last character in two: ours, or the logger's.
        text = codecs.getincrementaldecoder("utf-8")().decode(part)
    except UnicodeDecodeError:
        text = ""
    if part and not text:
        return f"({'at least ' if cut else ''}{len(data)} bytes, no text)"
    if len(part) == len(data):
        return text or "(empty)"
    rest = f"{'at least ' if cut else ''}{len(data) - len(part)} bytes of tensors"
    return f"{text} (and {'more' if len(part) == _MOST else rest})"
