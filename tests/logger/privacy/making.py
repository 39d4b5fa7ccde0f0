"""Exchanges, rules and keys for the tests of privacy."""

from __future__ import annotations

import base64
import gzip
import json
import struct
from collections.abc import Sequence
from typing import Any

from logger.heads import Fields
from logger.privacy.cleaner import Cleaner
from logger.privacy.rules import Privacy, read
from logger.privacy.tap import PrivateTap
from logger.settings import TapSettings
from logger.tap import Seen, Tap
from streams.bindings import from_kafka
from streams.events import Event
from streams.keyring import Keyring

AT = 1_700_000_000_000_000
LIMIT = 64 << 10
KEYS = "customers " + base64.b64encode(bytes(range(32))).decode() + "\npayloads " + base64.b64encode(b"p" * 32).decode()
V1 = "/v1/models/m:predict"
V2 = "/v2/models/m/infer"


def rules(*found: dict[str, Any], **more: object) -> Privacy:
    """Read a privacy file of these rules."""
    return read(json.dumps({"keys": "keys", "rules": found, **more}), lambda _path: Keyring.parse(KEYS))


def seen(
    request: bytes, response: bytes = b"", path: str = V1, *fields: tuple[bytes, bytes], status: int = 200
) -> Seen:
    """Make a whole exchange; the fields are those of both messages."""
    found = Seen(
        correlation="c1", method="POST", path=path, started_us=AT, status=status,
        request_fields=[(b"content-type", b"application/json"), *fields],
        response_fields=[(b"content-type", b"application/json"), *fields],
    )  # fmt: skip
    found.request.add(request, LIMIT)
    found.response.add(response, LIMIT)
    return found


def clean(privacy: Privacy, exchange: Seen) -> tuple[bytes, bytes]:
    """Give both bodies after the rules."""
    found = Cleaner(privacy, LIMIT).clean(exchange)
    return b"".join(found.request.chunks), b"".join(found.response.chunks)


def cleaned(privacy: Privacy, body: bytes, path: str = V1, *fields: tuple[bytes, bytes]) -> Any:  # noqa: ANN401 - JSON
    """Give the JSON of a request after the rules."""
    return json.loads(clean(privacy, seen(body, b"", path, *fields))[0])


def private(privacy: Privacy, settings: TapSettings | None = None) -> PrivateTap:
    """Make a tap with rules; its nonces are nothing but zeros."""
    settings = settings or TapSettings(service="s", namespace="n", capture=LIMIT)
    return PrivateTap(Tap(settings), settings, privacy, bytes)


def events(privacy: Privacy, exchange: Seen, settings: TapSettings | None = None) -> list[Event]:
    """Give the events of an exchange as any consumer reads them."""
    tap = private(privacy, settings)
    return [from_kafka(letter.headers, letter.value) for letter in tap.letters(exchange, AT)]


def sent(privacy: Privacy, exchange: Seen, settings: TapSettings | None = None) -> bytes:
    """Give every byte that leaves: keys, headers and values of all records."""
    tap = private(privacy, settings)
    letters = tap.letters(exchange, AT)
    pieces = [
        [letter.key, letter.value, *(name.encode() + value for name, value in letter.headers)] for letter in letters
    ]
    return b"\n".join(piece for letter in pieces for piece in letter)


def v2(*tensors: dict[str, Any], key: str = "inputs") -> bytes:
    """Write a V2 body in JSON."""
    return json.dumps({"model_name": "m", key: tensors}).encode()


def binary(tensors: Sequence[tuple[str, str, list[int], bytes]], key: str = "inputs") -> tuple[bytes, Fields]:
    """Write a V2 body with binary tensors; give it and its header field."""
    items = [
        {"name": name, "datatype": datatype, "shape": shape, "parameters": {"binary_data_size": len(raw)}}
        for name, datatype, shape, raw in tensors
    ]
    head = v2(*items, key=key)
    tail = b"".join(raw for *_, raw in tensors)
    return head + tail, [(b"inference-header-content-length", b"%d" % len(head))]


def texts(*items: bytes) -> bytes:
    """Write the elements of a BYTES tensor."""
    return b"".join(struct.pack("<I", len(item)) + item for item in items)


def packed(body: bytes) -> bytes:
    """Compress."""
    return gzip.compress(body, mtime=0)
