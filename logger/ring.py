"""Records from one process to another through shared memory: one writer, one reader, no locks, no system calls.

The writer never waits: a record fits or it does not. A record stays in the ring until the reader releases it, so a
reader that dies loses nothing: its successor reads again from the last release. `logger/outbox.py` writes,
`logger/shipper.py` reads.

Memory: a page of words, then `capacity` bytes of frames. Positions are bytes since the beginning of time. A frame is
its length, its kind and its own position, then the content, padded to 16 bytes. A frame never wraps: a skip frame fills
up the end. The reader's words exist twice, and one word says which are valid, so that the position up to which all is
done and the counts of what became of it change together, whenever the reader dies.
"""

from __future__ import annotations

import struct
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

PAGE: Final = 4096
COUNTS: Final = 100
"""How many counts a reader can keep beside its position."""
_HEAD: Final = 0
_WRITTEN: Final = 8
_VALID: Final = 64
_SLOTS: Final = (1024, 2048)
_FRAME: Final = struct.Struct("<IIQ")
_WORD: Final = struct.Struct("<Q")
_SLOT: Final = struct.Struct(f"<{COUNTS + 2}Q")
_RECORD, _SKIP = 1, 2
_HOT: Final = 1 << 20
"""A quiet service shall touch little memory."""


def _padded(size: int) -> int:
    return (size + 15) & ~15


@dataclass(frozen=True, slots=True)
class Settled:
    """What the reader is done with: position, records, and what became of them."""

    position: int = 0
    records: int = 0
    counts: tuple[int, ...] = (0,) * COUNTS


class Ring:
    """The view of a ring that anybody may have.

    Args:
        memory: writable, shared, zeroed at first use; a page and a multiple of 16 bytes.
    """

    def __init__(self, memory: memoryview) -> None:
        self._memory = memory
        self.capacity = len(memory) - PAGE
        if self.capacity < PAGE or self.capacity % 16:
            raise ValueError(f"expected at least two pages, a multiple of 16 bytes; got {len(memory)}")

    def used(self) -> int:
        """Give the bytes that are written and not released; frames, padding and skips included."""
        return self._word(_HEAD) - self.settled_position()

    def written(self) -> int:
        """Give the number of records ever written."""
        return self._word(_WRITTEN)

    def settled_position(self) -> int:
        """Give the position up to which the reader has released."""
        return self._word(_SLOTS[self._word(_VALID)])

    def settled_records(self) -> int:
        """Give the number of records that the reader has released."""
        return self._word(_SLOTS[self._word(_VALID)] + _WORD.size)

    def settled(self) -> Settled:
        """Give what the reader last released, all of it from one moment."""
        while True:
            valid = self._word(_VALID)
            position, records, *counts = _SLOT.unpack_from(self._memory, _SLOTS[valid])
            if self._word(_VALID) == valid:
                return Settled(position, records, tuple(counts))

    def _word(self, at: int) -> int:
        value: int = _WORD.unpack_from(self._memory, at)[0]
        return value

    def _set(self, at: int, value: int) -> None:
        # Eight aligned bytes by one memcpy: the other process sees the old word or the new one.
        _WORD.pack_into(self._memory, at, value)


class RingWriter(Ring):
    """The writing side. One thread of one process.

    Args:
        hot: bytes beyond which an idle ring starts again at its beginning.
    """

    def __init__(self, memory: memoryview, hot: int = _HOT) -> None:
        super().__init__(memory)
        self._hot, self._spare = hot, self.capacity // 8
        self._head, self._written = self._word(_HEAD), self._word(_WRITTEN)
        self._barrier = threading.Lock()

    @property
    def position(self) -> int:
        """Give the end of the last record; a reader that has released up to it has released all."""
        return self._head

    def append(self, parts: Sequence[bytes], size: int, keep_free: int = 0) -> bool:
        """Write one record made of parts, or refuse at once.

        Args:
            parts: the record's content, piece by piece, copied once.
            size: bytes of all parts together.
            keep_free: bytes of the ring that must stay free afterwards.
        """
        # A slot that is just being written holds the position that is about to be valid: all before it is done with.
        head, tail = self._head, self._word(_SLOTS[self._word(_VALID)])
        need = _FRAME.size + _padded(size)
        at = head % self.capacity
        left = self.capacity - at
        # A skip takes room until the reader has passed it: starting anew must not cost the next records their place.
        anew = head == tail and at > self._hot and left + need + self._spare <= self.capacity - keep_free
        skip = left if need > left or anew else 0
        if head - tail + skip + need > self.capacity - keep_free:
            return False
        memory = self._memory
        if skip:
            _FRAME.pack_into(memory, PAGE + at, skip - _FRAME.size, _SKIP, head)
            head, at = head + skip, 0
        place = PAGE + at
        _FRAME.pack_into(memory, place, size, _RECORD, head)
        place += _FRAME.size
        for part in parts:
            end = place + len(part)
            memory[place:end] = part
            place = end
        self._head, self._written = head + need, self._written + 1
        self._set(_WRITTEN, self._written)
        # Taking and leaving a lock is a full memory barrier: on ARM the reader must not see the head before the frame.
        with self._barrier:
            pass
        self._set(_HEAD, self._head)
        return True


class RingReader(Ring):
    """The reading side. One thread of one process; begins where the last reader released."""

    def __init__(self, memory: memoryview) -> None:
        super().__init__(memory)
        self._valid = self._word(_VALID)
        self._settled = self.settled()
        self._next = self._settled.position

    def take(self, most: int) -> list[tuple[int, bytes]]:
        """Give up to `most` new records, each with the position to release once it is done with.

        Raises:
            ValueError: the memory holds no frame where one has to be; somebody else wrote into it.
        """
        head = self._word(_HEAD)
        found: list[tuple[int, bytes]] = []
        while self._next < head and len(found) < most:
            place = PAGE + self._next % self.capacity
            size, kind, position = _FRAME.unpack_from(self._memory, place)
            if position != self._next or kind not in {_RECORD, _SKIP} or size > self.capacity:
                raise ValueError(f"no frame at position {self._next}: {size} bytes, kind {kind}, stamped {position}")
            if kind == _SKIP and position == self._settled.position:
                # The writer begins anew in an empty ring: the room that it left goes back at once.
                self.release(Settled(position + _FRAME.size + size, self._settled.records, self._settled.counts))
            self._next += _FRAME.size + _padded(size)
            if kind == _RECORD:
                place += _FRAME.size
                found.append((self._next, bytes(self._memory[place : place + size])))
        return found

    def behind(self) -> bool:
        """Tell whether there are records that have not been taken."""
        return self._next < self._word(_HEAD)

    def release(self, settled: Settled) -> None:
        """Free everything up to a position that `take` gave, and publish the counts, in one step.

        A position before the last one frees nothing: what is free stays so.
        """
        if settled.position < self._settled.position:
            settled = Settled(self._settled.position, settled.records, settled.counts)
        self._settled = settled
        spare = 1 - self._valid
        _SLOT.pack_into(self._memory, _SLOTS[spare], settled.position, settled.records, *settled.counts)
        self._set(_VALID, spare)
        self._valid = spare
