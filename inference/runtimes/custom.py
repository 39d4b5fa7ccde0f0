"""A Python class of the user's own: `load`, `preprocess`, `predict` and `postprocess`, each plain or a coroutine.

The class lies in the model directory or in an installed package, and runs only with `--trusted`. docs/runtimes.md says
what each method gets and gives. Nothing of it runs on the server's event loop.
"""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar, Final, Self

import numpy as np
from numpy.typing import NDArray

from inference import options
from inference.coroutines import LoopThread
from inference.errors import InferenceError, InvalidInput, ModelLoadFailed, PredictionFailed
from inference.modelcode import ModelCode
from inference.runtime import Answer, Arrays, Asked, Runtime, Source, iris
from inference.signature import Signature, Wanted

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
        self._steps = [step for name in _STEPS if (step := _step(self._model, name, code.where)) is not None]
        self._generate = getattr(self._model, "generate", None)
        if not self._generate and not any(step.name == "predict" for step in self._steps):
            raise ModelLoadFailed(f"{code.where}: expected a method predict(self, inputs), got none")
        self._describe(source)
        asynchronous = any(step.name == "predict" and step.asynchronous for step in self._steps)
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
        keywords = {"directory": self._code.directory} if _takes(load, 0, "directory", where) else {}
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

    def _predicted(self, inputs: Arrays, parameters: Mapping[str, Any]) -> dict[str, NDArray[Any]]:
        value: Any = _checked(inputs) if self._signature is None else self._signature.fit(inputs)
        for step in self._steps:
            try:
                keywords = {"parameters": parameters} if step.parameters else {}
                value = self._result(step.method(value, **keywords))
            except InferenceError:
                raise
            except ValueError as exc:
                if step.name != "preprocess":
                    raise
                # What the class cannot make sense of before it predicts is the caller's mistake.
                raise InvalidInput(f"inputs: {exc}") from exc
        return _outputs(value, self._output_name)

    def _result(self, value: Any) -> Any:  # noqa: ANN401 - whatever the class gives
        return self._loop.run(value) if inspect.isawaitable(value) else value


@dataclass(frozen=True, slots=True)
class _Step:
    name: str
    method: Callable[..., Any]
    asynchronous: bool
    parameters: bool
    """Whether it takes the request's parameters."""


_STEPS: Final = ("preprocess", "predict", "postprocess")


def _step(model: object, name: str, where: str) -> _Step | None:
    method = getattr(model, name, None)
    if method is None:
        return None
    if inspect.isgeneratorfunction(method) or inspect.isasyncgenfunction(method):
        raise ModelLoadFailed(f"{where}.{name}: expected a method that returns, got one that yields")
    return _Step(name, method, inspect.iscoroutinefunction(method), _takes(method, 1, "parameters", f"{where}.{name}"))


def _takes(method: Any, count: int, extra: str, where: str) -> bool:  # noqa: ANN401 - the user's
    """Say whether a method takes the argument `extra` after its first `count`; refuse one that cannot be called."""
    if not callable(method):
        raise ModelLoadFailed(f"{where}: expected a method, got {method!r}")
    signature = inspect.signature(method)
    # By name: another second argument, with a default of its own, is the class's affair.
    takes = extra in signature.parameters
    try:
        signature.bind(*[None] * count, **({extra: None} if takes else {}))
    except TypeError:
        first = ["self", *["inputs"] * count]
        name = where.rpartition(".")[2]
        expected = f"{name}({', '.join(first)}) or {name}({', '.join([*first, extra])})"
        raise ModelLoadFailed(f"{where}: expected {expected}, got {name}{signature}") from None
    return takes


def _checked(inputs: Arrays) -> dict[str, NDArray[Any]]:
    if not inputs:
        raise InvalidInput("inputs: expected at least one, got none")
    if any(array.ndim and not len(array) for array in inputs.values()):
        raise InvalidInput("inputs: expected at least one row, got none")
    return dict(inputs)


def _outputs(value: Any, name: str) -> dict[str, NDArray[Any]]:  # noqa: ANN401 - whatever the class gives
    if isinstance(value, list) and value and all(isinstance(row, dict) for row in value):
        # One object per row, as V1 shows predictions.
        if any(row.keys() != value[0].keys() for row in value):
            raise PredictionFailed(f"the model gave objects with different keys: expected {sorted(value[0])} in each")
        value = {key: [row[key] for row in value] for key in value[0]}
    if not isinstance(value, Mapping):
        value = {name: value}
    if not value:
        raise PredictionFailed("the model gave no outputs")
    return {str(key): _array(str(key), item) for key, item in value.items()}


def _array(name: str, value: Any) -> NDArray[Any]:  # noqa: ANN401 - whatever the class gives
    try:
        array = np.asarray(value)
    except ValueError as exc:
        raise PredictionFailed(f"output {name!r}: expected one shape for all rows: {exc}") from exc
    if array.ndim == 0:
        raise PredictionFailed(f"output {name!r}: expected one value per row, got {value!r}")
    if array.dtype.kind in "US":
        array = array.astype(object)
    if array.dtype == object and not all(isinstance(item, (str, bytes)) for item in array.flat):
        wrong = next(item for item in array.flat if not isinstance(item, (str, bytes)))
        raise PredictionFailed(f"output {name!r}: expected numbers or text, got {type(wrong).__name__}")
    return array
