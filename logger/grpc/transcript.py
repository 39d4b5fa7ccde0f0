"""What the proxy saw of a gRPC call → the same as a V2 call over REST, so that everything behind it reads both alike.

Pure; runs in the shipper's process. What cannot be read stays as the bytes that it is, under its own content type.
"""

from __future__ import annotations

import gzip
import struct
import zlib
from dataclasses import replace
from typing import Any, Final

import orjson

from inference.http2 import status
from logger.grpc import messages, methods
from logger.grpc.messages import V2Body
from logger.grpc.wire import Malformed
from logger.heads import Fields
from logger.tap import Body, Seen
from streams.events import SYNTHETIC_HEADER, SYNTHETIC_PARAMETER, means_synthetic

_FRAME: Final = struct.Struct(">BI")
_MOST: Final = 16 << 20
"""Bytes that the messages of one side may have after decompression."""
_WINDOW: Final = {b"gzip": 31, b"deflate": 15}
_BINARY: Final = b"application/octet-stream"
_SYNTHETIC: Final = SYNTHETIC_HEADER.encode()
_JSON: Final = b"application/json"
_HEAD_LENGTH: Final = b"inference-header-content-length"
_OF_CONTENT: Final = frozenset({b"content-type", b"content-encoding", b"grpc-encoding", _HEAD_LENGTH})
_VERSION: Final = "ce_modelversion"


class Transcriber:
    """Reads gRPC calls; gives every other exchange back as it is.

    Args:
        cap: bytes that a body may have: one that would become longer is compressed, or stays as it came.
    """

    def __init__(self, cap: int) -> None:
        self._cap = cap

    def __call__(self, seen: Seen) -> Seen:
        """Give an exchange as the tap wants it."""
        if seen.path not in methods.INFERENCE or not _is_grpc(seen):
            return seen
        streamed = seen.path == methods.STREAM
        request, response = self._request(seen), self._response(seen, streamed=streamed)
        changes: dict[str, Any] = {}
        attributes = [("ce_protocol", b"v2")]
        if request is not None:
            changes |= self._changed("request", seen.request_fields, request)
            attributes += _named(request)
            marked = request.parameters.get(SYNTHETIC_PARAMETER) is True
            if marked and not any(
                name == _SYNTHETIC and means_synthetic(value.decode("latin-1")) for name, value in seen.request_fields
            ):
                attributes.append(("ce_synthetic", b"true"))
        if isinstance(response, V2Body):
            changes |= self._changed("response", seen.response_fields, response)
            if response.version:
                # Which version answered counts, not which was asked for.
                attributes = [item for item in attributes if item[0] != _VERSION]
                attributes.append((_VERSION, response.version.encode()))
        elif response is not None:
            body = orjson.dumps({"error": response})
            changes["response"] = Body([body], len(body), len(body))
            changes["response_fields"] = _fields(seen.response_fields, _JSON)
            if streamed and seen.status == status.HTTP[status.Code.OK]:
                changes["status"] = status.HTTP[status.Code.UNKNOWN]
        return replace(seen, attributes=tuple(attributes), **changes)

    def _request(self, seen: Seen) -> V2Body | None:
        try:
            return messages.request_body(unframed(seen.request, seen.request_fields))
        except Malformed:
            return None

    def _response(self, seen: Seen, *, streamed: bool) -> V2Body | str | None:
        """Give the body, or the error, or None where the bytes have to do."""
        if not seen.response.size:
            # No message came: then the status says why.
            text = next((value for name, value in seen.response_fields if name == b"grpc-message" and value), None)
            return None if text is None else status.message_of(text)
        try:
            return messages.response_body(unframed(seen.response, seen.response_fields), streamed=streamed)
        except Malformed:
            return None

    def _changed(self, side: str, fields: Fields, found: V2Body) -> dict[str, Any]:
        """Give one side as V2 over REST has it; nothing when it would be too long even compressed."""
        body, coding = found.body, b""
        if len(body) > self._cap:
            body, coding = gzip.compress(body, 1, mtime=0), b"gzip"
            if len(body) > self._cap:
                return {}
        kept = [*_fields(fields, _BINARY), (_HEAD_LENGTH, b"%d" % found.head)]
        if coding:
            kept.append((b"content-encoding", coding))
        return {side: Body([body], len(body), len(body)), f"{side}_fields": kept}


def unframed(body: Body, fields: Fields) -> list[memoryview]:
    """Give the messages of one side, decompressed.

    Raises:
        Malformed: cut off, in a compression that is not known here, or too long.
    """
    if body.truncated:
        raise Malformed("the capture's limit cut it")
    data = memoryview(body.chunks[0] if len(body.chunks) == 1 else b"".join(body.chunks))
    coding = next((value for name, value in fields if name == b"grpc-encoding"), b"identity")
    found: list[memoryview] = []
    at, left = 0, _MOST
    while at < len(data):
        if len(data) - at < _FRAME.size:
            raise Malformed("the head of a message is cut off")
        compressed, size = _FRAME.unpack_from(data, at)
        at += _FRAME.size
        if compressed > 1 or size > len(data) - at:
            raise Malformed(f"a message of {size} bytes, {len(data) - at} are there")
        message = data[at : at + size]
        if compressed:
            message = _decompressed(message, coding, left)
        at, left = at + size, left - len(message)
        found.append(message)
    return found


def _decompressed(message: memoryview, coding: bytes, most: int) -> memoryview:
    window = _WINDOW.get(coding)
    if window is None:
        raise Malformed(f"compressed with {coding!r}")
    reader = zlib.decompressobj(window)
    try:
        found = reader.decompress(message, max(most, 1))
    except zlib.error as exc:
        raise Malformed(f"broken {coding.decode()}: {exc}") from exc
    if not reader.eof or len(found) > most:
        raise Malformed("cut off, or too long after decompression")
    return memoryview(found)


def _is_grpc(seen: Seen) -> bool:
    return any(name == b"content-type" and value.startswith(b"application/grpc") for name, value in seen.request_fields)


def _fields(fields: Fields, content_type: bytes) -> Fields:
    return [(b"content-type", content_type), *(item for item in fields if item[0] not in _OF_CONTENT)]


def _named(request: V2Body) -> list[tuple[str, bytes]]:
    found = [("ce_modelname", request.model.encode())]
    if request.version:
        found.append((_VERSION, request.version.encode()))
    return found
