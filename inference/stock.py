"""The versions of models that are in memory or could be: loads them, once for however many wait, and unloads them.

What failed is remembered with its reason, and not tried again for every request. With a bound on memory, idle models
make room for those that requests wait for. Thread-safe. Used by `inference/repository.py`, which knows the names.
"""

from __future__ import annotations

import gc
import logging
import random
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Final

from inference.adjustments import Adjustments, adjusted
from inference.devices import OnDevice
from inference.entries import Copy
from inference.errors import DeviceExhausted, InferenceError, ModelLoadFailed, ModelNotReady
from inference.farewell import Farewells
from inference.folders import Fingerprint, Loaded
from inference.lease import Done, Lease
from inference.loading import Loads
from inference.residency import Measure, Residents, Unload
from inference.settings import RepositorySettings
from inference.statistics import Record
from inference.weighing import Counts, Scales, estimate

log = logging.getLogger(__name__)

_SWEPT_EVERY: Final = 64
"""Models that went to make room. For those that came, a thousand objects or two were made: half a millisecond."""


class Stock:
    """Loads and unloads."""

    def __init__(self, settings: RepositorySettings, measure: Measure) -> None:
        self._settings = settings
        self._lock = threading.Lock()
        self._free = threading.Condition(self._lock)
        """Notified when a version is no longer busy."""
        self._slots = threading.BoundedSemaphore(settings.loads)
        self._loads = Loads(settings.loads)
        self._swept = 0
        self._over: float | None = None
        """When loads are waited for no longer; None: not yet."""
        self.draw = random.Random().random  # noqa: S311 - spreads retries and chooses canaries, no secret
        self.residents: Residents[Copy] = Residents(settings.max_memory, self._evict, measure=measure)
        self.devices: OnDevice[Copy] = OnDevice(
            settings.max_gpu_memory, self._evict, lambda copy: copy.devices, self.residents.shortage
        )
        self.farewells = Farewells(settings.unload_wait_s)
        self.counts = Counts()
        self._scales = Scales(self.counts, measure)

    def lease(self, copy: Copy) -> Lease | None:
        """Hold a loaded version; None when it must be loaded first. Never waits.

        Raises:
            ModelNotReady: not loaded, and not to be loaded by a request; or loading failed a moment ago.
        """
        while (lease := copy.lease) is not None:
            if lease.acquire():
                self.residents.used(copy)
                self.devices.used(copy)
                return lease
        self._refuse_unless_loadable(copy)
        return None

    def lease_later(self, copy: Copy, done: Done, *, here: bool = False) -> None:
        """Give a lease to `done` when the version is loaded, or the reason why not; begins its load, or joins it.

        Args:
            copy: the version.
            done: must not wait.
            here: load on this thread, which is one of those that load.

        Raises:
            ModelNotReady: as `lease`; `done` is not called then.
        """
        with self._lock:
            lease = copy.lease
            begins = False
            if lease is None or not lease.acquire():
                if not copy.busy:
                    self._refuse_unless_loadable(copy)
                    begins = copy.busy = True
                copy.waiters.append(done)
                lease = None
        if lease is not None:
            done(lease)
        elif begins and here:
            self._load_for_requests(copy)
        elif begins:
            self._loads.put(partial(self._load_for_requests, copy))

    def soon(self, job: Callable[[], None]) -> None:
        """Do something that reads files, on one of the threads that load. It must not raise."""
        self._loads.put(job)

    def load(self, copy: Copy, adjustments: Adjustments | None) -> None:
        """Load a version now, or load it anew, with its settings adjusted; what was loaded serves until then.

        None: adjusted as the last call said, as long as that goes with what the folder holds now.

        Raises:
            ModelLoadFailed, MissingExtra: see `inference/directory.py`.
        """
        with self._free:
            self._free.wait_for(lambda: not copy.busy)
            copy.busy = True
        outcome = self._load(copy, adjustments)
        if isinstance(outcome, Exception):
            raise outcome

    def drop(self, copy: Copy) -> None:
        """Unload a version when its last prediction has ended."""
        with self._free:
            left = None if self._over is None else max(0.0, self._over - time.monotonic())
            if not self._free.wait_for(lambda: not copy.busy, left):
                log.warning("model %s is still being loaded, and is not waited for any longer", copy.model.name)
                return
            old, copy.lease = copy.lease, None
            copy.failures, copy.reason = 0, "unloaded" if copy.model.stopped else ""
        self._gone(copy)
        if old is not None:
            old.retire()

    def pause(self, failures: int) -> float:
        """Give the seconds until the next try: more each time, and not the same for all models."""
        settings = self._settings
        most = min(settings.retry_most_s, settings.retry_s * 2.0 ** min(failures - 1, 30))
        return most * (0.5 + self.draw() / 2)

    def close(self) -> None:
        """End the threads; what they load now is loaded yet, and waited for a while: it may never be.

        What is unloaded from now on, `finish` of the farewells waits for.
        """
        self._over = time.monotonic() + self._settings.unload_wait_s
        self._loads.close()
        self.farewells.hurry()

    def _refuse_unless_loadable(self, copy: Copy) -> None:
        if copy.busy:
            return
        if copy.model.stopped:
            raise ModelNotReady(copy.model.name)
        if copy.failures and (left := copy.retry_at - time.monotonic()) > 0:
            raise ModelNotReady(copy.model.name, copy.reason, left)

    def _load_for_requests(self, copy: Copy) -> None:
        outcome = self._load(copy, None)
        if isinstance(outcome, Exception) and not isinstance(outcome, InferenceError):
            log.error("model %s version %s cannot be loaded", copy.model.name, copy.version, exc_info=outcome)

    def _load(self, copy: Copy, adjustments: Adjustments | None) -> Lease | Exception:
        """Load what is marked busy, and tell whoever waits."""
        weight, on_device = copy.measured, copy.device
        try:
            with self._slots:
                fingerprint = copy.model.source.fingerprint(copy.version)
                weight = weight or estimate(fingerprint)
                load = partial(self._adjusted, copy, fingerprint, adjustments)
                loaded = self._load_within(copy, load, weight, on_device)
        except BaseException as exc:
            # Whatever a model's file does is remembered and told.
            if threading.current_thread() is threading.main_thread() and isinstance(exc, KeyboardInterrupt):
                raise  # Ctrl-C, at the start
            told = exc if isinstance(exc, Exception) else ModelLoadFailed(f"{type(exc).__name__}: {exc}")
            return self._failed(copy, told)
        record = copy.record = copy.record or Record()
        lease = Lease(copy.model.name, loaded, self.residents.shortage, record, self.farewells)
        with self._free:
            waiters, copy.waiters = copy.waiters, []
            lease.acquire(len(waiters) + 1)
            old, copy.lease = copy.lease, lease
            copy.fingerprint, copy.known = fingerprint, loaded.version
            copy.busy, copy.failures, copy.reason = False, 0, ""
            self.counts.loads += 1
            self._free.notify_all()
        self.residents.settle(copy, weight, copy.measured or weight)
        self.devices.settle_found(copy, on_device, copy.device)
        lease.release()
        for done in waiters:
            done(lease)
        if old is not None:
            old.retire()
        self.residents.steer()
        self._sweep()
        log.log(
            logging.DEBUG if self.residents.bounded else logging.INFO,
            "model %s version %s is ready",
            copy.model.name,
            loaded.version,
        )
        return lease

    def _sweep(self) -> None:
        """Search what is young for cycles, now and then where models come and go.

        Python does so by what was made less what went: where as much goes as comes, it would be put off until all that
        was loaded meanwhile is to be looked through at once, while every call waits.
        """
        gone = self.residents.evictions + self.devices.evictions
        if gone - self._swept >= _SWEPT_EVERY:
            self._swept = gone
            gc.collect(0)

    def _load_within(self, copy: Copy, load: Callable[[], Loaded], weight: int, on_device: int) -> Loaded:
        self._reserve(weight, on_device)
        try:
            loaded = self._loaded_once_there_is_room(copy, load)
            self._check_device(copy, loaded)
        except BaseException:
            self.residents.cancel(weight)
            self.devices.cancel(on_device)
            raise
        return loaded

    def _adjusted(self, copy: Copy, seen: Fingerprint, adjustments: Adjustments | None) -> Loaded:
        loaded = copy.model.source.load(copy.version, seen)
        try:
            return adjusted(loaded, copy.model.adjustments if adjustments is None else adjustments)
        except ModelLoadFailed as exc:
            if adjustments is None:
                # Whoever said them is not there to be told, and others have predictions to be made.
                log.warning("model %s goes without the settings of its last load call: %s", copy.model.name, exc)
                return loaded
            self.farewells.unload(copy.model.name, loaded.runtime)
            raise

    def _loaded_once_there_is_room(self, copy: Copy, load: Callable[[], Loaded]) -> Loaded:
        while True:
            try:
                return self._scales.load(copy, load)
            except DeviceExhausted as exc:
                # Only where requests load models, as they would load those again that go.
                if not (self._settings.on_demand and self.devices.evict_idle(exc.device)):
                    raise

    def _reserve(self, weight: int, on_device: int) -> None:
        give_up = time.monotonic() + self._settings.load_wait_s
        if not self.residents.reserve(weight, give_up):
            raise ModelLoadFailed(
                f"no room: needs about {weight >> 10} KiB within --max_memory {self._settings.max_memory >> 20} MiB; "
                f"{len(self.residents)} loaded models are in use"
            )
        if not self.devices.reserve(on_device, give_up):
            self.residents.cancel(weight)
            raise ModelLoadFailed(
                f"no room: needs {on_device >> 20} MiB within --max_gpu_memory "
                f"{self._settings.max_gpu_memory >> 20} MiB; {len(self.devices)} loaded models are in use"
            )

    def _check_device(self, copy: Copy, loaded: Loaded) -> None:
        held = loaded.runtime.device_bytes
        if not self.devices.takes(held):
            self.farewells.unload(copy.model.name, loaded.runtime)
            raise ModelLoadFailed(
                f"holds {held >> 20} MiB of GPU memory, more than --max_gpu_memory "
                f"{self._settings.max_gpu_memory >> 20} MiB allows"
            )
        copy.device, copy.devices = held, tuple(loaded.runtime.devices)

    def _failed(self, copy: Copy, error: Exception) -> Exception:
        """Remember a failure, and when to try again: later each time, and not all models at one moment."""
        with self._free:
            waiters, copy.waiters = copy.waiters, []
            copy.busy = False
            copy.failures += 1
            pause = self.pause(copy.failures)
            copy.retry_at = time.monotonic() + pause
            attempt, reason = copy.failures, f"{type(error).__name__}: {error}"
            copy.reason = reason
            self.counts.failures += 1
            self._free.notify_all()
        log.warning(
            "model %s version %s cannot be loaded, attempt %d, next in %.1f s at the earliest: %s",
            copy.model.name, copy.version, attempt, pause, reason,
        )  # fmt: skip
        for done in waiters:
            done(ModelNotReady(copy.model.name, reason, pause))
        return error

    def _evict(self, copy: Copy) -> Unload | None:
        with self._lock:
            # First out of sight: who comes now waits for this lock instead of trying again and again.
            lease, copy.lease = copy.lease, None
            if lease is None:
                return _nothing
            if not lease.retire_if_idle():
                copy.lease = lease
                return None
        # Out of the other memory, too.
        return self.residents.leaving(copy, self.devices.leaving(copy, lease.unload))

    def _gone(self, copy: Copy) -> None:
        self.residents.gone(copy)
        self.devices.gone(copy)


def _nothing() -> None:
    """Let go of a model that went meanwhile."""
