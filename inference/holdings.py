"""What a repository holds and how it fares: names, versions, states, memory. The part of it that answers no request.

Thread-safe. Used by `inference/repository.py`, which adds the requests and the calls that change something.
"""

from __future__ import annotations

from inference.entries import Copy, Model
from inference.errors import ModelNotFound
from inference.index import IndexEntry, lines
from inference.residency import Measure
from inference.rollout import UNNUMBERED
from inference.settings import RepositorySettings
from inference.statistics import Record
from inference.stock import Stock
from inference.upkeep import Upkeep
from inference.weighing import Counts


class Holdings:
    """The models by name, and what is loaded of them."""

    def __init__(self, settings: RepositorySettings, measure: Measure) -> None:
        self._settings = settings
        self._stock = Stock(settings, measure)
        self._upkeep = Upkeep(self._stock, settings)
        self._models: dict[str, Model] = {}

    def names(self) -> list[str]:
        """List every model, loaded or not."""
        return list(self._models)

    def __contains__(self, name: str) -> bool:
        return name in self._models

    def index(self) -> list[IndexEntry]:
        """Describe every model; one line for each version that was ever asked for."""
        return [line for model in list(self._models.values()) for line in lines(model)]

    def versions(self, name: str) -> list[str]:
        """List a model's numbered versions, the highest first; nothing where there are none.

        Raises:
            ModelNotFound: no model of this name.
        """
        return [version for version in self._upkeep.routes(self._model(name)).versions if version != UNNUMBERED]

    def records(self, name: str | None = None, version: str | None = None) -> list[tuple[str, str, Record]]:
        """Give what each version did that was ever loaded: of one model, or of all. May wait for files: see `known`.

        Raises:
            ModelNotFound: no model of this name, or no such version.
        """
        if name is not None and version is not None:
            copy, number = self._copy(name, version)
            # What was never loaded here has done nothing here, whichever version it is.
            if number is not None and copy.record is not None and number != copy.known:
                raise ModelNotFound(name, number)
            copies = [copy]
        else:
            models = list(self._models.values()) if name is None else [self._model(name)]
            copies = [copy for model in models for copy in list(model.copies.values())]
        return [(each.model.name, each.known, each.record) for each in copies if each.record is not None]

    @property
    def resident(self) -> tuple[int, int]:
        """Give how many models are in memory, and what they weigh by estimate."""
        return len(self._stock.residents), self._stock.residents.total

    @property
    def stuck(self) -> int:
        """Count the models that were to let go of what they hold, and have not."""
        return self._stock.farewells.late

    @property
    def on_device(self) -> tuple[int, int, int]:
        """Give how many models hold memory of a GPU, how much together, and the bound; 0: none."""
        devices = self._stock.devices
        return len(devices), devices.total, self._settings.max_gpu_memory

    def gpu_bytes(self) -> dict[str, int]:
        """Give what each model holds of a GPU, all of its versions together; those that hold some."""
        held: dict[str, int] = {}
        for copy in self._stock.devices.held():
            held[copy.model.name] = held.get(copy.model.name, 0) + copy.device
        return held

    def lost(self) -> str:
        """Say why models on a GPU can never predict again in this process; empty: they can."""
        leases = (copy.lease for copy in self._stock.devices.held())
        return next((reason for lease in leases if lease is not None and (reason := lease.loaded.runtime.lost())), "")

    @property
    def bound(self) -> int:
        """Give the bytes that the process is kept below; 0: no bound."""
        return self._settings.max_memory

    @property
    def counts(self) -> Counts:
        """Give what was loaded and unloaded so far."""
        counts = self._stock.counts
        counts.evictions = self._stock.residents.evictions + self._stock.devices.evictions
        return counts

    def _model(self, name: str) -> Model:
        try:
            return self._models[name]
        except KeyError:
            raise ModelNotFound(name) from None

    def _copy(self, name: str, version: str | None) -> tuple[Copy, str | None]:
        """Find a version; the second is a version that is yet to be compared, for models without numbers."""
        model = self._model(name)
        routes = self._upkeep.routes(model)
        found = routes.find(version)
        number = None
        if found is None:
            if routes.versions != (UNNUMBERED,):
                raise ModelNotFound(name, version)
            found, number = UNNUMBERED, version
        copy = model.copies.get(found)
        return copy or model.copies.setdefault(found, Copy(model, found)), number
