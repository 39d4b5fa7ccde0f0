"""TensorFlow SavedModels, by one of their signatures.

A SavedModel is a program that can read and write files, so it needs `--trusted`. Inputs and outputs are those of the
signature.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Final, Self

import numpy as np
from numpy.typing import NDArray

from inference import options
from inference.errors import InvalidInput, ModelLoadFailed, UnsafeFormat
from inference.runtime import ANY, Arrays, Runtime, Source, TensorSpec, iris, library
from inference.signature import Signature, Wanted, chosen

_DATATYPES: Final = {
    "bool": "BOOL", "string": "BYTES", "uint8": "UINT8", "uint16": "UINT16", "uint32": "UINT32", "uint64": "UINT64",
    "int8": "INT8", "int16": "INT16", "int32": "INT32", "int64": "INT64",
    "float16": "FP16", "bfloat16": "BF16", "float32": "FP32", "float64": "FP64",
}  # fmt: skip
_BATCH: Final = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What of a model is served."""

    signature: str = "serving_default"
    """Which of the model's signatures."""


class TensorFlow(Runtime):
    """One signature of a model."""

    suffixes: ClassVar[tuple[str, ...]] = (".pb",)
    platform: ClassVar[str] = "tensorflow_savedmodel"
    options: ClassVar[type[Any]] = Options
    runs_code: ClassVar[bool] = True
    takes_bytes: bool = True
    """Its strings are bytes: images are sent so."""

    def __init__(self, model: Any, source: Source) -> None:  # noqa: ANN401 - the library is imported late
        self._tensorflow = library("tensorflow", "tensorflow")
        # The signature alone does not keep the model's variables.
        self._model = model
        self._function = _signature(model, options.read(Options, source).signature, source.path)
        _, named = self._function.structured_input_signature
        self._dtypes = {name: spec.dtype for name, spec in named.items()}
        wanted = [Wanted(name, _datatype(spec, name, source.path), _shape(spec)) for name, spec in named.items()]
        self._signature = Signature(wanted, source.settings)
        given = self._function.structured_outputs
        self._served = chosen(list(given), source.settings, source.path)
        described = [(own, name, _shape(given[own])) for own, name in self._served.items()]
        self.inputs = self._signature.specs()
        self.features = self._signature.features()
        self.outputs = tuple(
            TensorSpec(
                name, "FP32" if (datatype := _datatype(given[own], own, source.path)) == "BF16" else datatype, shape
            )
            for own, name, shape in described
            if shape is not None
        )
        if self._signature.joins() and all((shape or ())[:1] == (ANY,) for _, _, shape in described):
            self.max_batch = _BATCH

    @classmethod
    def claims(cls, path: Path) -> bool:
        """Read `saved_model.pb`; the folder around it belongs to it."""
        return path.name == "saved_model.pb"

    @classmethod
    def load(cls, source: Source) -> Self:
        """Read a model from the folder that its graph lies in."""
        if not source.trust.code:
            raise UnsafeFormat(
                f"{source.path}: a SavedModel is a program that can read and write files; if you trust it: --trusted"
            )
        tensorflow = library("tensorflow", "tensorflow")
        _set_up(tensorflow, source.gpu)
        try:
            model = tensorflow.saved_model.load(str(source.path.parent))
        except Exception as exc:  # the library's errors have no common base
            raise ModelLoadFailed(f"{source.path}: no SavedModel: {type(exc).__name__}: {exc}") from exc
        return cls(model, source)

    def predict(self, inputs: Arrays) -> dict[str, NDArray[Any]]:
        """Call the signature."""
        tensors = {
            name: self._tensorflow.cast(array, self._dtypes[name])
            if array.dtype != object
            else self._tensorflow.constant(array)
            for name, array in self._signature.fit(inputs).items()
        }
        try:
            results = self._function(**tensors)
        except (self._tensorflow.errors.InvalidArgumentError, self._tensorflow.errors.OutOfRangeError) as exc:
            # What only the graph knows: an index out of range, sizes that must agree.
            raise InvalidInput(f"inputs: {_reason(exc)}") from exc
        return {name: _array(results[own].numpy()) for own, name in self._served.items()}

    def unload(self) -> None:
        """Let go of the model's variables."""
        self._model = self._function = None

    @classmethod
    def example(cls, directory: Path) -> dict[str, NDArray[Any]]:
        """Save a linear model that gives three scores."""
        rows, _ = iris()
        tensorflow = library("tensorflow", "tensorflow")
        model = tensorflow.Module()
        model.weights = tensorflow.Variable(np.linspace(-1, 1, 12, dtype=np.float32).reshape(4, 3))
        taken = tensorflow.TensorSpec([None, 4], tensorflow.float32, name="measurements")

        def scores(measurements: Any) -> Any:  # noqa: ANN401 - the library is imported late
            return {"scores": tensorflow.matmul(measurements, model.weights)}

        model.scores = tensorflow.function(scores, input_signature=[taken], autograph=False)
        tensorflow.saved_model.save(model, str(directory), signatures=model.scores)
        return {"measurements": rows.astype(np.float32)}


def _set_up(tensorflow: Any, gpu: int) -> None:  # noqa: ANN401 - the library is imported late
    """Take one thread per prediction, the GPU of a number, and no more of it than needed. Before the first model."""
    with contextlib.suppress(RuntimeError):
        tensorflow.config.threading.set_intra_op_parallelism_threads(1)
        tensorflow.config.threading.set_inter_op_parallelism_threads(1)
        found = tensorflow.config.list_physical_devices("GPU")
        if gpu and found:
            # Whatever does not say where it is to be computed goes to the first that is left.
            found = [found[gpu % len(found)]]
            tensorflow.config.set_visible_devices(found, "GPU")
        for device in found:
            tensorflow.config.experimental.set_memory_growth(device, enable=True)


def _signature(model: Any, name: str, path: Path) -> Any:  # noqa: ANN401 - the library is imported late
    known = list(getattr(model, "signatures", ()))
    if name not in known:
        raise ModelLoadFailed(f"{path}: options: signature: expected one of {', '.join(known) or 'none'}, got {name!r}")
    return model.signatures[name]


def _datatype(spec: Any, name: str, path: Path) -> str:  # noqa: ANN401 - the library is imported late
    if spec.dtype.name not in _DATATYPES:
        raise ModelLoadFailed(f"{path}: tensor {name!r}: its type {spec.dtype.name} has no V2 datatype")
    return _DATATYPES[spec.dtype.name]


def _shape(spec: Any) -> tuple[int, ...] | None:  # noqa: ANN401 - the library is imported late
    return None if spec.shape.rank is None else tuple(ANY if size is None else size for size in spec.shape.as_list())


def _array(result: NDArray[Any]) -> NDArray[Any]:
    if result.dtype == object:
        texts = np.empty(result.shape, object)
        texts.flat[:] = [_text(item) for item in result.flat]
        return texts
    # NumPy has no bfloat16; every value of it is a float32.
    return result.astype(np.float32) if result.dtype.name == "bfloat16" else np.asarray(result)


def _text(item: bytes) -> str | bytes:
    try:
        return item.decode()
    except UnicodeDecodeError:
        return item


def _reason(exc: BaseException) -> str:
    # Around it stand where in the graph it happened, and how the graph was built.
    return str(exc).partition("\n\t [[{{")[0].strip().rpartition("\n")[2]
