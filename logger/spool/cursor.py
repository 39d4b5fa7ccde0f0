"""The journal's cursor on disk: a number, written whole or not at all, also when the disk is full.

It goes to a new file, is synced, renamed and its folder synced. A full disk must not stay full: to remove anything the
cursor has to be written first, so a little room is kept for it.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Collection
from typing import Final

from logger.spool.disk import Disk

_NAME: Final = "cursor"
_NEW: Final = "cursor.new"
_FORMAT: Final = struct.Struct("<QI")
_RESERVE: Final = "reserve"
_RESERVED: Final = bytes(8 << 10)
"""More than one block of any common file system: what a cursor takes."""


class Cursor:
    """One folder's. Every method may raise OSError; it can be called again then.

    Args:
        disk: the folder.
        names: of the files that are in it.
        sync: whether what is written has to outlive a power cut.
    """

    def __init__(self, disk: Disk, names: Collection[str], *, sync: bool) -> None:
        self._disk, self._sync = disk, sync
        self._reserved, self._written = _RESERVE in names, _NAME in names

    def load(self) -> int:
        """Give what was saved when the folder was looked at; 0 when nothing was, or it is damaged."""
        if not self._written:
            return 0
        content = self._disk.read(_NAME, 0, _FORMAT.size)
        if len(content) != _FORMAT.size or zlib.crc32(content[:8]) != _FORMAT.unpack(content)[1]:
            return 0
        return int(_FORMAT.unpack(content)[0])

    def reserve(self) -> None:
        """Keep room for it."""
        if not self._reserved:
            self._disk.append(_RESERVE, _RESERVED)
            self._disk.forget(_RESERVE)
            self._reserved = True

    def save(self, value: int) -> None:
        """Write it, into the room that was kept if there is no other."""
        try:
            self._write(value)
        except OSError:
            if not self._reserved:
                raise
            self._reserved = False
            self._disk.remove(_RESERVE)
            self._write(value)

    def _write(self, value: int) -> None:
        if _NEW in self._disk.names():
            self._disk.remove(_NEW)
        self._disk.append(_NEW, _FORMAT.pack(value, zlib.crc32(value.to_bytes(8, "little"))))
        if self._sync:
            self._disk.sync(_NEW)
        self._disk.rename(_NEW, _NAME)
        if self._sync:
            self._disk.sync_folder()
