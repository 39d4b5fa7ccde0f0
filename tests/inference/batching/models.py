"""Models for the batcher's tests, which tell what they were given and can be held up, and what is around them."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from inference.dataplane import DataPlane
from inference.errors import InvalidInput
from inference.metrics import PredictorMetrics
from inference.protocol.tensors import Tensor
from inference.protocol.v2 import InferRequest, InferResponse
from inference.repository import Loaded, Repository, Wanted
from inference.runtime import Answer, Arrays, Asked, Runtime, Source
from inference.settings import ModelSettings, ServerSettings

PATIENCE_S = 60.0
STALL_S = 0.1
"""What holds an event loop up for longer is not run there for a while."""
BAD = -1.0
_NOTHING: Mapping[str, Any] = {}
Given = TypeVar("Given")


class Sums(Runtime):
    """Sums rows while its gate is open. A row of BAD is refused, the whole call with it; one of NaN ends the thread."""

    max_batch = 8

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.gate.set()
        self.batches: list[int] = []
        """Rows of every call of `predict`."""
        self.at_once = self.most_at_once = 0
        self._lock = threading.Lock()

    @classmethod
    def load(cls, source: Source) -> Self:
        """Need nothing."""
        del source
        return cls()

    def predict(self, inputs: Arrays) -> dict[str, NDArray[Any]]:
        """Wait for the gate, then sum."""
        (array,) = inputs.values()
        with self._lock:
            self.batches.append(len(array))
            self.at_once += 1
            self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            if not self.gate.wait(PATIENCE_S):
                raise TimeoutError("the gate stayed shut")
            if (array == BAD).any():
                raise InvalidInput("a bad row")
            if np.isnan(array).any():
                raise SystemExit("a row that kills")
            return self.outputs_of(array)
        finally:
            with self._lock:
                self.at_once -= 1

    def outputs_of(self, array: NDArray[Any]) -> dict[str, NDArray[Any]]:
        """Give one sum per row."""
        return {"sum": array.reshape(len(array), -1).sum(axis=1)}

    @classmethod
    def example(cls, directory: Path) -> dict[str, NDArray[Any]]:
        """Give two rows; there is nothing to save."""
        del directory
        return {"x": np.ones((2, 2))}


class Totals(Sums):
    """Says that its rows can be joined, and gives one number for all of them."""

    def outputs_of(self, array: NDArray[Any]) -> dict[str, NDArray[Any]]:
        """Give one sum per call, in two places."""
        return {"total": np.array([array.sum(), 0.0])}


class Slow(Sums):
    """Takes one thread at a time."""

    thread_safe = False


class Scales(Sums):
    """Looks at a call's parameters, and answers with some."""

    def answer(self, inputs: Arrays, asked: Asked) -> Answer:
        """Scale the sums."""
        factor = asked.parameters.get("factor", 1)
        outputs = {name: array * factor for name, array in self.predict(inputs).items()}
        return Answer(
            outputs=outputs,
            parameters={"scaled": factor},
            output_parameters={"sum": dict(asked.outputs.get("sum", {}))},
        )


class Tells(Sums):
    """Makes text."""

    def __init__(self) -> None:
        super().__init__()
        self.closed = threading.Event()
        self.made = 0

    def generate(self, prompt: str, parameters: Mapping[str, Any]) -> Iterator[str]:
        """Give the prompt's words, as many times as asked."""
        try:
            for _ in range(parameters.get("times", 1)):
                for word in prompt.split():
                    self.made += 1
                    yield word
            if "fail" in parameters:
                raise RuntimeError("lost for words")
        finally:
            self.closed.set()


@asynccontextmanager
async def serving(
    runtime: Runtime | Callable[[], Loaded], settings: ModelSettings | None = None, **server: float
) -> AsyncIterator[DataPlane]:
    """Serve a model as `m`."""
    load = (lambda: Loaded(runtime, "1", settings or ModelSettings())) if isinstance(runtime, Runtime) else runtime
    repository = Repository({"m": load})
    repository.load("m")
    # mypy knows no way to say that these are the settings' own names and types.
    plane = DataPlane(repository, PredictorMetrics(lambda: 0.0), ServerSettings(**server))  # type: ignore[arg-type]
    try:
        yield plane
    finally:
        plane.close()
        repository.close()


def rows(*values: float, width: int = 2, name: str = "x", parameters: Mapping[str, Any] = _NOTHING) -> InferRequest:
    """Make a request whose rows are these values, repeated."""
    array = np.repeat(np.array(values, np.float64)[:, np.newaxis], width, axis=1)
    return InferRequest(inputs=(Tensor.of(name, array),), parameters=parameters)


def sums(response: InferResponse) -> list[float]:
    """Give the sums of a response."""
    found: list[float] = response.outputs[0].data.tolist()
    return found


async def undisturbed(
    given: Callable[[], AbstractAsyncContextManager[Given]], test: Callable[[Given], Awaitable[None]]
) -> None:
    """Run a test of what an event loop does itself: anew, if it fails where the machine did not let the process run."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        async with given() as found:
            begun = time.monotonic()
            try:
                return await test(found)
            except AssertionError:
                now = time.monotonic()
                if now - begun < STALL_S or now > deadline:
                    raise


async def until(condition: Callable[[], bool]) -> None:
    """Wait until a condition holds."""
    async with asyncio.timeout(PATIENCE_S):
        while not condition():  # noqa: ASYNC110 - threads have no event to wait on here
            await asyncio.sleep(0.001)


def until_true(condition: Callable[[], bool]) -> None:
    """Do the same without an event loop."""
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


async def hold(plane: DataPlane, runtime: Sums, calls: int = 1) -> Sequence[asyncio.Future[Any]]:
    """Shut the gate, and have calls run into it, one on each thread."""
    runtime.gate.clear()
    held = []
    for index in range(calls):
        held.append(asyncio.ensure_future(plane.infer_async("m", rows(float(index), width=3 + index))))
        await until(lambda: len(runtime.batches) == len(held))
    return held


class Loading:
    """Loads, and comes to an end only when it is told: by a lease or an error, given to what is pending."""

    def __init__(self) -> None:
        self.pending: list[Callable[[Any], None]] = []

    def lease(self, name: str, version: Wanted = None) -> None:
        """Have nothing yet."""
        del name, version

    def lease_later(self, name: str, version: Wanted, done: Callable[[Any], None]) -> None:
        """Begin."""
        del name, version
        self.pending.append(done)
