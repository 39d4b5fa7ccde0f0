"""Models as folders: what lies in a model's folder, and which folders a repository's folder holds. Reads, never writes.

A model's folder holds one model file, or one folder for each version, named by its number (Triton's and TensorFlow
Serving's layout), and optionally `rollout.yaml`. Next: `inference/directory.py`, which reads one version.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, TypeAlias

from inference.directory import open_model
from inference.errors import ModelLoadFailed, ModelNotFound
from inference.modelsettings import read_model_settings
from inference.rollout import ROLLOUT_FILES, UNNUMBERED, Rollout, parse
from inference.runtime import Runtime
from inference.settings import SETTINGS_FILE, ModelSettings, Trust
from inference.storage.cache import Storage
from inference.storage.room import Held
from inference.upstream.link import Link

Fingerprint: TypeAlias = tuple[tuple[str, int, int, int], ...]
"""Name, size, time of change and inode of every file, which a replaced or half-copied folder does not keep."""

_UNFINISHED: Final = (".tmp", ".part", ".partial")
_DEPTH: Final = 8
_DEFAULTS: Final = ModelSettings()


@dataclass(frozen=True, slots=True)
class Loaded:
    """What loading a model gives."""

    runtime: Runtime
    version: str
    settings: ModelSettings = field(default_factory=ModelSettings)


@dataclass(frozen=True, slots=True)
class ModelFolder:
    """One model's folder."""

    path: str
    trust: Trust
    runtime: str | None = None
    storage: Storage | None = None
    """Fetches what the settings name by `storage_uri`."""
    link: Link | None = None
    """To the predictor that transformers stand before."""
    gpu: int = 0
    """See `inference.runtime.Source`."""

    def versions(self) -> tuple[str, ...]:
        """List the versions, the highest first; one without a number when there are no numbered folders.

        Raises:
            ModelNotFound: the folder is gone.
        """
        numbers = [entry.name for entry in self._entries() if entry.name.isdecimal() and entry.is_dir()]
        return tuple(sorted(numbers, key=int, reverse=True)) or (UNNUMBERED,)

    def rollout(self) -> Rollout | None:
        """Read the rollout file, where there is one.

        Raises:
            ModelLoadFailed: it cannot be read, or says what it cannot mean.
        """
        for name in ROLLOUT_FILES:
            path = os.path.join(self.path, name)  # noqa: PTH118 - called for thousands
            if not os.path.exists(path):  # noqa: PTH110 - as above
                continue
            try:
                return parse(Path(path).read_bytes(), path)
            except FileNotFoundError:
                continue
            except OSError as exc:
                raise ModelLoadFailed(f"{path}: {exc.strerror or exc}") from exc
        return None

    def load(self, version: str, seen: Fingerprint | None = None) -> Loaded:
        """Load one version; `seen` is how it looked a moment ago, where somebody looked.

        Raises:
            ModelLoadFailed: see `inference/directory.py`; also a folder that was changed while it was read.
        """
        directory = Path(self.path, version) if version else Path(self.path)
        before = self.fingerprint(version) if seen is None else seen
        settings = self._settings(directory, before)
        with self._fetched(directory, settings) as (files, held):
            runtime = open_model(files, self.trust, self.runtime, settings, self.link, self.gpu)
            if held is not None:
                held.keep_for(runtime)
        if self.fingerprint(version) != before:
            runtime.unload()
            raise ModelLoadFailed(f"{directory}: was changed while it was read")
        return Loaded(runtime, version or settings.version, settings)

    def fingerprint(self, version: str) -> Fingerprint:
        """Describe one version's files, and the settings that it shares with others."""
        found = sorted(_files(os.path.join(self.path, version), "", _DEPTH))  # noqa: PTH118 - called for thousands
        shared = [file for file in _files(self.path, "../", 0) if file[0] == f"../{SETTINGS_FILE}"] if version else []
        return (*found, *shared)

    def whole(self) -> Fingerprint:
        """Describe all files."""
        return self.fingerprint(UNNUMBERED)

    def _settings(self, directory: Path, seen: Fingerprint) -> ModelSettings:
        names = {name for name, *_ in seen}
        if SETTINGS_FILE in names:
            return read_model_settings(directory)
        # What all versions share may stand once, beside them.
        return read_model_settings(Path(self.path)) if f"../{SETTINGS_FILE}" in names else _DEFAULTS

    def _fetched(self, directory: Path, settings: ModelSettings) -> AbstractContextManager[tuple[Path, Held | None]]:
        if not settings.storage_uri:
            return nullcontext((directory, None))
        if self.storage is None:
            raise ModelLoadFailed(f"{directory}: storage_uri needs a cache folder, and there is none")
        return self.storage.using(settings.storage_uri, settings.digest)

    def _entries(self) -> list[os.DirEntry[str]]:
        try:
            with os.scandir(self.path) as entries:
                return list(entries)
        except OSError as exc:
            raise ModelNotFound(Path(self.path).name) from exc


class Stored:
    """A model whose folder is fetched when it is loaded first, and looked for anew by each load call."""

    def __init__(
        self, storage: Storage, uri: str, digest: str, trust: Trust, runtime: str | None, link: Link | None = None,
        gpu: int = 0,
    ) -> None:  # fmt: skip
        self._storage, self._uri, self._digest = storage, uri, digest
        self._trust, self._runtime, self._link, self._gpu = trust, runtime, link, gpu
        self._folder: ModelFolder | None = None

    def versions(self) -> tuple[str, ...]:
        """Fetch the folder unless it is there, and list its versions."""
        self._folder = self._found()
        return self._folder.versions()

    def rollout(self) -> Rollout | None:
        """Read its rollout file."""
        return self._fetched().rollout()

    def load(self, version: str, seen: Fingerprint | None = None) -> Loaded:
        """Load one version of what was fetched; it stays in the cache for as long as the model is there."""
        known = self._folder
        while True:
            folder = self._fetched()
            if folder is not known:
                # Fetched anew since: these are other files.
                seen = None
            with self._storage.holding(Path(folder.path)) as held:
                if held is not None:
                    loaded = folder.load(version, seen)
                    held.keep_for(loaded.runtime)
                    return loaded

    def fingerprint(self, version: str) -> Fingerprint:
        """Describe one version's files."""
        return self._fetched().fingerprint(version)

    def _fetched(self) -> ModelFolder:
        folder = self._folder
        # What nobody used for long may have been removed from the cache.
        if folder is None or not os.path.isdir(folder.path):  # noqa: PTH112 - called for thousands
            folder = self._folder = self._found()
        return folder

    def _found(self) -> ModelFolder:
        path = self._storage.folder(self._uri, self._digest)
        return ModelFolder(str(path), self._trust, self._runtime, self._storage, self._link, self._gpu)


@dataclass(frozen=True, slots=True)
class Shelf:
    """A folder of models' folders; a folder's name is its model's."""

    path: Path
    trust: Trust
    runtime: str | None = None
    storage: Storage | None = None
    link: Link | None = None
    gpu: int = 0

    def names(self) -> list[str]:
        """List the models without looking into their folders, so that thousands cost one look.

        Raises:
            ModelLoadFailed: no such folder.
        """
        try:
            with os.scandir(self.path) as entries:
                return sorted(entry.name for entry in entries if _is_name(entry.name) and entry.is_dir())
        except OSError as exc:
            raise ModelLoadFailed(f"{self.path}: {exc.strerror or exc}") from exc

    def folder(self, name: str) -> ModelFolder | None:
        """Give a model's folder; None when there is none."""
        path = os.path.join(self.path, name)  # noqa: PTH118 - called for thousands
        if not (_is_name(name) and os.path.isdir(path)):  # noqa: PTH112 - as above
            return None
        return ModelFolder(path, self.trust, self.runtime, self.storage, self.link, self.gpu)


def _is_name(name: str) -> bool:
    # A name from a URL must not lead out of the folder.
    return (
        name != ""
        and not name.startswith((".", "_"))
        and not name.endswith(_UNFINISHED)
        and "/" not in name
        and "\0" not in name
    )


def _files(path: str, prefix: str, depth: int) -> Iterator[tuple[str, int, int, int]]:
    try:
        with os.scandir(path) as entries:
            found = list(entries)
    except OSError:
        return
    for entry in found:
        name = prefix + entry.name
        try:
            if entry.is_dir():
                if depth:
                    yield from _files(entry.path, f"{name}/", depth - 1)
            else:
                status = entry.stat()
                # Thousands of models' files have one name.
                yield sys.intern(name), status.st_size, status.st_mtime_ns, status.st_ino
        except OSError:
            # Gone between the listing and the look: the next look differs.
            yield name, -1, 0, 0
