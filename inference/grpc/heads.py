"""Heads of calls: what a request's says, and the blocks of fields that answers are made of. Pure.

A head that comes again on a connection is read once. Source: gRPC over HTTP/2, "Requests" and "Responses".
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Mapping
from typing import Final

from inference.grpc.methods import Method, Methods
from inference.http2.fields import Fields, Head, block_of, identity
from inference.http2.status import Code, seconds_of, trailers

REQUEST_ID: Final = "x-request-id"
CODINGS: Final = (b"gzip", b"deflate")
_CONTENT_TYPE: Final = b"application/grpc"
_OWN: Final = frozenset({b"te", b"content-type"})
_HEAD: Final[Fields] = [(b":status", b"200"), (b"content-type", _CONTENT_TYPE)]
_HEADS: Final = {
    coding: block_of([*_HEAD, (b"grpc-accept-encoding", b"identity, deflate, gzip"), *named])
    for coding, named in [(b"", []), *((coding, [(b"grpc-encoding", coding)]) for coding in CODINGS)]
}
"""By the coding of the messages."""
OK: Final = block_of([(b"grpc-status", b"0")])
NO_GRPC: Final = block_of([(b":status", b"415"), (b"content-type", b"application/json")])
"""The beginning of an answer to what is no gRPC."""


class Wanted:
    """What a request's head says. Never changed: calls with the same head share it."""

    __slots__ = ("answer", "coding", "grpc", "identified", "metadata", "method", "packing", "path", "timeout_s")

    def __init__(self, head: Head, methods: Methods) -> None:
        found = head.found
        self.path = found.get(b":path", b"")
        self.grpc = found.get(b":method") == b"POST" and _is_grpc(found.get(b"content-type", b""))
        """Whether it is a call at all."""
        self.method: Method | None = methods.get(self.path)
        self.timeout_s = seconds_of(found.get(b"grpc-timeout"))
        self.coding = found.get(b"grpc-encoding", b"identity")
        """Of the request's messages that are marked so."""
        accepted = {each.strip() for each in found.get(b"grpc-accept-encoding", b"").split(b",")}
        # Packing costs more than it saves on most networks: who packs has said that it does not here.
        self.packing = self.coding if self.coding in CODINGS and self.coding in accepted else b""
        """Of the answer's messages; empty when they go as they are."""
        self.metadata = _metadata(head)
        given = self.metadata.get(REQUEST_ID)
        # gRPC takes more from a peer than it lets us send: what is no printable ASCII would end the call.
        self.identified = given is not None and given.isascii() and given.isprintable()
        """Whether the answer says whose it is."""
        self.answer = _HEADS[self.packing] + (identity(found[REQUEST_ID.encode()]) if self.identified else b"")
        """The head of the answer."""


def ending(code: Code, text: str, metadata: Mapping[str, str | bytes]) -> bytes:
    """Write trailers that say how a call ended."""
    own = [(name.encode(), _value(value)) for name, value in metadata.items()]
    return block_of([*trailers(code, text), *own])


def _value(value: str | bytes) -> bytes:
    return value.encode() if isinstance(value, str) else b64encode(value).rstrip(b"=")


def _is_grpc(content_type: bytes) -> bool:
    return content_type.startswith(_CONTENT_TYPE) and content_type[len(_CONTENT_TYPE) :][:1] in {b"", b"+", b";"}


def _metadata(head: Head) -> dict[str, str]:
    """Give the metadata, without what is binary and what is gRPC's own."""
    return {
        name.decode("latin-1"): value.decode("latin-1")
        for name, value in head.plain
        if name not in _OWN and not name.startswith(b"grpc-") and not name.endswith(b"-bin")
    }
