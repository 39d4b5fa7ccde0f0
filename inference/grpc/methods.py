"""What the server needs of a method, and what a method is given of a call. Next: `connection.py` serves them."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from inference.grpc.statuses import Refused
from inference.http2.status import Code


class Asked(Protocol):
    """A call, as its method sees it."""

    head: Mapping[str, str]
    """Its metadata, without what is binary or gRPC's own; names in lower case. Shared: not to be changed."""
    deadline: float | None
    """When its caller has no more use for an answer, by `time.monotonic()`."""

    def keep(self, size: int) -> None:
        """Go on counting a message that was taken, of so many bytes: it waits, and its client is to be slowed down."""

    def let_go(self, size: int) -> None:
        """Count it no more: something else does, or it is gone."""


Unary = Callable[[bytes, Asked], Awaitable[bytes]]
"""One message in, one out. What it raises becomes the call's status; it is cancelled when nobody waits any more."""
Streaming = Callable[[AsyncIterator[bytes], Asked], AsyncGenerator[bytes, None]]
"""Any number in, any number out. As above."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Method:
    """One of the two."""

    name: str
    """For the log."""
    unary: Unary | None = None
    streaming: Streaming | None = None


Methods = Mapping[bytes, Method]
"""By path: `/package.Service/Method`."""


def of_service(service: str, unary: Mapping[str, Unary], streaming: Mapping[str, Streaming]) -> dict[bytes, Method]:
    """Give a service's methods by their paths."""
    found = {name: Method(name=name, unary=handler) for name, handler in unary.items()}
    found |= {name: Method(name=name, streaming=handler) for name, handler in streaming.items()}
    return {f"/{service}/{name}".encode(): method for name, method in found.items()}


async def only(messages: AsyncIterator[bytes]) -> bytes:
    """Give the one message of a call that is to have one.

    Raises:
        Refused: none, or several.
    """
    found = None
    async for data in messages:
        if found is not None:
            raise Refused(Code.UNIMPLEMENTED, "expected one message, got several")
        found = data
    if found is None:
        raise Refused(Code.UNIMPLEMENTED, "expected one message, got none")
    return found
