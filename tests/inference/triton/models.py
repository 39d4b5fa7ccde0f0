"""Writes a repository with the models of Triton's published client examples."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

import numpy as np

from inference.runtime import library

_BATCHED: Final = 4
_LABELS: Final = [f"kind {number}" for number in range(5)]
_CLASSES: Final[dict[str, tuple[str, dict[str, Any]]]] = {
    "simple": ("AddSub", {"datatype": "INT32"}),
    "simple_int8": ("AddSub", {"datatype": "INT8"}),
    "simple_string": ("AddSub", {"datatype": "BYTES"}),
    "simple_identity": ("Identity", {"datatype": "BYTES"}),
    "custom_identity_int32": ("Identity", {"datatype": "INT32"}),
    "preprocess_inception_ensemble": ("Files", {}),
    "repeat_int32": ("Repeat", {}),
    "simple_sequence": ("Sequence", {"kind": "plain"}),
    "simple_dyna_sequence": ("Sequence", {"kind": "dynamic"}),
    "simple_string_dyna_sequence": ("Sequence", {"kind": "named"}),
}


def write_image(folder: Path, name: str, shape: list[str | int], data: str, output: str) -> Path:
    """Write a classifier of images, by the means of their three channels; with labels."""
    onnx = library("onnx", "dev")
    helper, kinds = onnx.helper, onnx.TensorProto
    channels = shape.index(3)
    weights = np.random.default_rng(0).normal(size=(3, 5)).astype(np.float32)
    axes = [at for at in range(len(shape) - 3, len(shape)) if at != channels]
    batched = [shape[0]] if len(shape) == _BATCHED else [1]
    nodes = [
        helper.make_node("ReduceMean", [data, "axes"], ["means"], keepdims=0),
        helper.make_node("Reshape", ["means", "rows"], ["flat"]),
        helper.make_node("MatMul", ["flat", "weights"], [output]),
    ]
    given = [
        onnx.numpy_helper.from_array(np.array(axes), "axes"),
        onnx.numpy_helper.from_array(np.array([-1, 3]), "rows"),
        onnx.numpy_helper.from_array(weights, "weights"),
    ]
    graph = helper.make_graph(
        nodes, name,
        [helper.make_tensor_value_info(data, kinds.FLOAT, shape)],
        [helper.make_tensor_value_info(output, kinds.FLOAT, [*batched, 5])],
        given,
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    _settle(folder / name, {"labels": _LABELS})
    (folder / name / "model.onnx").write_bytes(model.SerializeToString())
    return folder


def write(folder: Path, *names: str) -> Path:
    """Write those models, or all."""
    for name in names or _CLASSES:
        kind, arguments = _CLASSES[name]
        options = {"model": f"tests.inference.triton.classes:{kind}", "arguments": arguments}
        settings: dict[str, Any] = {"runtime": "custom", "options": options}
        _settle(folder / name, settings | ({"labels": _LABELS} if kind == "Files" else {}))
    return folder


def _settle(folder: Path, settings: dict[str, Any]) -> None:
    folder.mkdir(parents=True)
    (folder / "sidelight.json").write_text(json.dumps(settings))
