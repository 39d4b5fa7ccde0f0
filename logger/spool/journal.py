"""Records on disk, oldest first, until they are acknowledged: append, commit, read, acknowledge.

What `commit` has returned for is read again after a crash, whatever the crash did to the rest. The order of operations
is what makes it so: a segment's name is synced before its first record counts; content is synced before a record
counts; the cursor is on disk (`cursor.py`) before a segment below it is removed. A segment that an error or a crash has
touched is never appended to again.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from logger.settings import SpoolSettings
from logger.spool.cursor import Cursor
from logger.spool.disk import Disk
from logger.spool.frames import HEAD_BYTES, frame, next_mark, unframe, wanted

_NAME: Final = re.compile(r"(\d{20})-(\d{6})\.log")
_CHUNK: Final = 1 << 20
_RECORD, _VOID = b"R", b"V"
"""First byte of a frame's content. A void names the first of the ids before it that were abandoned."""


@dataclass(slots=True)
class _Segment:
    """One file: the lowest id it can hold, which attempt with that id it is, and its size."""

    first: int
    attempt: int
    size: int = 0

    @property
    def name(self) -> str:
        return f"{self.first:020d}-{self.attempt:06d}.log"


class Journal:
    """The records of one folder. One thread calls it. Every method may raise OSError; it can be called again then.

    Ids go up by one from record to record, so a gap says exactly how many records were damaged.
    """

    def __init__(self, disk: Disk, settings: SpoolSettings) -> None:
        self._disk, self._settings = disk, settings
        self.damaged = 0
        """Records that were lost to damage on the disk."""
        names = disk.names()
        self._segments = deque(
            _Segment(int(match[1]), int(match[2]), disk.size(match[0]))
            for match in map(_NAME.fullmatch, sorted(names))
            if match
        )
        firsts = [segment.first for segment in self._segments]
        self._place = Cursor(disk, names, sync=settings.sync)
        self.cursor = self._place.load()
        """Every record below it is acknowledged."""
        if firsts and self.cursor < firsts[0]:
            # Only after a power cut without syncs may a segment be gone before the cursor says why.
            self.damaged += firsts[0] - self.cursor if settings.sync else 0
            self.cursor = firsts[0]
        highest = max((identity for segment in self._last(2) for identity, _ in self._scan(segment)), default=-1)
        self._next = max([self.cursor, highest + 1, *([firsts[-1]] if firsts else [])])
        self._writing: _Segment | None = None
        self._void: int | None = None
        self._pending: list[bytes] = []
        self._pending_bytes = 0
        self.committed = self._next
        """Every record below it is safe."""
        self._acknowledged: set[int] = set()
        self._expected = self.cursor
        self._saved = self.cursor
        self._reading: _Segment | None = None
        self._buffer, self._at, self._offset = b"", 0, 0

    @property
    def size(self) -> int:
        """Give what the records take on disk, those on their way included."""
        return sum(segment.size for segment in self._segments) + self._pending_bytes

    @property
    def waiting(self) -> int:
        """Give the number of committed records that are not acknowledged."""
        return self.committed - self.cursor - len(self._acknowledged)

    def tail(self) -> Iterator[bytes]:
        """Give the payloads of the last two segments, to see how far a writer had come. Call before anything else."""
        for segment in self._last(2):
            for _, content in self._scan(segment):
                if content[:1] == _RECORD:
                    yield content[1:]

    def append(self, payload: bytes) -> bool:
        """Take a record, to be safe after the next `commit`; False when there is no room for it."""
        size = HEAD_BYTES + len(payload) + 1
        if self.size + size > self._settings.max_bytes:
            return False
        if self._void is not None:
            self._push(_VOID + self._void.to_bytes(8, "little"))
        self._push(_RECORD + payload)
        return True

    def _push(self, content: bytes) -> None:
        self._pending.append(frame(self._next, content))
        self._pending_bytes += HEAD_BYTES + len(content)
        self._next += 1

    def abandon(self) -> None:
        """Let go of what was appended since the last commit: somebody else takes care of it.

        Parts of it may be on disk and come up after a restart. Their ids are not used again.
        """
        if self._pending and self._void is None:
            self._void = self.committed
        self._pending, self._pending_bytes = [], 0

    def commit(self) -> None:
        """Make every appended record safe.

        Raises:
            OSError: none of them is known to be; they are kept, and tried again by the next call in a new segment.
        """
        if not self._pending:
            return
        # Until the end of this method no segment counts as writable: an error leaves this one behind for good.
        segment, self._writing = self._writing, None
        if segment is None or segment.size >= self._settings.segment_bytes:
            segment = self._begin()
        data = b"".join(self._pending)
        segment.size += len(data)
        try:
            self._disk.append(segment.name, data)
            if self._settings.sync:
                self._disk.sync(segment.name)
        except OSError:
            self._undo(segment, segment.size - len(data))
            raise
        self._pending, self._pending_bytes, self._void = [], 0, None
        self.committed = self._next
        self._writing = segment

    def read(self, most: int) -> list[tuple[int, bytes]]:
        """Give up to `most` committed records that were not read yet, oldest first, each with its id."""
        found: list[tuple[int, bytes]] = []
        while len(found) < most:
            record = self._read_one()
            if record is None:
                break
            identity, content = record
            # An id that was read before: an attempt to commit failed half-way and was made again.
            if identity < self._expected:
                continue
            if content[:1] == _VOID:
                self._pass_over(int.from_bytes(content[1:9], "little"), identity)
                continue
            self._skip_to(identity)
            self._expected += 1
            found.append((identity, content[1:]))
        return found

    def _pass_over(self, first: int, marker: int) -> None:
        """Take ids that were abandoned, and the marker that says so, for done with; what is before them is damaged."""
        self._skip_to(first)
        for identity in range(self._expected, marker + 1):
            self.acknowledge(identity)
        self._expected = marker + 1

    def acknowledge(self, identity: int) -> None:
        """Note that a record is done with. Any order."""
        self._acknowledged.add(identity)
        while self.cursor in self._acknowledged:
            self._acknowledged.remove(self.cursor)
            self.cursor += 1

    def checkpoint(self) -> None:
        """Put the cursor on disk, then remove what lies below it. A crash before that means records come again."""
        if self.cursor != self._saved:
            self._place.save(self.cursor)
            self._saved = self.cursor
        while (
            len(self._segments) > 1
            and self._segments[1].first <= self._saved
            and self._reading is not self._segments[0]
        ):
            self._disk.remove(self._segments[0].name)
            self._segments.popleft()
        if self._writing is None and self._saved == self.committed:
            self._clear()

    def _clear(self) -> None:
        """Remove what will not be written to again: all of it has been read and is done with."""
        self._reading = None
        while self._segments:
            self._disk.remove(self._segments[0].name)
            self._segments.popleft()

    def _undo(self, segment: _Segment, size: int) -> None:
        """Give back the room that a failed attempt took, as far as that is possible."""
        with suppress(OSError):
            if size == 0 and segment is not self._reading:
                self._disk.remove(segment.name)
                self._segments.remove(segment)
            else:
                segment.size = self._disk.size(segment.name)

    def _begin(self) -> _Segment:
        """Start a segment under the first id that it says anything about."""
        self._place.reserve()
        first = self._next - len(self._pending) if self._void is None else self._void
        # An attempt that failed has left a file. It is read as far as it is sound, and not written to again.
        segment = _Segment(first, sum(one.first == first for one in self._segments))
        self._disk.append(segment.name, b"")
        if self._settings.sync:
            self._disk.sync_folder()
        self._segments.append(segment)
        return segment

    def _read_one(self) -> tuple[int, bytes] | None:
        """Give the next sound record; None when all that is committed has been read."""
        if self._reading is None:
            if not self._segments:
                return None
            self._open(self._segments[0])
        while True:
            record = unframe(self._buffer, self._at)
            if record is not None:
                identity, payload, end = record
                if identity >= self.committed:
                    return None
                self._at = end
                return identity, payload
            if self._fill():
                continue
            if len(self._buffer) - self._at >= HEAD_BYTES:
                self._at = next_mark(self._buffer, self._at + 1)
            elif not self._open_next():
                # The end. What was committed and did not come up is not there any more.
                self._skip_to(self.committed)
                return None

    def _fill(self) -> bool:
        """Read on if the frame that begins here may be sound and is not whole; say whether there was more."""
        need = wanted(self._buffer, self._at) - (len(self._buffer) - self._at)
        if need <= 0 or self._reading is None:
            return False
        data = self._disk.read(self._reading.name, self._offset + len(self._buffer), max(need, _CHUNK))
        self._offset += self._at
        self._buffer, self._at = self._buffer[self._at :] + data, 0
        return bool(data)

    def _open(self, segment: _Segment) -> None:
        self._reading = segment
        self._buffer, self._at, self._offset = b"", 0, 0

    def _open_next(self) -> bool:
        place = next(at for at, one in enumerate(self._segments) if one is self._reading)
        if place + 1 == len(self._segments):
            return False
        self._open(self._segments[place + 1])
        return True

    def _skip_to(self, identity: int) -> None:
        """Give up the records before this one: they are damaged."""
        for lost in range(self._expected, identity):
            self.damaged += 1
            self.acknowledge(lost)
        self._expected = max(self._expected, identity)

    def _last(self, count: int) -> list[_Segment]:
        return list(self._segments)[-count:]

    def _scan(self, segment: _Segment) -> Iterator[tuple[int, bytes]]:
        """Give the sound records of a whole segment."""
        data, at = self._disk.read(segment.name, 0, max(segment.size, 1)), 0
        while len(data) - at >= HEAD_BYTES:
            record = unframe(data, at)
            if record is None:
                at = next_mark(data, at + 1)
            else:
                yield record[:2]
                at = record[2]
