"""Unpacks archives of models whose author nobody knows: nothing leaves the folder, and nothing has no bound."""

from __future__ import annotations

import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Final

from inference.errors import ModelLoadFailed

_PIECE: Final = 1024 * 1024
_BROKEN: Final = (
    tarfile.TarError,
    zipfile.BadZipFile,
    zlib.error,
    EOFError,
    OSError,
    NotImplementedError,
    RuntimeError,
)
_TAR: Final = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz")
_ZIP: Final = (".zip",)
ENDINGS: Final = (*_TAR, *_ZIP)


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """What is accepted of one model, packed or not."""

    bytes: int = 64 * 1024**3
    files: int = 100_000


@dataclass(frozen=True, slots=True)
class _Member:
    name: str
    folder: bool
    size: int
    open: Callable[[], IO[bytes]]


def is_archive(name: str) -> bool:
    """Tell by its name whether a file is one to unpack."""
    return name.lower().endswith(ENDINGS)


def unpack(archive: Path, name: str, into: Path, bounds: Bounds) -> None:
    """Unpack an archive.

    Args:
        archive: the file.
        name: what it is called where it came from.
        into: an empty folder.
        bounds: what it may hold.

    Raises:
        ModelLoadFailed: no such archive, a member that would lie outside or is no plain file, or too much.
    """
    try:
        _write(_zipped(archive, name) if name.lower().endswith(_ZIP) else _tarred(archive, name), name, into, bounds)
    except _BROKEN as exc:
        raise ModelLoadFailed(f"{name}: no whole archive: {exc}") from exc


def _write(members: Iterator[_Member], name: str, into: Path, bounds: Bounds) -> None:
    files, left = 0, bounds.bytes
    for member in members:
        path = into / _safe(member.name, name)
        if member.folder:
            path.mkdir(parents=True, exist_ok=True)
            continue
        files += 1
        if files > bounds.files:
            raise ModelLoadFailed(f"{name}: expected at most {bounds.files} files")
        path.parent.mkdir(parents=True, exist_ok=True)
        with member.open() as source, path.open("xb") as target:
            left -= _copied(source, target, left, name, bounds)


def _copied(source: IO[bytes], target: IO[bytes], most: int, name: str, bounds: Bounds) -> int:
    # Counted as it comes out: what a head says of sizes may be a lie.
    size = 0
    while piece := source.read(_PIECE):
        size += len(piece)
        if size > most:
            raise ModelLoadFailed(f"{name}: expected at most {bounds.bytes} bytes, unpacked")
        target.write(piece)
    return size


def _safe(member: str, name: str) -> Path:
    path = PurePosixPath(member)
    if path.is_absolute() or ".." in path.parts or "\\" in member or "\0" in member:
        raise ModelLoadFailed(f"{name}: {member!r} would lie outside the model's folder")
    return Path(*path.parts)


def _tarred(archive: Path, name: str) -> Iterator[_Member]:
    with tarfile.open(archive) as tar:
        for each in tar:
            if not (each.isreg() or each.isdir()):
                kind = "a link" if each.issym() or each.islnk() else "no plain file"
                raise ModelLoadFailed(f"{name}: {each.name!r} is {kind}; expected files and folders only")
            yield _Member(each.name, each.isdir(), each.size, lambda each=each: _opened(tar, each))  # type: ignore[misc]


def _opened(tar: tarfile.TarFile, member: tarfile.TarInfo) -> IO[bytes]:
    found = tar.extractfile(member)
    if found is None:
        raise tarfile.ReadError(f"{member.name!r} has no content")
    return found


def _zipped(archive: Path, name: str) -> Iterator[_Member]:
    with zipfile.ZipFile(archive) as folder:
        for each in folder.infolist():
            mode = each.external_attr >> 16
            if stat.S_IFMT(mode) not in {0, stat.S_IFREG, stat.S_IFDIR}:
                raise ModelLoadFailed(f"{name}: {each.filename!r} is no plain file; expected files and folders only")
            yield _Member(each.filename, each.is_dir(), each.file_size, lambda each=each: folder.open(each))  # type: ignore[misc]


def descended(folder: Path) -> Path:
    """Give the folder that holds the model: archives are often made of one folder rather than of its content."""
    inside = [path for path in folder.iterdir() if not path.name.startswith(".")]
    if len(inside) == 1 and inside[0].is_dir() and not inside[0].name.isdecimal():
        return inside[0]
    return folder


def discard(folder: Path) -> None:
    """Remove a folder, as far as it goes."""
    shutil.rmtree(folder, ignore_errors=True)
