"""The seam to the file system: the few calls that the spool makes, each with what it promises after a crash.

A crash may keep or lose any part of what was written and not synced, and any change of the folder that was not synced.
Tests put a disk here that does so; `Folder` is the real one.
"""

from __future__ import annotations

import fcntl
import os
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from logger.errors import SpoolInUse


class Disk(Protocol):
    """A folder with files. Every call may raise OSError."""

    def names(self) -> list[str]:
        """Give the names of the files."""
        ...

    def size(self, name: str) -> int:
        """Give a file's bytes."""
        ...

    def read(self, name: str, offset: int, most: int) -> bytes:
        """Give up to `most` bytes from an offset; fewer at the end."""
        ...

    def append(self, name: str, data: bytes) -> None:
        """Write at the end of a file, which is made if need be. On an error any part may have been written."""
        ...

    def sync(self, name: str) -> None:
        """Return when a file's content will outlive a crash. After an error nobody knows what was kept."""
        ...

    def sync_folder(self) -> None:
        """Return when the creations, renames and removals so far will outlive a crash."""
        ...

    def rename(self, old: str, new: str) -> None:
        """Give a file another name; what had that name is gone. Either all of it happens or nothing."""
        ...

    def remove(self, name: str) -> None:
        """Remove a file."""
        ...

    def forget(self, name: str) -> None:
        """Let go of what is held for a file that will not be written again."""
        ...


class Folder:
    """A real folder, for one process at a time.

    Raises:
        SpoolInUse: another process has it.
        OSError: it cannot be made or locked.
    """

    def __init__(self, path: Path) -> None:
        path.mkdir(parents=True, exist_ok=True)
        self._path = path
        self._open: dict[str, int] = {}
        self._folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        self._lock = os.open(path / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as exc:
            self.close()
            raise SpoolInUse(str(path)) from exc

    def close(self) -> None:
        """Let go of everything, the lock included."""
        for handle in (*self._open.values(), self._folder, self._lock):
            with suppress(OSError):
                os.close(handle)
        self._open = {}

    def names(self) -> list[str]:
        """See `Disk`."""
        return [path.name for path in self._path.iterdir() if path.name != "lock"]

    def size(self, name: str) -> int:
        """See `Disk`."""
        return (self._path / name).stat().st_size

    def read(self, name: str, offset: int, most: int) -> bytes:
        """See `Disk`."""
        return os.pread(self._handle(name), most, offset)

    def append(self, name: str, data: bytes) -> None:
        """See `Disk`."""
        handle, left = self._handle(name), memoryview(data)
        while left:
            left = left[os.write(handle, left) :]

    def sync(self, name: str) -> None:
        """See `Disk`."""
        os.fdatasync(self._handle(name))

    def sync_folder(self) -> None:
        """See `Disk`."""
        os.fsync(self._folder)

    def rename(self, old: str, new: str) -> None:
        """See `Disk`."""
        self.forget(old)
        self.forget(new)
        (self._path / old).replace(self._path / new)

    def remove(self, name: str) -> None:
        """See `Disk`."""
        self.forget(name)
        (self._path / name).unlink()

    def forget(self, name: str) -> None:
        """See `Disk`."""
        handle = self._open.pop(name, None)
        if handle is not None:
            os.close(handle)

    def _handle(self, name: str) -> int:
        if name not in self._open:
            self._open[name] = os.open(self._path / name, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
        return self._open[name]
