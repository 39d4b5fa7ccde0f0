"""Audit mode: an answer ends when its events are safe, or when the wait is over."""

from __future__ import annotations

import asyncio

from logger.account import read
from logger.hold import Hold
from logger.lane import Lane
from logger.outbox import Outbox
from logger.ring import RingReader, Settled
from logger.settings import OutboxSettings
from tests.logger.test_outbox import seen


def release(reader: RingReader, count: int, released: int) -> None:
    """Release so many further exchanges."""
    for position, _ in reader.take(count):
        released += 1
        reader.release(Settled(position, released))


async def looks(count: int = 30) -> None:
    """Let the hold look at the shared memory a few times."""
    for _ in range(count):
        await asyncio.sleep(0.001)


def test_answers_end_in_the_order_in_which_they_become_safe() -> None:
    """Nothing ends before the shipper has released it; then it ends at once."""

    async def run() -> None:
        lane = Lane(1 << 16)
        hold = Hold(lane, Outbox(lane, OutboxSettings(), 2), 60)
        reader, ended = RingReader(lane.memory), list[int]()
        for number in range(4):
            hold.until_safe(seen(), lambda own=number: ended.append(own))  # type: ignore[misc] # a default
        await looks()
        assert ended == []
        release(reader, 2, 0)
        await looks()
        assert ended == [0, 1]
        release(reader, 5, 2)
        await looks()
        assert ended == [0, 1, 2, 3]
        assert read([lane], 1, 2).held == 4
        assert read([lane], 1, 2).late == 0

    asyncio.run(run())


def test_the_wait_is_bounded() -> None:
    """A shipper that never releases holds an answer up for the given time only; the event stays where it is."""

    async def run() -> None:
        lane = Lane(1 << 16)
        hold = Hold(lane, Outbox(lane, OutboxSettings(), 2), 0.01)
        ended = asyncio.Event()
        hold.until_safe(seen(), ended.set)
        await asyncio.wait_for(ended.wait(), 60)

        assert read([lane], 1, 2).late == 1
        assert read([lane], 1, 2).ways[0].in_flight == 2

    asyncio.run(run())


def test_a_full_outbox_is_waited_for() -> None:
    """In audit mode an event waits for room, whole; only when the wait is over is it dropped and counted."""

    async def run() -> None:
        lane = Lane(1 << 16)
        outbox = Outbox(lane, OutboxSettings(capacity=2), 2)
        reader, ended = RingReader(lane.memory), list[int]()
        assert outbox.offer(seen())
        patient, hasty = Hold(lane, outbox, 60), Hold(lane, outbox, 0.01)
        hasty.until_safe(seen(), lambda: ended.append(1))
        await looks(100)
        assert ended == [1]
        assert read([lane], 1, 2).ways[0].dropped == {"queue-full": 2}
        patient.until_safe(seen(), lambda: ended.append(2))
        await looks()
        assert ended == [1]
        release(reader, 1, 0)
        await looks()
        release(reader, 1, 1)
        await looks()
        assert ended == [1, 2]
        assert read([lane], 1, 2).ways[0].captured == 6

    asyncio.run(run())
