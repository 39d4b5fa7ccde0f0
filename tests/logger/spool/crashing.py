"""A disk in memory that crashes like a real one: what was not synced is kept, lost or torn as the test decides."""

from __future__ import annotations

import errno
from collections.abc import Callable
from dataclasses import dataclass, field

SECTOR = 512


@dataclass
class File:
    """Content as programs see it, and the part of it that is safe."""

    content: bytearray = field(default_factory=bytearray)
    safe: int = 0
    lost: list[range] = field(default_factory=list)
    """What a failed sync gave up: programs still see it, and no later sync writes it."""


class CrashingDisk:
    """See `logger.spool.disk.Disk`.

    `fail` makes the next calls raise EIO, an append after having written a part. `crash` gives the disk that the next
    process finds. `most` is how many bytes it holds.
    """

    def __init__(self) -> None:
        self._files: dict[str, File] = {}
        self._safe_names: dict[str, File] = {}
        self.fail = 0
        self.most = 1 << 40

    def names(self) -> list[str]:
        """See `Disk`."""
        return list(self._files)

    def size(self, name: str) -> int:
        """See `Disk`."""
        return len(self._files[name].content)

    def read(self, name: str, offset: int, most: int) -> bytes:
        """See `Disk`."""
        return bytes(self._files[name].content[offset : offset + most])

    def append(self, name: str, data: bytes) -> None:
        """See `Disk`."""
        if self._failing():
            self._files.setdefault(name, File()).content += data[: len(data) // 2]
            raise OSError(errno.ENOSPC, "no space left")
        room = self.most - sum(len(file.content) for file in self._files.values())
        self._files.setdefault(name, File()).content += data[:room]
        if len(data) > room:
            raise OSError(errno.ENOSPC, "no space left")

    def sync(self, name: str) -> None:
        """See `Disk`. As on Linux, a failed sync forgets that anything was to be written."""
        file = self._files[name]
        dirty, file.safe = range(file.safe, len(file.content)), len(file.content)
        if self._failing():
            file.lost.append(dirty)
            raise OSError(errno.EIO, "input/output error")

    def sync_folder(self) -> None:
        """See `Disk`."""
        if self._failing():
            raise OSError(errno.EIO, "input/output error")
        self._safe_names = dict(self._files)

    def rename(self, old: str, new: str) -> None:
        """See `Disk`."""
        self._files[new] = self._files.pop(old)

    def remove(self, name: str) -> None:
        """See `Disk`."""
        del self._files[name]

    def forget(self, name: str) -> None:
        """See `Disk`."""

    def crash(self, coin: Callable[[], bool], cut: Callable[[int], int]) -> CrashingDisk:
        """Give what a power cut leaves: unsynced changes of the folder by a toss, unsynced content torn and holed."""
        after = CrashingDisk()
        for name in self._safe_names.keys() | self._files.keys():
            now, before = self._files.get(name), self._safe_names.get(name)
            file = now if now is before or coin() else before
            if file is not None:
                after._files[name] = _torn(file, coin, cut)
        after._safe_names = dict(after._files)
        return after

    def damage(self, name: str, at: int) -> None:
        """Turn a bit."""
        self._files[name].content[at] ^= 0x10

    def _failing(self) -> bool:
        self.fail -= self.fail > 0
        return self.fail > 0


def _torn(file: File, coin: Callable[[], bool], cut: Callable[[int], int]) -> File:
    """Keep what is safe, and of the rest any sectors, up to any length; a sector that was not written is zeros."""
    content = file.content[: file.safe + cut(len(file.content) - file.safe)]
    at = file.safe
    while at < len(content):
        end = (at // SECTOR + 1) * SECTOR
        if coin():
            content[at:end] = bytes(len(content[at:end]))
        at = end
    for lost in file.lost:
        content[lost.start : lost.stop] = bytes(len(lost))
    return File(content, len(content))
