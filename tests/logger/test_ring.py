"""The ring: what goes in comes out, whole and in order, or is refused; a reader's successor misses nothing."""

from __future__ import annotations

import os
from collections import deque

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from logger.ring import COUNTS, PAGE, Ring, RingReader, RingWriter, Settled

CAPACITY = PAGE
HOT = 512


class RingMachine(RuleBasedStateMachine):
    """A writer and a reader over a small ring, beside a queue that cannot be wrong."""

    def __init__(self) -> None:
        super().__init__()
        self.memory = memoryview(bytearray(PAGE + CAPACITY))
        self.writer, self.reader = RingWriter(self.memory, HOT), RingReader(self.memory)
        self.waiting: deque[bytes] = deque()
        self.taken: deque[tuple[int, bytes]] = deque()
        self.released = 0

    @rule(parts=st.lists(st.binary(max_size=700), max_size=3), keep_free=st.sampled_from([0, 512]))
    def write(self, parts: list[bytes], keep_free: int) -> None:
        """A record fits, or it is refused and nothing changes; an empty ring takes all that can ever fit."""
        size, before = sum(map(len, parts)), self.writer.used()
        accepted = self.writer.append(parts, size, keep_free)
        if accepted:
            self.waiting.append(b"".join(parts))

        assert self.writer.used() <= CAPACITY - (keep_free if accepted else 0)
        assert accepted or self.writer.used() == before
        assert accepted or before or size + 32 > (CAPACITY - keep_free) // 2

    @rule(most=st.integers(1, 4))
    def read(self, most: int) -> None:
        """Records come in order, whole."""
        for position, record in self.reader.take(most):
            assert record == self.waiting.popleft()
            self.taken.append((position, record))

    @precondition(lambda self: self.taken)
    @rule()
    def release(self) -> None:
        """What was taken first is released first."""
        position, _ = self.taken.popleft()
        self.released += 1
        self.reader.release(Settled(position, self.released, (self.released, *[0] * (COUNTS - 1))))

    @rule()
    def reader_dies(self) -> None:
        """The next reader begins with what was taken and not released, and knows the counts."""
        self.reader = RingReader(self.memory)
        self.waiting.extendleft(record for _, record in reversed(self.taken))
        self.taken.clear()

        assert self.reader.settled().counts[0] == self.released

    @rule()
    def writer_dies(self) -> None:
        """The next writer goes on behind the last whole record."""
        self.writer = RingWriter(self.memory, HOT)

    @invariant()
    def counted(self) -> None:
        """The number of records in the ring is known at any time."""
        assert self.writer.written() - self.writer.settled_records() == len(self.waiting) + len(self.taken)
        assert self.reader.behind() == bool(self.waiting)


TestRing = RingMachine.TestCase
TestRing.settings = settings(max_examples=150, stateful_step_count=60)


def test_a_quiet_ring_refuses_nothing_and_stays_small() -> None:
    """One small record at a time, released at once: none is refused for want of room, and little memory is touched."""
    capacity = 1 << 20
    memory = memoryview(bytearray(PAGE + capacity))
    writer, reader = RingWriter(memory, 1 << 14), RingReader(memory)
    highest = 0
    for number in range(20_000):
        assert writer.append([b"x" * 1_000], 1_000, capacity // 8)
        ((position, _),) = reader.take(2)
        reader.release(Settled(position, number + 1))
        highest = max(highest, position % capacity)

    assert highest < capacity // 4 + 2_048


def test_half_a_record_is_never_read() -> None:
    """What a writer had begun when it died is not there for the reader, and is overwritten by its successor."""
    memory = memoryview(bytearray(PAGE + CAPACITY))
    writer, reader = RingWriter(memory), RingReader(memory)
    writer.append([b"whole"], 5)
    memory[PAGE + 32 : PAGE + 64] = b"\xff" * 32
    RingWriter(memory).append([b"next"], 4)

    assert [record for _, record in reader.take(10)] == [b"whole", b"next"]


def test_foreign_bytes_are_an_error() -> None:
    """A frame that does not carry its own position is not followed anywhere."""
    memory = memoryview(bytearray(PAGE + CAPACITY))
    writer, reader = RingWriter(memory), RingReader(memory)
    writer.append([b"whole"], 5)
    memory[PAGE + 8] = 1

    with pytest.raises(ValueError, match="no frame at position 0"):
        reader.take(1)


@pytest.mark.parametrize("size", [0, PAGE, 2 * PAGE - 16, 2 * PAGE + 8])
def test_memory_of_a_wrong_size_is_refused(size: int) -> None:
    """Too little, or no multiple of a frame's padding."""
    with pytest.raises(ValueError, match="expected at least two pages"):
        Ring(memoryview(bytearray(size)))


def test_two_processes() -> None:
    """A child writes while the parent reads, through many turns of the ring: every byte arrives, in order."""
    import mmap  # noqa: PLC0415 - only here

    shared = mmap.mmap(-1, PAGE + 16 * PAGE)
    memory = memoryview(shared)
    count = 20_000
    child = os.fork()
    if not child:
        writer = RingWriter(memory)
        for number in range(count):
            parts = [b"%d:" % number, b"x" * (number % 509)]
            while not writer.append(parts, sum(map(len, parts))):
                pass
        os._exit(0)
    reader, seen = RingReader(memory), 0
    while seen < count:
        for position, record in reader.take(64):
            assert record == b"%d:%b" % (seen, b"x" * (seen % 509))
            seen += 1
            reader.release(Settled(position, seen))

    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert reader.take(1) == []


@pytest.mark.parametrize("burst", [1, 7, 40])
def test_burst_after_quiet_is_whole(burst: int) -> None:
    """However far a quiet ring has got, the next burst finds room, though none of it is released yet."""
    memory = memoryview(bytearray(PAGE + 64 * PAGE))
    writer, reader = RingWriter(memory, PAGE), RingReader(memory)
    content, reserve = b"x" * 700, 8 * PAGE
    refused = 0
    for quiet in range(1, 700):
        refused += sum(not writer.append([content], len(content), reserve) for _ in range(burst))
        position = reader.take(1_000)[-1][0]
        reader.release(Settled(position, quiet * burst))

    assert refused == 0


def test_room_of_a_new_beginning_comes_back_at_once() -> None:
    """What a quiet ring leaves behind as it begins anew is free as soon as the reader has looked."""
    memory = memoryview(bytearray(PAGE + 64 * PAGE))
    writer, reader = RingWriter(memory, PAGE), RingReader(memory)
    while writer.append([b"y"], 1) and writer.used() < 40 * PAGE:
        reader.release(Settled(reader.take(1)[0][0], writer.written()))
    ((position, record),) = reader.take(1)

    assert writer.position == position > 8 * PAGE
    assert record == b"y"
    assert writer.used() == 32
