"""Keeps the cache of fetched models within its bound: what was used last stays, and what a process uses, too.

Beside each entry lies a file that says its size, is touched by each use, and is locked by every process that uses the
entry: the lock goes with the process, however that ends. Used by `inference/storage/cache.py`.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import threading
import weakref
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from inference.storage import archives

log = logging.getLogger(__name__)

_USE: Final = ".use-"
_TRIM: Final = ".trim"
_GONE: Final = ".incoming-gone-"


class Held:
    """One entry in use; it stays so for as long as what it is kept for lives."""

    def __init__(self, room: Room, entry: str) -> None:
        self._room, self._entry = room, entry
        self._kept = False

    def keep_for(self, owner: object) -> None:
        """Go on until the owner is no more."""
        if self._entry and not self._kept:
            self._kept = True
            weakref.finalize(owner, self._room.release, self._entry).atexit = False

    def close(self) -> None:
        """End the use, unless it is kept."""
        if self._entry and not self._kept:
            self._room.release(self._entry)


class Room:
    """The entries of one cache, as one process uses them. Thread-safe."""

    def __init__(self, cache: Path, most: int) -> None:
        """Keep the entries within so many bytes; 0: all stay, and nothing is locked."""
        self._cache, self._most = cache, most
        self._lock = threading.Lock()
        self._held: dict[str, tuple[int, int]] = {}
        """Entry → its locked file, and how many uses there are."""
        self._ended: deque[str] = deque()
        """Entries of uses that ended, and are yet to be taken off."""

    @contextlib.contextmanager
    def holding(self, path: Path) -> Iterator[Held | None]:
        """Use the entry that a path leads into; None where it is gone. Any path outside of the cache just stays."""
        entry = self._entry(path)
        if entry and not self._take(entry):
            yield None
            return
        held = Held(self, entry)
        try:
            yield held
        finally:
            held.close()

    def added(self, entry: Path) -> None:
        """Note an entry that was just fetched, then make room for it: others go, the least recently used first."""
        if self._most:
            (self._cache / f"{_USE}{entry.name}").write_text(str(_size(entry)))
            self._trim(entry.name)

    def release(self, entry: str) -> None:
        """End a use. Called anywhere, also by the garbage collector in the midst of other calls: never waits."""
        self._ended.append(entry)
        if self._lock.acquire(blocking=False):
            try:
                self._sweep()
            finally:
                self._lock.release()

    def _sweep(self) -> None:
        """Let go of what is no longer used. Under the lock."""
        while self._ended:
            entry = self._ended.popleft()
            file, uses = self._held.pop(entry)
            if uses > 1:
                self._held[entry] = file, uses - 1
            else:
                os.close(file)

    def _entry(self, path: Path) -> str:
        if not self._most or not path.is_relative_to(self._cache) or path == self._cache:
            return ""
        return path.relative_to(self._cache).parts[0]

    def _take(self, entry: str) -> bool:
        with self._lock:
            self._sweep()
            known = self._held.get(entry)
            file = _locked(self._cache / f"{_USE}{entry}", fcntl.LOCK_SH) if known is None else known[0]
            if file is None:
                return False
            os.utime(file)
            if known is None and not (self._cache / entry).is_dir():
                os.close(file)
                return False
            self._held[entry] = file, 1 if known is None else known[1] + 1
        return True

    def _trim(self, newest: str) -> None:
        with self._lock:
            self._sweep()
        trimming = _locked(self._cache / _TRIM, fcntl.LOCK_EX)
        if trimming is None:
            return
        try:
            for left in self._cache.glob(f"{_GONE}*"):
                # Of a process that was killed: nobody else removes anything now.
                archives.discard(left)
            entries = sorted(self._entries())
            total = sum(size for _, _, size in entries)
            for _, name, size in entries:
                if total <= self._most:
                    return
                if name != newest and self._discard(name):
                    total -= size
        finally:
            os.close(trimming)
        if total > self._most:
            log.warning(
                "%s: %d MiB, more than its bound of %d: the rest is in use", self._cache, total >> 20, self._most >> 20
            )

    def _entries(self) -> Iterator[tuple[float, str, int]]:
        """Give when each entry was used last, its name and its size."""
        for path in self._cache.iterdir():
            if path.name.startswith(".") or not path.is_dir():
                continue
            use = self._cache / f"{_USE}{path.name}"
            try:
                yield use.stat().st_mtime, path.name, int(use.read_text())
            except (OSError, ValueError):
                # Fetched without a bound, or just now by a process that was killed.
                yield path.stat().st_mtime, path.name, _size(path)

    def _discard(self, name: str) -> bool:
        """Take an entry away unless somebody uses it."""
        use = self._cache / f"{_USE}{name}"
        file = _locked(use, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if file is None:
            return False
        try:
            gone = self._cache / f"{_GONE}{name}"
            (self._cache / name).rename(gone)
            use.unlink()
            archives.discard(gone)
        finally:
            os.close(file)
        log.info("%s was not used for longest, and is removed from the cache", name)
        return True


def _locked(path: Path, how: int) -> int | None:
    """Open and lock a file; None where another has it locked, and that is not to be waited for."""
    while True:
        file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(file, how)
        except BlockingIOError:
            os.close(file)
            return None
        # Whoever had it locked may have removed it meanwhile.
        with contextlib.suppress(FileNotFoundError):
            if path.stat().st_ino == os.fstat(file).st_ino:
                return file
        os.close(file)


def _size(entry: Path) -> int:
    return sum(each.lstat().st_size for each in entry.rglob("*") if not each.is_dir())
