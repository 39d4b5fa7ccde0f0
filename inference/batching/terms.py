"""What a caller asks of its call besides the answer: until when, how urgently, and as whom. Filled in by transports."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final

_NONE: Final[Mapping[str, str]] = MappingProxyType({})


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """The terms of one call. The defaults are those of a user's call over V2."""

    deadline: float | None = None
    """When the caller has no more use for an answer, by `time.monotonic()`. The server's own limit holds, too."""
    yielding: bool = False
    """Goes after users' calls, and is the first to be refused: explainers, synthetic calls, batch jobs."""
    key: bytes = b""
    """What a canary sticks to, unless the rollout names a header: the correlation id."""
    headers: Mapping[str, str] = field(default_factory=lambda: _NONE)
    """Of the request; names in lower case, or a mapping that does not mind."""
    size: int = 0
    """Bytes that the call holds while it waits."""
    packed: bool = False
    """Its body is compressed: how long it is shows only when it is read."""
    whole: bool = False
    """It is a batch already, as large as its caller wants it: it is joined with no other."""
    protocol: str = "v2"
    """A metrics label, one of few: v1, v2, grpc, kafka, batch."""
    traceparent: str = ""
    """W3C trace context of the caller, to be continued."""
    others: tuple[str, ...] = ()
    """The same of further callers whose requests are joined in this call already."""


USUAL: Final = Terms()
