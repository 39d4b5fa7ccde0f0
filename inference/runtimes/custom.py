"""A Python class of the user's own: `load`, `preprocess`, `predict` and `postprocess`, each plain or a coroutine.

The class lies in the model directory or in an installed package, and runs only with `--trusted`. docs/runtimes.md says
what each method gets and gives. Nothing of it runs on the server's event loop.
"""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar, Final, Self

import numpy as np
from numpy.typing import NDArray

from inference import options
from inference.coroutines import LoopThread
from inference.errors import InferenceError, InvalidInput, ModelLoadFailed
from inference.modelcode import ModelCode
from inference.runtime import Answer, Arrays, Asked, Runtime, Source, iris
from inference.signature import Signature, Wanted
from inference.steps import arrays, checked, step, takes

_NOTHING: Final[Mapping[str, Any]] = MappingProxyType({})
_EXAMPLE: Final = '''\
"""The nearest of three flowers, by the mean of each measurement."""

import asyncio

import numpy as np


class Model:
    """Takes four measurements, gives the kind and how far it is."""

    inputs = [{"name": "measurements", "datatype": "FP64", "shape": [-1, 4]}]
    outputs = [
        {"name": "kind", "datatype": "BYTES", "shape": [-1]},
        {"name": "distance", "datatype": "FP64", "shape": [-1]},
    ]
    max_batch = 32

    def load(self, directory):
        self.means = np.loadtxt(directory / "means.csv", delimiter=",")
        self.kinds = np.array(["setosa", "versicolor", "virginica"], object)

    async def preprocess(self, inputs):
        await asyncio.sleep(0)  # here a model may ask a feature store
        return inputs["measurements"]

    def predict(self, rows):
        return np.linalg.norm(rows[:, None, :] - self.means, axis=2)

    def postprocess(self, distances):
        nearest = distances.argmin(axis=1)
        return {"kind": self.kinds[nearest], "distance": distances.min(axis=1)}
'''


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """Which class, and what it is built with."""

    model: str = "model:Model"
    """`module:Class`: a file of the model directory, `model.py` here, or else an installed module."""
    arguments: dict[str, Any] = field(default_factory=dict)
    """Keyword arguments of the class."""


class Custom(Runtime):
    """One instance of the class."""

    platform: ClassVar[str] = "python_class"
    options: ClassVar[type[Any]] = Options
    runs_code: ClassVar[bool] = True

    def __init__(self, code: ModelCode, source: Source) -> None:
        self._code = code
        self._model = code.build(options.read(Options, source).arguments)
        self._loop = LoopThread(f"model-{code.kind.__name__}")
        self._output_name = source.settings.output_name
        self._steps = [found for name in _STEPS if (found := step(self._model, name, code.where)) is not None]
        self._generate = getattr(self._model, "generate", None)
        if not self._generate and not any(each.name == "predict" for each in self._steps):
            raise ModelLoadFailed(f"{code.where}: expected a method predict(self, inputs), got none")
        self._describe(source)
        asynchronous = any(each.name == "predict" and each.asynchronous for each in self._steps)
        # Plain code was seldom written for several threads; coroutines were written to run beside each other.
        self.thread_safe = bool(getattr(self._model, "thread_safe", asynchronous))
        self.max_batch = int(getattr(self._model, "max_batch", 1))

    @classmethod
    def load(cls, source: Source) -> Self:
        """Import the class, build an instance and have it load."""
        code = ModelCode(options.read(Options, source).model, source)
        try:
            runtime = cls(code, source)
            runtime._load()
        except BaseException:
            code.forget()
            raise
        return runtime

    def predict(self, inputs: Arrays) -> dict[str, NDArray[Any]]:
        """Go through the class's steps."""
        return self._predicted(inputs, _NOTHING)

    def answer(self, inputs: Arrays, asked: Asked) -> Answer:
        """Do the same for a class that wants the request's parameters."""
        return Answer(outputs=self._predicted(inputs, asked.parameters))

    def generate(self, prompt: str, parameters: Mapping[str, Any]) -> Iterator[str]:
        """Give the class's text piece by piece."""
        if self._generate is None:
            return super().generate(prompt, parameters)
        pieces = self._generate(prompt, parameters)
        return self._loop.each(pieces) if isinstance(pieces, AsyncIterator) else iter(pieces)

    def unload(self) -> None:
        """Have the class let go of what it holds, and forget its modules."""
        unload = getattr(self._model, "unload", None)
        try:
            if unload is not None:
                self._result(unload())
        finally:
            self._loop.close()
            self._code.forget()

    @classmethod
    def example(cls, directory: Path) -> dict[str, NDArray[Any]]:
        """Save a class that finds the nearest of three means."""
        rows, labels = iris()
        (directory / "model.py").write_text(_EXAMPLE)
        np.savetxt(directory / "means.csv", [rows[labels == label].mean(axis=0) for label in range(3)], delimiter=",")
        return {"measurements": rows}

    def _load(self) -> None:
        load = getattr(self._model, "load", None)
        if load is None:
            return
        where = f"{self._code.where}.load"
        keywords = {"directory": self._code.directory} if takes(load, 0, "directory", where) else {}
        try:
            self._result(load(**keywords))
        except Exception as exc:
            self._loop.close()
            raise ModelLoadFailed(f"{where}: {type(exc).__name__}: {exc}") from exc

    def _describe(self, source: Source) -> None:
        where = self._code.where
        self.inputs = options.specs(tuple(getattr(self._model, "inputs", ())), f"{where}.inputs")
        self.outputs = options.specs(tuple(getattr(self._model, "outputs", ())), f"{where}.outputs")
        wanted = [Wanted(spec.name, spec.datatype, spec.shape) for spec in self.inputs]
        self._signature = Signature(wanted, source.settings) if wanted else None
        self.features = () if self._signature is None else self._signature.features()

    def _predicted(self, inputs: Arrays, parameters: Mapping[str, Any]) -> dict[str, NDArray[Any]]:
        value: Any = checked(inputs) if self._signature is None else self._signature.fit(inputs)
        for each in self._steps:
            try:
                keywords = {"parameters": parameters} if each.parameters else {}
                value = self._result(each.method(value, **keywords))
            except InferenceError:
                raise
            except ValueError as exc:
                if each.name != "preprocess":
                    raise
                # What the class cannot make sense of before it predicts is the caller's mistake.
                raise InvalidInput(f"inputs: {exc}") from exc
        return arrays(value, self._output_name)

    def _result(self, value: Any) -> Any:  # noqa: ANN401 - whatever the class gives
        return self._loop.run(value) if inspect.isawaitable(value) else value


_STEPS: Final = ("preprocess", "predict", "postprocess")
