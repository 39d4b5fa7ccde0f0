"""ONNX models through ONNX Runtime, on the CPU or, where its CUDA provider is installed, on a GPU.

Inputs and outputs are the model's own. A classifier's map of probabilities, which scikit-learn's converter makes, is
served as a matrix with a column per class, in the classes' order.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Final, Self

import numpy as np
from numpy.typing import NDArray

from inference import options
from inference.errors import InvalidInput, ModelLoadFailed
from inference.runtime import ANY, Arrays, Runtime, Source, TensorSpec, iris, library
from inference.signature import Signature, Wanted, chosen

_DATATYPES: Final = {
    "tensor(bool)": "BOOL", "tensor(string)": "BYTES",
    "tensor(uint8)": "UINT8", "tensor(uint16)": "UINT16", "tensor(uint32)": "UINT32", "tensor(uint64)": "UINT64",
    "tensor(int8)": "INT8", "tensor(int16)": "INT16", "tensor(int32)": "INT32", "tensor(int64)": "INT64",
    "tensor(float16)": "FP16", "tensor(float)": "FP32", "tensor(double)": "FP64",
}  # fmt: skip
_MAPS: Final = {"seq(map(int64,tensor(float)))": "FP32", "seq(map(string,tensor(float)))": "FP32"}
_CUDA: Final = "CUDAExecutionProvider"
_CPU: Final = "CPUExecutionProvider"
_ERRORS_ONLY: Final = 3
_BATCH: Final = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How a model is run."""

    device: str = "auto"
    """`cpu`, `cuda:N`, or `auto`: a GPU when ONNX Runtime can use one. Processes share them out."""
    threads: int = 1
    """Threads inside one prediction. The server already runs several predictions at once."""


class ONNX(Runtime):
    """One session."""

    suffixes: ClassVar[tuple[str, ...]] = (".onnx", ".ort")
    platform: ClassVar[str] = "onnxruntime_onnx"
    options: ClassVar[type[Any]] = Options

    def __init__(self, session: Any, source: Source) -> None:  # noqa: ANN401 - the library is imported late
        self._session = session
        self._errors = library("onnxruntime.capi.onnxruntime_pybind11_state", "onnx")
        self._signature = Signature([_wanted(each, source.path) for each in session.get_inputs()], source.settings)
        given = [each.name for each in session.get_outputs()]
        self._names = chosen(given, source.settings, source.path)
        self._asked = list(self._names)
        self.computes = session.get_providers() == [_CPU]
        self.inputs = self._signature.specs()
        self.features = self._signature.features()
        described = {each.name: each for each in session.get_outputs()}
        self.outputs = tuple(_described(name, described[own], source.path) for own, name in self._names.items())
        if self._signature.joins() and all(spec.shape[:1] == (ANY,) for spec in self.outputs):
            self.max_batch = _BATCH

    @classmethod
    def load(cls, source: Source) -> Self:
        """Read a model; weights in files of their own lie beside it."""
        onnxruntime = library("onnxruntime", "onnx")
        chosen_options = options.read(Options, source)
        session_options = onnxruntime.SessionOptions()
        session_options.intra_op_num_threads = chosen_options.threads
        session_options.inter_op_num_threads = 1
        session_options.log_severity_level = _ERRORS_ONLY
        available = onnxruntime.get_available_providers()
        count = _gpus() if _CUDA in available else 0
        chosen_providers = providers(chosen_options.device, available, source.path, source.gpu, count)
        try:
            session = onnxruntime.InferenceSession(str(source.path), session_options, providers=chosen_providers)
        except Exception as exc:  # the library's errors have no common base
            raise ModelLoadFailed(f"{source.path}: no ONNX model: {exc}") from exc
        return cls(session, source)

    def predict(self, inputs: Arrays) -> dict[str, NDArray[Any]]:
        """Run the graph."""
        feeds = {name: np.ascontiguousarray(array) for name, array in self._signature.fit(inputs).items()}
        try:
            results = self._session.run(self._asked, feeds)
        except self._errors.InvalidArgument as exc:
            # What only the graph knows: an index out of range, sizes that must agree.
            raise InvalidInput(f"inputs: {_reason(exc)}") from exc
        return {name: _array(result) for name, result in zip(self._names.values(), results, strict=True)}

    @classmethod
    def example(cls, directory: Path) -> dict[str, NDArray[Any]]:
        """Save a linear classifier of three classes, which gives labels and probabilities."""
        rows, labels = iris()
        model = library("sklearn.linear_model").LogisticRegression(random_state=0).fit(rows, labels)
        onnx = library("onnx", "dev")
        helper, kinds = onnx.helper, onnx.TensorProto
        nodes = [
            helper.make_node("Gemm", ["x", "weights", "bias"], ["scores"]),
            helper.make_node("Softmax", ["scores"], ["probabilities"], axis=1),
            helper.make_node("ArgMax", ["scores"], ["label"], axis=1, keepdims=0),
        ]
        weights = onnx.numpy_helper.from_array(model.coef_.T.astype(np.float32), "weights")
        bias = onnx.numpy_helper.from_array(model.intercept_.astype(np.float32), "bias")
        graph = helper.make_graph(
            nodes,
            "iris",
            [helper.make_tensor_value_info("x", kinds.FLOAT, ["rows", 4])],
            [
                helper.make_tensor_value_info("label", kinds.INT64, ["rows"]),
                helper.make_tensor_value_info("probabilities", kinds.FLOAT, ["rows", 3]),
            ],
            [weights, bias],
        )
        saved = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
        (directory / "model.onnx").write_bytes(saved.SerializeToString())
        return {"x": rows.astype(np.float32)}


def providers(device: str, available: Sequence[str], path: Path, gpu: int, count: int) -> list[Any]:
    """Give the providers for a device, in ONNX Runtime's form; `auto` is the GPU of a number, if GPUs can be used.

    Args:
        device: what the settings say.
        available: names of providers.
        path: of the model.
        gpu: the number; there may be fewer GPUs here than were counted elsewhere.
        count: of the GPUs here; 0: not known.

    Raises:
        ModelLoadFailed: no such name, or no GPU can be used.
    """
    if device == "auto":
        return [(_CUDA, {"device_id": gpu % count if count else gpu}), _CPU] if _CUDA in available else [_CPU]
    kind, _, number = device.partition(":")
    if kind == "cpu" and not number:
        return [_CPU]
    if kind != "cuda" or not (number or "0").isdecimal():
        raise ModelLoadFailed(f"{path}: device: expected auto, cpu or cuda:N, got {device!r}")
    if _CUDA not in available:
        raise ModelLoadFailed(
            f"{path}: device: {device} needs ONNX Runtime's CUDA provider; install onnxruntime-gpu in place of "
            f"onnxruntime; available: {', '.join(available)}"
        )
    return [(_CUDA, {"device_id": int(number or "0")}), _CPU]


def _gpus() -> int:
    """Count the GPUs that this process can use, by CUDA's own count: ONNX Runtime tells none. 0: not known."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return 0
    count = ctypes.c_int()
    failed = driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count))
    return 0 if failed else count.value


def _wanted(node: Any, path: Path) -> Wanted:  # noqa: ANN401 - the library is imported late
    if node.type not in _DATATYPES:
        raise ModelLoadFailed(f"{path}: input {node.name!r}: its type {node.type} has no tensor form here")
    return Wanted(node.name, _DATATYPES[node.type], _shape(node))


def _described(name: str, node: Any, path: Path) -> TensorSpec:  # noqa: ANN401 - the library is imported late
    if node.type in _MAPS:
        return TensorSpec(name, _MAPS[node.type], (ANY, ANY))
    if node.type not in _DATATYPES:
        raise ModelLoadFailed(f"{path}: output {node.name!r}: its type {node.type} has no tensor form here")
    return TensorSpec(name, _DATATYPES[node.type], _shape(node))


def _shape(node: Any) -> tuple[int, ...]:  # noqa: ANN401 - the library is imported late
    # A free dimension is a name or None.
    return tuple(size if isinstance(size, int) and size > 0 else ANY for size in node.shape or ())


def _array(result: Any) -> NDArray[Any]:  # noqa: ANN401 - whatever the graph gives
    if isinstance(result, list):
        classes = sorted(result[0])
        return np.array([[row[each] for each in classes] for row in result], np.float32)
    return np.asarray(result)


def _reason(exc: BaseException) -> str:
    # Before it stand error codes and the node, which are the author's affair.
    return str(exc).rpartition("Status Message: ")[2].strip().partition("\n")[0]
