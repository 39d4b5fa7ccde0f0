"""Fetches the files behind a URI into a folder: over HTTP with what Python has, from object stores through fsspec.

A download that breaks off goes on where it stopped, if the server can. Used by `inference/storage/cache.py`.
"""

from __future__ import annotations

import hashlib
import http.client
import importlib
import logging
import random
import re
import time
import urllib.error
import urllib.request
from base64 import b64encode
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, Final, Protocol, TypeVar
from urllib.parse import unquote, urlsplit, urlunsplit

from inference.errors import InferenceError, ModelLoadFailed
from inference.storage.archives import Bounds
from streams.errors import MissingExtra

log = logging.getLogger(__name__)

T = TypeVar("T")

_PIECE: Final = 1024 * 1024
_TRANSIENT: Final = frozenset({408, 425, 429, 500, 502, 503, 504})
_PARTIAL: Final = 206
_SCHEMES: Final = {
    "s3": "s3", "gs": "gs", "gcs": "gs", "az": "abfs", "abfs": "abfs", "abfss": "abfss", "azure": "abfs",
}  # fmt: skip
_LIBRARIES: Final = {"s3": "s3fs", "gs": "gcsfs", "abfs": "adlfs", "abfss": "adlfs"}
_AZURE: Final = re.compile(r"(?P<account>[^.]+)\.blob\.core\.windows\.net$")
SCHEMES: Final = ("file", "pvc", "http", "https", *_SCHEMES)


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """How long to try."""

    timeout_s: float = 60.0
    """Until a connection, or the next bytes of one."""
    tries: int = 5
    pause_s: float = 1.0
    """After the first failure; doubled with each, and drawn from its upper half."""
    progress_s: float = 5.0
    """How often a long download says how far it is."""


@dataclass(slots=True)
class Progress:
    """Says in the log how far a download is, every few seconds."""

    uri: str
    every_s: float
    total: int | None = None
    done: int = 0
    _started: float = field(default_factory=time.monotonic)
    _said: float = field(default_factory=time.monotonic)

    def add(self, size: int) -> None:
        """Take note of bytes that came in."""
        self.done += size
        now = time.monotonic()
        if now - self._said >= self.every_s:
            self._said = now
            of = f" of {self.total / 1e6:.0f}" if self.total else ""
            rate = self.done / 1e6 / max(now - self._started, 1e-9)
            log.info("fetching %s: %.0f%s MB, %.1f MB/s", self.uri, self.done / 1e6, of, rate)


class Remote(Protocol):
    """What lies behind a URI."""

    identity: str
    """Another one when the content is another one; empty where the store does not say."""

    def fetch(self, into: Path, bounds: Bounds) -> None:
        """Write its files into a folder."""


def remote(uri: str, patience: Patience) -> Remote:
    """Look at what lies behind a URI.

    Raises:
        ModelLoadFailed: a scheme that is not known, or nothing there.
        MissingExtra: the library for this kind of store is not installed.
    """
    parts = urlsplit(uri)
    azure = _AZURE.match(parts.netloc)
    if azure and parts.scheme == "https":
        return Objects("abfs", parts.path.lstrip("/"), uri, patience, {"account_name": azure["account"]})
    if parts.scheme in {"http", "https"}:
        return Download(uri, patience)
    if parts.scheme in _SCHEMES:
        return Objects(_SCHEMES[parts.scheme], parts.netloc + unquote(parts.path), uri, patience, {})
    raise ModelLoadFailed(
        f"{uri}: scheme {parts.scheme!r} is not known; expected a path or one of {', '.join(SCHEMES)}"
    )


def shown(uri: str) -> str:
    """Give what of a URI may be shown: credentials stand before the host, and in the query of signed ones."""
    parts = urlsplit(uri)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment=""))


class Download:
    """One file over HTTP."""

    def __init__(self, uri: str, patience: Patience) -> None:
        self._uri, self._shown, self._patience = uri, shown(uri), patience
        with _retried(lambda: self._open(0, ""), self._shown, patience) as answer:
            head = answer.headers
            self._tag = head.get("ETag") or head.get("Last-Modified") or ""
            self.identity = "|".join((self._tag, head.get("Content-Length") or "")) if self._tag else ""

    def fetch(self, into: Path, bounds: Bounds) -> None:
        """Write the file under the name that the URI gives it."""
        target = into / (PurePosixPath(unquote(urlsplit(self._uri).path)).name or "model")
        progress = Progress(self._shown, self._patience.progress_s)
        with target.open("wb") as file:
            _retried(lambda: self._append(file, progress, bounds), self._shown, self._patience)

    def _append(self, file: Any, progress: Progress, bounds: Bounds) -> None:  # noqa: ANN401 - a file
        at = file.tell()
        with self._open(at, self._tag) as answer:
            if at and answer.status != _PARTIAL:
                # The server starts from the beginning, or has another file by now.
                file.seek(0)
                file.truncate()
                progress.done = at = 0
            length = answer.headers.get("Content-Length")
            expected = int(length) + at if length else None
            progress.total = expected
            while piece := answer.read(_PIECE):
                _within(file.tell() + len(piece), 1, bounds, self._shown)
                file.write(piece)
                progress.add(len(piece))
            if expected is not None and file.tell() != expected:
                raise http.client.IncompleteRead(b"", expected - file.tell())

    def _open(self, at: int, tag: str) -> Any:  # noqa: ANN401 - an HTTP response
        # Identity: a length that counts the file's own bytes, and bytes that can be asked for by place.
        headers = {"Accept-Encoding": "identity", "User-Agent": "sidelight"}
        if at and tag and not tag.startswith("W/"):
            headers |= {"Range": f"bytes={at}-", "If-Range": tag}
        parts = urlsplit(self._uri)
        if parts.username is not None:
            named = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
            headers["Authorization"] = f"Basic {b64encode(named.encode()).decode()}"
            parts = parts._replace(netloc=parts.netloc.rpartition("@")[2])
        request = urllib.request.Request(urlunsplit(parts), headers=headers)  # noqa: S310 - remote() lets only http and https in
        return urllib.request.urlopen(request, timeout=self._patience.timeout_s)  # noqa: S310 - as above


class Objects:
    """One object, or all under a prefix, of a store that fsspec knows."""

    def __init__(self, protocol: str, path: str, uri: str, patience: Patience, options: dict[str, str]) -> None:
        self._shown, self._patience = shown(uri), patience
        # Without the instance cache: listings of an earlier look would be served again.
        self._store = _store(protocol)(skip_instance_cache=True, use_listings_cache=False, **options)
        self._root = path.rstrip("/")
        self._found = _retried(self._list, self._shown, patience)
        if not self._found:
            raise ModelLoadFailed(f"{self._shown}: nothing is there")
        marks = [f"{name} {size} {mark}" for name, size, mark in self._found]
        self.identity = hashlib.sha256("\n".join(marks).encode()).hexdigest()

    def fetch(self, into: Path, bounds: Bounds) -> None:
        """Write every object under its name below the prefix."""
        progress = Progress(self._shown, self._patience.progress_s, sum(size for _, size, _ in self._found))
        _within(progress.total or 0, len(self._found), bounds, self._shown)
        for name, size, _ in self._found:
            below = name.removeprefix(self._root).lstrip("/") or PurePosixPath(name).name
            if ".." in PurePosixPath(below).parts:
                raise ModelLoadFailed(f"{self._shown}: {name!r} would lie outside the model's folder")
            target = into / below
            target.parent.mkdir(parents=True, exist_ok=True)
            _retried(partial(self._get, name, size, target, progress), self._shown, self._patience)

    def _list(self) -> list[tuple[str, int, str]]:
        found = self._store.find(self._root, detail=True)
        if not isinstance(found, dict):
            # Of a single object, adlfs gives the name alone.
            found = {name: self._store.info(name) for name in found}
        return sorted(
            (str(name), int(entry.get("size") or 0), _mark(entry))
            for name, entry in found.items()
            if not str(name).endswith("/")
        )

    def _get(self, name: str, size: int, target: Path, progress: Progress) -> None:
        before = progress.done
        with self._store.open(name, "rb") as source, target.open("wb") as file:
            while piece := source.read(_PIECE):
                file.write(piece)
                progress.add(len(piece))
            if file.tell() != size:
                progress.done = before
                raise ConnectionError(f"{name}: expected {size} bytes, got {file.tell()}")


def _mark(entry: dict[str, Any]) -> str:
    known = ("ETag", "etag", "md5Hash", "content_md5", "LastModified", "last_modified", "updated", "mtime", "created")
    return next((str(entry[key]) for key in known if entry.get(key)), "")


def _within(size: int, files: int, bounds: Bounds, uri: str) -> None:
    if size > bounds.bytes:
        raise ModelLoadFailed(f"{uri}: expected at most {bounds.bytes} bytes, got more")
    if files > bounds.files:
        raise ModelLoadFailed(f"{uri}: expected at most {bounds.files} files, got {files}")


def _store(protocol: str) -> Any:  # noqa: ANN401 - a class of a library without types
    """Give the class of a kind of store."""
    fsspec = _library("fsspec", protocol)
    if protocol in _LIBRARIES:
        _library(_LIBRARIES[protocol], protocol)
    if protocol == "gs":
        # By default, gcsfs first asks over gRPC what kind of bucket it is, which needs a further permission, and waits
        # two minutes where only HTTP goes out. Objects are read alike from all kinds.
        return _library("gcsfs.core", protocol).GCSFileSystem
    return fsspec.get_filesystem_class(protocol)


def _library(module: str, protocol: str) -> Any:  # noqa: ANN401 - a module has no narrower type
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as exc:
        raise MissingExtra(f"a model behind {protocol}://", "storage", module) from exc


def _retried(work: Callable[[], T], uri: str, patience: Patience) -> T:
    for pause in _pauses(patience):
        try:
            return work()
        except urllib.error.HTTPError as exc:
            exc.close()
            failure: Exception = exc
            if exc.code not in _TRANSIENT:
                raise ModelLoadFailed(f"{uri}: HTTP {exc.code} {exc.reason}") from exc
        except (FileNotFoundError, PermissionError) as exc:
            raise ModelLoadFailed(f"{uri}: {type(exc).__name__}: {exc}") from exc
        except (OSError, http.client.HTTPException, TimeoutError) as exc:
            failure = exc
        except InferenceError:
            raise
        except Exception as exc:
            # Each store has its own errors for credentials and the like; their texts are long.
            raise ModelLoadFailed(f"{uri}: {type(exc).__name__}: {str(exc).strip().partition(chr(10))[0]}") from exc
        if pause is None:
            raise ModelLoadFailed(f"{uri}: given up after {patience.tries} tries: {failure}") from failure
        log.warning("fetching %s: %s; again in %.1f s", uri, failure, pause)
        time.sleep(pause)
    raise AssertionError


def _pauses(patience: Patience) -> Iterator[float | None]:
    for number in range(patience.tries - 1):
        yield patience.pause_s * 2**number * random.uniform(0.5, 1.0)  # noqa: S311 - spreads tries, no secret
    yield None
