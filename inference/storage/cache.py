"""Gives the local folder behind a storage URI: itself, or a copy in the cache that is whole or not there.

What was fetched is found again by its digest, or by what the store says of its content; a folder appears under its
name only when all of it is written. Several processes may share a cache. Next: `inference/storage/fetching.py`.
"""

from __future__ import annotations

import fcntl
import hashlib
import logging
import os
import re
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit, urlunsplit

from inference.errors import ModelLoadFailed
from inference.storage import archives
from inference.storage.archives import Bounds
from inference.storage.fetching import Patience, Remote, remote, shown
from inference.storage.room import Held, Room

log = logging.getLogger(__name__)

_PIECE: Final = 1024 * 1024
_SHA256: Final = re.compile(r"(?:sha256:)?([0-9a-fA-F]{64})")


@dataclass(frozen=True, slots=True, kw_only=True)
class StorageSettings:
    """Where fetched models lie, and what is accepted."""

    cache: Path
    max_bytes: int = 0
    """Of all that was fetched. Beyond it goes what was not used for longest, never what is in use. 0: all stays."""
    volumes: Mapping[str, Path] = field(default_factory=dict)
    """Claim → the folder where `pvc://claim` is mounted."""
    bounds: Bounds = field(default_factory=Bounds)
    patience: Patience = field(default_factory=Patience)


class Storage:
    """Turns URIs into folders. Thread-safe; blocks while it fetches."""

    def __init__(self, settings: StorageSettings) -> None:
        self._settings = settings
        self._room = Room(settings.cache, settings.max_bytes)

    @contextmanager
    def using(self, uri: str, digest: str = "") -> Iterator[tuple[Path, Held]]:
        """Give the folder and what keeps it in the cache; see `folder`."""
        while True:
            path = self.folder(uri, digest)
            with self._room.holding(path) as held:
                if held is not None:
                    yield path, held
                    return

    def holding(self, path: Path) -> AbstractContextManager[Held | None]:
        """Give what keeps a folder that was fetched before; None where it was removed meanwhile."""
        return self._room.holding(path)

    def folder(self, uri: str, digest: str = "") -> Path:
        """Give the folder with a model's files, fetching it unless the same content is there already.

        Args:
            uri: a path, or a URI of one of the known schemes; `?sha256=` in it is a digest, too.
            digest: SHA-256 of the file or archive, or of a folder's listing as `digest_of` makes it.

        Raises:
            ModelLoadFailed: not there, not to be had, too large, or of another digest.
            MissingExtra: the library for this kind of store is not installed.
        """
        uri, digest = _digest(uri.rstrip("/") or "/", digest)
        local = self._local(uri)
        if local is None:
            return self._fetched(uri, digest, None)
        if not local.exists():
            kind = "file" if archives.is_archive(local.name) else "directory"
            raise ModelLoadFailed(f"{local}: no such {kind}")
        if local.is_file() and archives.is_archive(local.name):
            return self._fetched(uri, digest, local)
        if digest and (found := digest_of(local)) != digest:
            raise ModelLoadFailed(f"{uri}: expected digest sha256:{digest}, got sha256:{found}")
        return local if local.is_dir() else local.parent

    def is_local(self, uri: str) -> bool:
        """Tell whether a URI is a plain folder here, which needs no fetching and may change in place."""
        local = self._local(_digest(uri, "")[0])
        return local is not None and not archives.is_archive(local.name)

    def _local(self, uri: str) -> Path | None:
        parts = urlsplit(uri)
        if parts.scheme == "file":
            return Path(unquote(parts.netloc + parts.path))
        if parts.scheme == "pvc":
            if parts.netloc not in self._settings.volumes:
                raise ModelLoadFailed(
                    f"{uri}: claim {parts.netloc!r} has no folder here; name one: --volume {parts.netloc}=DIR"
                )
            return self._settings.volumes[parts.netloc] / unquote(parts.path.lstrip("/"))
        return None if "://" in uri else Path(uri)

    def _fetched(self, uri: str, digest: str, local: Path | None) -> Path:
        if digest and (known := self._settings.cache / _key(digest)).is_dir():
            return archives.descended(known)
        found: Remote = _Local(local) if local else remote(uri, self._settings.patience)
        # Without a word of the store about its content, only the download itself tells; it is kept by its digest.
        key = digest or (f"{shown(uri)}\n{found.identity}" if found.identity else "")
        with self._locked(_key(shown(uri))[:16]) as incoming:
            if key and (known := self._settings.cache / _key(key)).is_dir():
                return archives.descended(known)
            return self._kept(shown(uri), digest, key, found, incoming)

    def _kept(self, uri: str, digest: str, key: str, found: Remote, incoming: str) -> Path:
        with tempfile.TemporaryDirectory(prefix=incoming, dir=self._settings.cache) as name:
            raw, whole = Path(name, "raw"), Path(name, "whole")
            raw.mkdir()
            found.fetch(raw, self._settings.bounds)
            got = digest_of(_only(raw))
            if digest and got != digest:
                raise ModelLoadFailed(f"{uri}: expected digest sha256:{digest}, got sha256:{got}")
            packed = _only(raw)
            if packed.is_file() and archives.is_archive(packed.name):
                whole.mkdir()
                archives.unpack(packed, packed.name, whole, self._settings.bounds)
            else:
                whole = raw
            target = self._settings.cache / _key(key or got)
            if not target.is_dir():
                whole.rename(target)
                self._room.added(target)
        log.info("fetched %s, sha256:%s", uri, got)
        return archives.descended(target)

    @contextmanager
    def _locked(self, name: str) -> Iterator[str]:
        """Let one process at a time fetch a URI; give the start of the names of what it fetches."""
        cache = self._settings.cache
        cache.mkdir(parents=True, exist_ok=True)
        incoming = f".incoming-{name}-"
        with (cache / f".lock-{name}").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            for left in cache.glob(f"{incoming}*"):
                # Of a process that was killed: nobody else fetches this now.
                archives.discard(left)
            yield incoming


class _Local:
    """An archive that lies here."""

    def __init__(self, path: Path) -> None:
        status = path.stat()
        self._path = path
        self.identity = f"{status.st_size} {status.st_mtime_ns} {status.st_ino}"

    def fetch(self, into: Path, bounds: Bounds) -> None:
        """Link to it: it is only read."""
        del bounds
        (into / self._path.name).symlink_to(self._path.absolute())


def digest_of(path: Path) -> str:
    """Give the SHA-256 of a file, or of a folder's sorted listing in the form of `sha256sum`.

    For a folder that is `find * -type f | LC_ALL=C sort | xargs sha256sum | sha256sum`, run inside it.
    """
    if path.is_file():
        return _sha256(path)
    if not path.is_dir():
        raise ModelLoadFailed(f"{path}: no such file or directory")
    files = sorted((os.fsencode(each.relative_to(path).as_posix()), each) for each in path.rglob("*") if each.is_file())
    listing = b"".join(_sha256(each).encode() + b"  " + name + b"\n" for name, each in files)
    return hashlib.sha256(listing).hexdigest()


def _sha256(path: Path) -> str:
    found = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(_PIECE):
            found.update(piece)
    return found.hexdigest()


def _only(folder: Path) -> Path:
    inside = list(folder.iterdir())
    return inside[0] if len(inside) == 1 and inside[0].is_file() else folder


def _key(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _digest(uri: str, digest: str) -> tuple[str, str]:
    """Take `?sha256=` out of a URI."""
    if "://" in uri and "sha256=" in uri:
        parts = urlsplit(uri)
        query = parse_qsl(parts.query, keep_blank_values=True)
        digest = next((value for name, value in query if name == "sha256"), digest)
        kept = [pair for pair in query if pair[0] != "sha256"]
        uri = urlunsplit(parts._replace(query=urlencode(kept)))
    if not digest:
        return uri, ""
    found = _SHA256.fullmatch(digest)
    if found is None:
        raise ModelLoadFailed(f"{uri}: digest: expected sha256: and 64 hexadecimal digits, got {digest!r}")
    return uri, found[1].lower()
