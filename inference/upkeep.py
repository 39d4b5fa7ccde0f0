"""Keeps a model to what its folder holds: reads its versions and rollout, and switches when they change. Thread-safe.

Used by `inference/repository.py`, which knows the models; loading is in `inference/stock.py`.
"""

from __future__ import annotations

import logging
import time

from inference.adjustments import Adjustments
from inference.entries import Copy, Model
from inference.errors import ModelLoadFailed, ModelNotReady
from inference.folders import ModelFolder
from inference.rollout import Routes, routes_of
from inference.settings import RepositorySettings
from inference.stock import Stock

log = logging.getLogger(__name__)


class Upkeep:
    """What is done to one model at a time."""

    def __init__(self, stock: Stock, settings: RepositorySettings) -> None:
        self._stock, self._settings = stock, settings

    def routes(self, model: Model) -> Routes:
        """Give a model's routes; looks into its folder the first time. Never waits for a load.

        Raises:
            ModelNotReady: what lies there cannot be used, or could not a moment ago.
        """
        routes = model.routes
        if routes is None:
            if model.failures and (left := model.retry_at - time.monotonic()) > 0:
                raise ModelNotReady(model.name, model.reason, left)
            try:
                routes = self._read(model)
            except ModelLoadFailed as exc:
                self._put_off(model, exc)
                raise ModelNotReady(model.name, model.reason) from exc
        return routes

    def reads(self, model: Model) -> bool:
        """Tell whether `routes` would look into the folder now."""
        return model.routes is None and not (model.failures and model.retry_at > time.monotonic())

    def refresh(self, model: Model, *, anew: bool, adjustments: Adjustments | None = None) -> None:
        """Load what a model's folder holds now, every version that requests are sent to, and then switch to it.

        Args:
            model: changed by one call at a time.
            anew: also what is loaded and has not changed, or was unloaded.
            adjustments: of its settings, from now on if nothing fails; None: those that hold already, where they fit.

        Raises:
            ModelLoadFailed, MissingExtra: see `inference/directory.py`; nothing is switched then.
        """
        with model.changing:
            if model.stopped and not anew:
                return
            self._refresh(model, adjustments, anew=anew)

    def look_at(self, model: Model, folder: ModelFolder) -> None:
        """Change a model when its folder looks another way than when it was read, and the same at two looks."""
        looks = folder.whole()
        if looks == model.seen:
            model.unsettled = None
        elif looks != model.unsettled:
            model.unsettled, model.retry_at = looks, 0.0
        elif any(copy.busy and copy.lease is None for copy in model.copies.values()):
            # It is being loaded: who would forget it now would have it in memory twice. The next look finds it.
            return
        elif not any(copy.lease for copy in model.copies.values()) and self._settings.on_demand:
            # Nothing of it serves: the next request finds what is there now.
            model.routes, model.failures, model.copies = None, 0, {}
        elif time.monotonic() >= model.retry_at:
            try:
                self.refresh(model, anew=False)
            except Exception as exc:  # noqa: BLE001 - whatever is wrong with the new files, the old model serves
                self._put_off(model, exc)

    def _refresh(self, model: Model, adjustments: Adjustments | None, *, anew: bool) -> None:
        seen = model.source.whole() if isinstance(model.source, ModelFolder) else ()
        routes = routes_of(model.name, model.source.versions(), model.source.rollout())
        for version in routes.wanted:
            copy = model.copies.setdefault(version, Copy(model, version))
            if anew or copy.lease is None or copy.fingerprint != model.source.fingerprint(version):
                self._stock.load(copy, adjustments)
        if adjustments is not None:
            model.adjustments = adjustments
        model.routes, model.seen, model.unsettled, model.stopped = routes, seen, None, False
        model.failures, model.reason = 0, ""
        for version, copy in list(model.copies.items()):
            changed = copy.lease is not None and copy.fingerprint != model.source.fingerprint(version)
            if version not in routes.versions or changed:
                # A changed one that no request is sent to unasked is loaded by the next that asks for it.
                del model.copies[version]
                self._stock.drop(copy)

    def _read(self, model: Model) -> Routes:
        if self._settings.poll_s and isinstance(model.source, ModelFolder):
            model.seen = model.source.whole()
        model.routes = routes = routes_of(model.name, model.source.versions(), model.source.rollout())
        return routes

    def _put_off(self, model: Model, error: Exception) -> None:
        model.failures += 1
        model.retry_at = time.monotonic() + self._stock.pause(model.failures)
        model.reason = f"{type(error).__name__}: {error}"
        log.warning("model %s stays as it is: %s", model.name, model.reason)
