"""What is served: which models there are, in which state, and what they take; loads and unloads them in all processes.

The part of the data plane (`inference/dataplane.py`) that predicts nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, TypeVar

from inference import adjustments, configuration
from inference.adjustments import NONE
from inference.batching.terms import USUAL, Terms
from inference.errors import InferenceError, ModelNotFound, NothingToLoad
from inference.protocol.generate import OUTPUT, PROMPT
from inference.repository import IndexEntry, Lease, Repository
from inference.runtime import Runtime, TensorSpec
from inference.settings import Dialect
from inference.siblings import Siblings
from inference.statistics import Said
from inference.tally import Tally

T = TypeVar("T")

_PROMPT: Final = (TensorSpec(PROMPT, "BYTES", (1,)),)
_TEXT: Final = (TensorSpec(OUTPUT, "BYTES", (1,)),)
"""What a model that makes text takes and gives, if it says nothing else."""


def server_name(dialect: Dialect) -> str:
    """Say what the server calls itself."""
    return "triton" if dialect is Dialect.TRITON else "sidelight"


class Catalogue:
    """Describes the models of one repository."""

    def __init__(self, repository: Repository, siblings: Siblings | None, *, depends: bool, patience_s: float) -> None:
        """Begin.

        Args:
            repository: the models.
            siblings: the other processes that serve the same models on the same ports.
            depends: whether a model is ready only while what it depends on is.
            patience_s: how long a model is waited for that is to be described.
        """
        self.siblings = siblings
        self.draining = False
        """Set when the process is about to end: nothing is ready any more, but requests are still answered."""
        self._repository, self._depends, self._patience_s = repository, depends, patience_s
        self._tally = Tally(repository, siblings)

    def ready(self) -> bool:
        """Say whether new clients should be sent here."""
        return not self.draining and (not self._depends or all(map(self._supported, self.models())))

    def lost(self) -> str:
        """Say why nothing can be predicted any more on this process's GPU; empty: it can."""
        return self._repository.lost()

    def model_ready(self, model: str, version: str | None = None) -> bool:
        """Say whether new clients of a model should be sent here.

        Raises:
            ModelNotFound: no such model, or no such version.
        """
        return self._repository.ready(model, version) and not self.draining and self._supported(model, version)

    def models(self) -> list[str]:
        """List the models, loaded or not."""
        return self._repository.names()

    def index(self) -> list[IndexEntry]:
        """Describe the models' states."""
        return self._repository.index()

    async def awaken(self, model: str, version: str | None = None, terms: Terms = USUAL) -> None:
        """Have a model loaded that is about to be described, if a request may. Errors are left to the look."""
        loop = asyncio.get_running_loop()
        settled = asyncio.Event()

        def done(outcome: Lease | Exception) -> None:
            if isinstance(outcome, Lease):
                outcome.release()
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits
                loop.call_soon_threadsafe(settled.set)

        try:
            lease = self._repository.lease(model, version)
        except InferenceError:
            return
        if lease is not None:
            lease.release()
            return
        self._repository.lease_later(model, version, done)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(settled.wait(), self._left_s(terms))

    async def generates(self, model: str, version: str | None = None, terms: Terms = USUAL) -> bool:
        """Say whether a model makes text, here or behind; it is loaded first, if a request may.

        One that cannot be loaded does not. `terms` are those of who asks: another server may be asked in their name.
        """
        await self.awaken(model, version, terms)
        try:
            runtime = self._repository.loaded(model, version).runtime
        except InferenceError:
            return False
        return await runtime.generates_behind(model, terms) if runtime.forwards else runtime.generates()

    async def streams(self, model: str, version: str | None = None, terms: Terms = USUAL) -> bool | None:
        """Say whether a model gives several answers to a call; it is loaded first, as by `generates`.

        None: that cannot be said, for it is not loaded all the same.
        """
        await self.awaken(model, version, terms)
        try:
            return self._repository.loaded(model, version).runtime.streams()
        except InferenceError:
            return None

    async def described(self, model: str, version: str | None = None, terms: Terms = USUAL) -> dict[str, Any]:
        """Describe a model, loaded first if a request may; whether it makes text, the server behind it may know."""
        text = await self.generates(model, version, terms)
        return self.model_metadata(model, version, text=text)

    def model_metadata(self, model: str, version: str | None = None, *, text: bool = False) -> dict[str, Any]:
        """Describe a loaded model, as V2's "Model Metadata Response"; `text` for one that is known to make some."""
        loaded = self._repository.loaded(model, version)
        inputs, outputs = _tensors(loaded.runtime, text=text)
        return {
            "name": model,
            "versions": self._repository.versions(model) or [loaded.version],
            "platform": loaded.runtime.platform,
            "inputs": [_described(spec) for spec in inputs],
            "outputs": [_described(spec) for spec in outputs],
        }

    async def configured(self, model: str, version: str | None = None, terms: Terms = USUAL) -> dict[str, Any]:
        """Describe a model as Triton's model configuration does; see `described`."""
        text = await self.generates(model, version, terms)
        loaded = self._repository.loaded(model, version)
        numbered = bool(self._repository.versions(model))
        return configuration.of(model, loaded, *_tensors(loaded.runtime, text=text), numbered=numbered, text=text)

    async def statistics(
        self,
        write: Callable[[Iterable[Said]], T],
        model: str | None = None,
        version: str | None = None,
        *,
        everywhere: bool = True,
    ) -> T:
        """Write what models did in all processes; see `Tally.told`."""
        return await self._tally.told(write, model, version, everywhere=everywhere)

    def load(self, model: str, parameters: Mapping[str, Any] = NONE, *, everywhere: bool = True) -> None:
        """Load a model, or load it anew, in all processes; see `Repository.load`, and `adjustments.read`."""
        changes = adjustments.read(model, parameters)
        try:
            self._repository.load(model, changes)
        except ModelNotFound as exc:
            raise NothingToLoad(model) from exc
        if everywhere and self.siblings is not None:
            self.siblings.tell(model, "load", parameters)

    def unload(self, model: str, *, everywhere: bool = True) -> None:
        """Unload a model in all processes; see `Repository.unload`."""
        self._repository.unload(model)
        if everywhere and self.siblings is not None:
            self.siblings.tell(model, "unload")

    def label(self, model: str) -> str:
        """Give the metrics label for a name that a client sent."""
        return model if model in self._repository else "unknown"

    def _left_s(self, terms: Terms) -> float:
        most_s = self._patience_s
        return most_s if terms.deadline is None else min(most_s, terms.deadline - time.monotonic())

    def _supported(self, model: str, version: str | None = None) -> bool:
        """Say whether what a model depends on is there."""
        if not self._depends:
            return True
        try:
            return self._repository.loaded(model, version).runtime.ready(model)
        except InferenceError:
            return True


def _tensors(runtime: Runtime, *, text: bool) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
    if not runtime.inputs and not runtime.outputs and (text or runtime.generates()):
        return _PROMPT, _TEXT
    return runtime.inputs, runtime.outputs


def _described(spec: TensorSpec) -> dict[str, Any]:
    return {"name": spec.name, "datatype": spec.datatype, "shape": list(spec.shape)}
