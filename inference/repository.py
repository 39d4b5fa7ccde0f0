"""Keeps the models by name: which there are, which version answers, which are loaded. Thread-safe.

A model is reloaded while the old one serves, and requests are sent to a new version only when it is loaded. Thousands
of models are known by name only until they are asked for. Used by `inference/dataplane.py`; what is held, and how it
fares, is in `inference/holdings.py`, loading in `inference/stock.py`, what becomes of changed folders in
`inference/upkeep.py` and `inference/stocktaking.py`.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Final, TypeAlias

from inference.adjustments import NONE, Adjustments
from inference.entries import Model, Single, Source
from inference.errors import InferenceError, ModelNotFound, ModelNotReady
from inference.folders import Loaded, ModelFolder, Shelf
from inference.holdings import Holdings
from inference.index import IndexEntry, State
from inference.lease import Done, Lease, Wait
from inference.residency import Measure, resident_bytes
from inference.rollout import UNNUMBERED, Choice
from inference.settings import RepositorySettings
from inference.stocktaking import Stocktaking

__all__ = ["IndexEntry", "Lease", "Loaded", "Repository", "State", "Wanted"]

log = logging.getLogger(__name__)

_NOTHING: Final[Mapping[str, str]] = MappingProxyType({})

Wanted: TypeAlias = str | Callable[[], str | None] | None
"""A version or an alias; None: the one that the rollout prefers. Or what finds it out, and may read files for that."""


class Repository(Holdings):
    """The models that this process may serve; which of them are loaded changes."""

    def __init__(
        self,
        models: Mapping[str, Source | Callable[[], Loaded]],
        settings: RepositorySettings | None = None,
        shelf: Shelf | None = None,
        measure: Measure = resident_bytes,
    ) -> None:
        """Know models by name; loads none.

        Args:
            models: of the command line, by name.
            settings: how they are loaded and kept.
            shelf: a folder of further models.
            measure: what the bound on memory is held against.
        """
        super().__init__(settings or RepositorySettings(), measure)
        self._closed = threading.Event()
        for name, source in models.items():
            self._add(name, Single(source) if callable(source) else source)
        self._stocktaking = Stocktaking(shelf, self._models, self._add, self._drop)
        self._stocktaking.fill()

    def choose(
        self, name: str, version: str | None = None, key: bytes = b"", headers: Mapping[str, str] = _NOTHING
    ) -> Choice:
        """Decide which version answers a request, and which get a copy of it. Waits for no load.

        Looks into the model's folder the first time, so that it may wait for files: see `known`.

        Args:
            name: of the model.
            version: what the caller asked for: a version or an alias; None lets the model's rollout decide.
            key: what a canary sticks to unless the rollout names a header: the correlation id.
            headers: of the request; names in lower case, or a mapping that does not mind.

        Raises:
            ModelNotFound: no model of this name, or no such version.
        """
        model = self._model(name)
        routes = self._upkeep.routes(model)
        if version is None:
            return routes.choose(key, headers, self._stock.draw)
        found = routes.find(version)
        # Whether the unnumbered one is the version asked for is known when it is loaded.
        if found is None and routes.versions != (UNNUMBERED,):
            raise ModelNotFound(name, version)
        return Choice(found or version)

    def known(self, name: str) -> bool:
        """Tell whether a model's folder has been looked into, so that nothing about it waits for files.

        Raises:
            ModelNotFound: no model of this name.
        """
        return not self._upkeep.reads(self._model(name))

    def loaded(self, name: str, version: str | None = None) -> Loaded:
        """Give a model to describe, not to predict with: it may be unloaded meanwhile. Never waits.

        Raises:
            ModelNotFound: no model of this name, or no such version.
            ModelNotReady: not loaded; where requests load models, its load has begun.
        """
        lease = self.lease(name, version)
        if lease is None:
            self.lease_later(name, version, _dropped)
            raise ModelNotReady(name)
        lease.release()
        return lease.loaded

    def ready(self, name: str, version: str | None = None) -> bool:
        """Tell whether a request would be answered: by a loaded model, or by one that it would load.

        Raises:
            ModelNotFound: no model of this name, or no such version.
        """
        try:
            copy, number = self._copy(name, version)
        except ModelNotReady:
            return False
        lease = copy.lease
        if lease is not None and number is not None and number != lease.loaded.version:
            raise ModelNotFound(name, number)
        return lease is not None or not (copy.model.stopped or copy.failures)

    def lease(self, name: str, version: Wanted = None) -> Lease | None:
        """Hold a loaded model; None when it must be loaded first, or looked for: then `lease_later`. Never waits.

        The caller releases the lease when its prediction has ended, and takes `lease.turn` around each prediction.

        Raises:
            ModelNotFound: no model of this name, or no such version.
            ModelNotReady: not loaded, and not to be loaded by a request; or loading failed a moment ago.
        """
        if callable(version) or self._to_be_read(name):
            return None
        copy, number = self._copy(name, version)
        lease = self._stock.lease(copy)
        return lease if lease is None else _checked(name, number, lease)

    def lease_later(self, name: str, version: Wanted, done: Done) -> None:
        """Load a model for a request, or join its load, and give the lease, or the reason why not, to `done`.

        `done` is called once, on a thread of the repository's (or at once, by this call), and must not wait. Whoever
        has lost interest meanwhile releases the lease all the same. Never waits for files.
        """
        try:
            if callable(version) or self._to_be_read(name):
                self._model(name).awaited = True
                self._stock.soon(lambda: self._lease_found(name, version, done))
            else:
                self._lease_later(name, version, done)
        except InferenceError as exc:
            done(exc)

    @contextlib.contextmanager
    def using(self, name: str, version: str | None = None) -> Iterator[Loaded]:
        """Hold a model for one prediction; waits for its load, and for its turn where it takes one thread at a time.

        Raises:
            ModelNotFound: no model of this name, or another version of it.
            ModelNotReady: not loaded, and not to be loaded by a request; or its load failed, or takes too long.
        """
        lease = self.lease(name, version) or self._awaited(name, version)
        try:
            with lease.turn:
                yield lease.loaded
        finally:
            lease.release()

    def recall(self, name: str, adjustments: Adjustments, *, unloaded: bool) -> None:
        """Take over what another process was told of a model, unless it is gone; loads nothing."""
        model = self._models.get(name)
        if model is not None:
            model.adjustments = adjustments
            model.stopped = model.stopped or unloaded

    def load(self, name: str, adjustments: Adjustments | None = NONE) -> None:
        """Load a model, or load it anew: every version that its rollout sends requests to, then switch to them.

        When that fails, what was ready goes on serving. A name that is not known yet is looked for on the shelf.
        The adjustments hold for each load of it until the next call, where they go with what its folder holds then.
        None: those that hold already.

        Raises:
            ModelNotFound: no model of this name.
            ModelLoadFailed, MissingExtra: see `inference/directory.py`.
        """
        model = self._models.get(name) or self._stocktaking.take(name)
        if model is None:
            raise ModelNotFound(name)
        self._upkeep.refresh(model, anew=True, adjustments=adjustments)

    def unload(self, name: str) -> None:
        """Unload a model; it stays in the index, and is not loaded again before a call asks for it.

        Raises:
            ModelNotFound: no model of this name.
        """
        model = self._model(name)
        # Not in the midst of a load call: it would end with a model that is loaded, or is by the next request.
        with model.changing:
            model.stopped = True
            self._drop(model)
        log.info("model %s is unloaded", name)

    def close(self) -> None:
        """Unload everything."""
        self._closed.set()
        self._stock.close()
        for model in list(self._models.values()):
            model.stopped = True
            self._drop(model)
        self._stock.farewells.finish()

    def watch(self) -> None:
        """Look at the folders again and again, on a thread, as often as the settings say."""
        if self._settings.poll_s:
            threading.Thread(target=self._watch, name="watch models", daemon=True).start()

    def look(self) -> None:
        """Compare the folders with what was loaded: add new models, forget gone ones, reload changed ones.

        A new or changed folder must look the same at two looks, so that nothing half-copied is loaded. What fails
        leaves the old model serving, with the reason in the index.
        """
        self._stocktaking.look()
        for model in list(self._models.values()):
            if model.routes is not None and isinstance(model.source, ModelFolder):
                self._upkeep.look_at(model, model.source)

    def _to_be_read(self, name: str) -> bool:
        """Tell whether a request's first step is to look into a model's folder."""
        model = self._model(name)
        return not model.stopped and self._upkeep.reads(model)

    def _lease_found(self, name: str, version: Wanted, done: Done) -> None:
        """Find out which version is wanted, and lease it. On a thread that loads."""
        try:
            self._lease_later(name, version() if callable(version) else version, done, here=True)
        except InferenceError as exc:
            done(exc)
        except Exception as exc:
            log.exception("model %s cannot be looked into", name)
            done(exc)
        finally:
            if (model := self._models.get(name)) is not None:
                model.awaited = False

    def _lease_later(self, name: str, version: str | None, done: Done, *, here: bool = False) -> None:
        copy, number = self._copy(name, version)

        def checked(outcome: Lease | Exception) -> None:
            if isinstance(outcome, Lease):
                try:
                    _checked(name, number, outcome)
                except ModelNotFound as exc:
                    outcome = exc
            done(outcome)

        self._stock.lease_later(copy, done if number is None else checked, here=here)

    def _add(self, name: str, source: Source) -> Model:
        # Two may find it at once, and load it.
        return self._models.setdefault(name, Model(name, source, stopped=not self._settings.on_demand))

    def _drop(self, model: Model) -> None:
        for copy in list(model.copies.values()):
            self._stock.drop(copy)

    def _awaited(self, name: str, version: str | None) -> Lease:
        wait = Wait()
        self.lease_later(name, version, wait.done)
        return wait.result(name, self._settings.load_wait_s)

    def _watch(self) -> None:
        while not self._closed.wait(self._settings.poll_s):
            try:
                self.look()
            except Exception:
                log.exception("the model repository cannot be looked at")


def _checked(name: str, number: str | None, lease: Lease) -> Lease:
    """Refuse a model without numbered versions whose file says another version than the one asked for."""
    if number is not None and number != lease.loaded.version:
        lease.release()
        raise ModelNotFound(name, number)
    return lease


def _dropped(outcome: Lease | Exception) -> None:
    if isinstance(outcome, Lease):
        outcome.release()
