"""A Python class of the user's own: `load`, `preprocess`, `predict`, `postprocess`, ..., each plain or a coroutine.

The class lies in the model directory or in an installed package, and runs only with `--trusted`. docs/runtimes.md says
what each method gets and gives. Nothing of it runs on the server's event loop.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar, Final, Self

import numpy as np
from numpy.typing import NDArray

from inference import options
from inference.errors import ModelLoadFailed, Unsupported
from inference.modelcode import ModelCode
from inference.runtime import Answer, Arrays, Asked, Runtime, Source, iris
from inference.steps import Step, arrays, checked, takes
from inference.userobject import UserObject

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
        self._object = UserObject(code, options.read(Options, source).arguments, "model")
        self._output_name = source.settings.output_name
        self._steps = [found for name in _STEPS if (found := self._object.step(name)) is not None]
        self._prepares = sum(each.name == "preprocess" for each in self._steps)
        self._explain = self._object.step("explain")
        self._generate = self._object.attribute("generate")
        self._stream = self._object.attribute("stream")
        where = f"{code.where}.stream"
        self._stream_asks = self._stream is not None and takes(self._stream, 1, "parameters", where)
        self._predicts = any(each.name == "predict" for each in self._steps)
        if not (self._generate or self._stream or self._predicts):
            raise ModelLoadFailed(f"{code.where}: expected a method predict(self, inputs), got none")
        self.inputs, self.outputs, self._signature = self._object.described(source)
        self.features = () if self._signature is None else self._signature.features()
        asynchronous = any(each.name == "predict" and each.asynchronous for each in self._steps)
        # Plain code was seldom written for several threads; coroutines were written to run beside each other.
        self.thread_safe = bool(self._object.attribute("thread_safe", asynchronous))
        self.max_batch = int(self._object.attribute("max_batch", 1))
        self.takes_bytes = bool(self._object.attribute("takes_bytes"))

    @classmethod
    def load(cls, source: Source) -> Self:
        """Import the class, build an instance and have it load."""
        code = ModelCode(options.read(Options, source).model, source)
        try:
            runtime = cls(code, source)
            runtime._object.load()
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
        return self._object.pieces(self._generate(prompt, parameters))

    def generates(self) -> bool:
        """Say whether the class has a `generate`."""
        return self._generate is not None

    def stream(self, inputs: Arrays, asked: Asked) -> Iterator[Answer]:
        """Give the class's answers one by one."""
        if self._stream is None:
            return super().stream(inputs, asked)
        keywords = {"parameters": asked.parameters} if self._stream_asks else {}
        made = self._object.pieces(self._stream(self._fitted(inputs), **keywords))
        return (Answer(outputs=arrays(each, self._output_name)) for each in made)

    def streams(self) -> bool:
        """Say whether the class has a `stream`."""
        return self._stream is not None

    def explain(self, inputs: Arrays, parameters: Mapping[str, Any]) -> Mapping[str, Any]:
        """Have the class explain what `preprocess` gives; `postprocess` is for predictions."""
        if self._explain is None:
            return super().explain(inputs, parameters)
        found: Mapping[str, Any] = self._gone_through(
            [*self._steps[: self._prepares], self._explain], inputs, parameters
        )
        return found

    def explains(self) -> bool:
        """Say whether the class has an `explain`."""
        return self._explain is not None

    def unload(self) -> None:
        """Have the class let go of what it holds, and forget its modules."""
        self._object.unload()

    @classmethod
    def example(cls, directory: Path) -> dict[str, NDArray[Any]]:
        """Save a class that finds the nearest of three means."""
        rows, labels = iris()
        (directory / "model.py").write_text(_EXAMPLE)
        np.savetxt(directory / "means.csv", [rows[labels == label].mean(axis=0) for label in range(3)], delimiter=",")
        return {"measurements": rows}

    def _predicted(self, inputs: Arrays, parameters: Mapping[str, Any]) -> dict[str, NDArray[Any]]:
        if self._stream is not None and not self._predicts:
            raise Unsupported("this model gives several answers to a call: send it over a gRPC stream")
        return arrays(self._gone_through(self._steps, inputs, parameters), self._output_name)

    def _fitted(self, inputs: Arrays) -> dict[str, NDArray[Any]]:
        return checked(inputs) if self._signature is None else self._signature.fit(inputs)

    def _gone_through(self, steps: Sequence[Step], inputs: Arrays, parameters: Mapping[str, Any]) -> Any:  # noqa: ANN401 - whatever the class gives
        value: Any = self._fitted(inputs)
        for each in steps:
            value = self._object.run(each, value, parameters)
        return value


_STEPS: Final = ("preprocess", "predict", "postprocess")
