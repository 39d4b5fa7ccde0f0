"""The journal against a model, on a disk that fails, tears and forgets; and on a real one."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from logger.errors import SpoolInUse
from logger.settings import SpoolSettings
from logger.spool.disk import Folder
from logger.spool.frames import HEAD_BYTES
from logger.spool.journal import Journal
from tests.logger.spool.crashing import CrashingDisk

SMALL = SpoolSettings(segment_bytes=2_000, max_bytes=40_000)


class JournalMachine(RuleBasedStateMachine):
    """Any order of appends, commits, reads, acknowledgements, failures, restarts and power cuts.

    The oracle: what a commit returned for comes out again until it is acknowledged and the acknowledgement is on disk;
    in order, unchanged, and nothing else comes out.
    """

    def __init__(self) -> None:
        super().__init__()
        self.disk = CrashingDisk()
        self.journal = Journal(self.disk, SMALL)
        self.count = 0
        self.appended: list[bytes] = []
        self.safe: list[bytes] = []
        self.everything: set[bytes] = set()
        self.read: dict[int, bytes] = {}
        self.acknowledged: set[bytes] = set()
        self.last_read = b""

    @rule(size=st.integers(0, 900))
    def append(self, size: int) -> None:
        """A record is taken while there is room, the one being written included."""
        payload = b"%08d" % self.count + b"\xf5SL1"[: size % 5] * (size // 4)
        room = SMALL.max_bytes - self.journal.size
        taken = self.journal.append(payload)

        assert taken == (HEAD_BYTES + 1 + len(payload) <= room)
        if taken:
            self.count += 1
            self.appended.append(payload)
            self.everything.add(payload)

    @rule(fail=st.sampled_from([0, 0, 0, 1, 2, 3, 4]))
    def commit(self, fail: int) -> None:
        """After a commit that returned, all that was appended is safe; one that failed can be called again."""
        self.disk.fail = fail
        try:
            self.journal.commit()
        except OSError:
            pass
        else:
            self.safe += self.appended
            self.appended = []
        finally:
            self.disk.fail = 0

    @rule()
    def abandon(self) -> None:
        """What was appended and not committed is given up; it may come up once, and is never taken for damage."""
        self.journal.abandon()
        self.appended = []

    @rule(most=st.integers(1, 5))
    def take(self, most: int) -> None:
        """Records come in the order in which they were appended, each once."""
        for identity, payload in self.journal.read(most):
            assert payload in self.everything
            assert payload > self.last_read
            self.last_read = payload
            self.read[identity] = payload

    @precondition(lambda self: self.read)
    @rule(data=st.data())
    def acknowledge(self, data: st.DataObject) -> None:
        """One of them, or all, in any order."""
        one = data.draw(st.none() | st.sampled_from(sorted(self.read)))
        for identity in sorted(self.read, reverse=True) if one is None else [one]:
            self.acknowledged.add(self.read.pop(identity))
            self.journal.acknowledge(identity)

    @rule(fail=st.sampled_from([0, 0, 0, 1, 2]))
    def checkpoint(self, fail: int) -> None:
        """It may fail at any step."""
        self.disk.fail = fail
        try:
            self.journal.checkpoint()
        except OSError:
            pass
        finally:
            self.disk.fail = 0

    @rule()
    def restart(self) -> None:
        """The process dies: what was written stays, what was only appended is gone."""
        self._reopened(self.disk)

    @rule(data=st.data())
    def power_cut(self, data: st.DataObject) -> None:
        """The machine dies: what was not synced may be there, gone or torn."""
        self._reopened(self.disk.crash(lambda: data.draw(st.booleans()), lambda most: data.draw(st.integers(0, most))))

    @invariant()
    def sane(self) -> None:
        """Sizes are never negative, and a sound disk damages nothing."""
        assert self.journal.size >= 0
        assert self.journal.waiting >= 0
        assert self.journal.damaged == 0

    def teardown(self) -> None:
        """At the end everything that was safe and is not acknowledged comes out."""
        self._reopened(self.disk)
        self.journal.commit()
        rest = [payload for _, payload in self.journal.read(10**6)]
        missing = set(self.safe) - self.acknowledged - set(rest)

        assert not missing
        assert rest == sorted(set(rest))

    def _reopened(self, disk: CrashingDisk) -> None:
        self.disk = disk
        self.journal = Journal(disk, SMALL)
        self.appended, self.read, self.last_read = [], {}, b""


TestJournal = JournalMachine.TestCase
TestJournal.settings = settings(max_examples=400, stateful_step_count=50)


def filled(disk: Any, count: int, config: SpoolSettings = SMALL) -> Journal:  # noqa: ANN401 - either disk
    """Give a journal with so many committed records."""
    journal = Journal(disk, config)
    for number in range(count):
        assert journal.append(b"record %03d" % number)
        journal.commit()
    return journal


def fill(journal: Journal) -> None:
    """Commit records until that fails."""
    for number in itertools.count():
        journal.append(b"record %05d" % number)
        journal.commit()


@given(st.data())
def test_damage_costs_the_damaged_records_alone(data: st.DataObject) -> None:
    """Bits that turn on the disk lose at most the records that they are in; those are counted, all others come."""
    disk = CrashingDisk()
    filled(disk, 100)
    names = sorted(name for name in disk.names() if name.endswith(".log"))
    hit = set()
    for _ in range(data.draw(st.integers(1, 5))):
        name = data.draw(st.sampled_from(names))
        at = data.draw(st.integers(0, disk.size(name) - 1))
        disk.damage(name, at)
        hit.add((name, at // (HEAD_BYTES + 11)))
    journal = Journal(disk, SMALL)
    found = [payload for _, payload in journal.read(1_000)]

    assert 100 - len(hit) <= len(found)
    assert found == sorted(found)
    # Damage at the very end cannot be told from an end.
    assert len(found) + journal.damaged == journal.committed


def test_what_is_delivered_is_removed() -> None:
    """The disk holds what waits, and at most one file more."""
    disk = CrashingDisk()
    journal = filled(disk, 400)
    before = journal.size
    for identity, _ in journal.read(399):
        journal.acknowledge(identity)
    journal.checkpoint()

    assert journal.waiting == 1
    assert before > 5 * SMALL.segment_bytes
    assert journal.size <= 2 * SMALL.segment_bytes


@pytest.mark.parametrize("segment_bytes", [2_000, 1 << 20])
def test_a_full_disk_can_be_emptied(segment_bytes: int) -> None:
    """Not a byte is free, and attempts go on: what has been delivered is removed all the same, and room is used again.

    The disk may hold many files or a single one.
    """
    disk = CrashingDisk()
    disk.most = 40_000
    config = SpoolSettings(segment_bytes=segment_bytes, max_bytes=1 << 30)
    journal = Journal(disk, config)
    with pytest.raises(OSError, match="no space"):
        fill(journal)
    count = journal.waiting
    for _ in range(100):
        journal.abandon()
        journal.append(bytes(20_000))
        with pytest.raises(OSError, match="no space"):
            journal.commit()
    journal.abandon()
    files = len(disk.names())
    found = journal.read(count)
    for identity, _ in found:
        journal.acknowledge(identity)
    journal.checkpoint()
    journal.append(bytes(20_000))
    journal.commit()

    assert [payload for _, payload in found] == [b"record %05d" % number for number in range(count)]
    assert [payload for _, payload in journal.read(9)] == [bytes(20_000)]
    assert journal.damaged == 0
    assert files < 40_000 // min(segment_bytes, 40_000) + 5
    assert journal.size <= 40_000


def test_a_segment_goes_only_after_the_cursor_is_safe() -> None:
    """The worst power cut after a checkpoint that removed files: the journal knows that they were done with."""
    disk = CrashingDisk()
    journal = filled(disk, 400)
    for identity, _ in journal.read(390):
        journal.acknowledge(identity)
    journal.checkpoint()
    after = Journal(disk.crash(lambda: False, lambda _most: 0), SMALL)
    found = [payload for _, payload in after.read(1_000)]

    assert found == [b"record %03d" % number for number in range(390, 400)]
    assert after.damaged == 0


def test_a_real_folder(tmp_path: Path) -> None:
    """On a real disk, through restarts: committed records come again until the cursor has passed them."""
    folder = Folder(tmp_path / "spool")
    journal = filled(folder, 300)
    for identity, _ in journal.read(120):
        journal.acknowledge(identity)
    journal.checkpoint()
    folder.close()
    again = Folder(tmp_path / "spool")
    journal = Journal(again, SMALL)
    found = [payload for _, payload in journal.read(1_000)]
    again.close()

    assert found == [b"record %03d" % number for number in range(120, 300)]
    assert (tmp_path / "spool" / "lock").stat().st_mode & 0o077 == 0


def test_one_process_at_a_time(tmp_path: Path) -> None:
    """A second writer is refused with the folder's name; when the first is gone the next one may."""
    first = Folder(tmp_path)
    with pytest.raises(SpoolInUse, match=str(tmp_path)):
        Folder(tmp_path)
    first.close()

    Folder(tmp_path).close()
