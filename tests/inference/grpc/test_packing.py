"""Which messages the event loop unpacks by itself, and which it leaves to a thread."""

from __future__ import annotations

import asyncio
import gzip
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest

from inference.errors import BodyTooLarge
from inference.grpc.packing import unpacked

_KIB, _NO_BOUND = 1_024, -1


class _Counted(ThreadPoolExecutor):
    """Counts what it is given to do."""

    given = 0

    def submit(self, *args: Any, **kwargs: Any) -> Future[Any]:  # noqa: ANN401 - the library's
        self.given += 1
        return super().submit(*args, **kwargs)


def _unpacked(message: bytes, most: int) -> tuple[bytes, int]:
    """Unpack on an event loop; give the message, and how often a thread helped."""

    async def run() -> tuple[bytes, int]:
        threads = _Counted(1)
        asyncio.get_running_loop().set_default_executor(threads)
        return await unpacked(message, b"gzip", most), threads.given

    return asyncio.run(run())


@pytest.mark.parametrize(
    ("size", "helped"), [(0, 0), (64 * _KIB, 0), (64 * _KIB + 1, 1), (12_000 * _KIB, 1), (20_000 * _KIB, 1)]
)
@pytest.mark.parametrize("most", [_NO_BOUND, 64 << 20])
def test_what_becomes_large_is_for_a_thread(size: int, helped: int, most: int) -> None:
    """However few bytes a message has packed: 12 KiB of them are 12 MiB, for which the loop would hold all calls up."""
    found, given = _unpacked(gzip.compress(bytes(size)), most)

    assert found == bytes(size)
    assert given == helped


@pytest.mark.parametrize("most", [1_000, 64 * _KIB, 100 * _KIB])
def test_the_bound_holds_on_both_ways(most: int) -> None:
    """A message that would be larger than the bound is refused, with the bound, whoever unpacks it."""
    with pytest.raises(BodyTooLarge) as caught:
        _unpacked(gzip.compress(bytes(most + 1)), most)

    assert caught.value.limit == most
