"""What only the ONNX runtime promises: the model's own tensors, texts, classifiers' maps, files of weights."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from inference.directory import open_model
from inference.errors import InvalidInput, ModelLoadFailed
from inference.runtime import ANY, RUNTIMES, TensorSpec
from inference.runtimes.onnx import providers
from inference.settings import SETTINGS_FILE, Trust
from tests.inference.serving import predictor

Value = tuple[str, int, Sequence[int | str]]


def _save(
    directory: Path,
    nodes: list[onnx.NodeProto],
    inputs: list[Value],
    outputs: list[onnx.ValueInfoProto],
    weights: Sequence[onnx.TensorProto] = (),
    domains: Sequence[str] = (),
) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info(*value) for value in inputs], outputs, list(weights)
    )
    opsets = [helper.make_opsetid("", 17), *(helper.make_opsetid(domain, 3) for domain in domains)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    onnx.save(model, directory / "model.onnx")
    return model


def _tensor(*value: Any) -> onnx.ValueInfoProto:  # noqa: ANN401 - name, type, shape
    return helper.make_tensor_value_info(*value)


def test_several_inputs_and_outputs(tmp_path: Path) -> None:
    """Named inputs of their own types and shapes go in, every output comes out, free dimensions are described so."""
    nodes = [
        helper.make_node("Cast", ["count"], ["cast"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["image", "cast"], ["scaled"]),
        helper.make_node("Shape", ["image"], ["size"]),
        helper.make_node("Less", ["image", "cast"], ["less"]),
    ]
    inputs: list[Value] = [("image", TensorProto.FLOAT, ["rows", 2, "w"]), ("count", TensorProto.INT32, ["rows", 1, 1])]
    outputs = [
        _tensor("scaled", TensorProto.FLOAT, ["rows", 2, "w"]),
        _tensor("less", TensorProto.BOOL, ["rows", 2, "w"]),
    ]
    _save(tmp_path, nodes, inputs, outputs)
    runtime = open_model(tmp_path, Trust())
    image = np.arange(12.0).reshape(2, 2, 3)
    got = runtime.predict({"image": image, "count": np.array([[[2]], [[3]]], np.int64)})

    assert runtime.inputs == (TensorSpec("image", "FP32", (ANY, 2, ANY)), TensorSpec("count", "INT32", (ANY, 1, 1)))
    assert runtime.outputs == (TensorSpec("scaled", "FP32", (ANY, 2, ANY)), TensorSpec("less", "BOOL", (ANY, 2, ANY)))
    np.testing.assert_array_equal(got["scaled"], (image * [[[2]], [[3]]]).astype(np.float32))
    np.testing.assert_array_equal(got["less"], image < [[[2]], [[3]]])
    assert runtime.max_batch > 1


def test_text_goes_in_and_out(tmp_path: Path) -> None:
    """Tensors of text are passed as text, beyond ASCII too."""
    nodes = [helper.make_node("Concat", ["a", "b"], ["both"], axis=1)]
    text = TensorProto.STRING
    _save(tmp_path, nodes, [("a", text, ["rows", 1]), ("b", text, ["rows", 1])], [_tensor("both", text, ["rows", 2])])
    runtime = open_model(tmp_path, Trust())
    got = runtime.predict({"a": np.array(["é", "x"], object), "b": np.array(["", "yy"], object)})

    assert got["both"].tolist() == [["é", ""], ["x", "yy"]]
    with pytest.raises(InvalidInput, match=r"input 'a': expected text \(BYTES\), got float64"):
        runtime.predict({"a": np.ones(1), "b": np.array(["x"], object)})


def test_classifiers_maps_become_columns(tmp_path: Path) -> None:
    """The list of maps that scikit-learn's converter gives for probabilities is served as one column per class."""
    nodes = [
        helper.make_node("Softmax", ["x"], ["soft"], axis=1),
        helper.make_node("ZipMap", ["soft"], ["probabilities"], domain="ai.onnx.ml", classlabels_int64s=[7, 3]),
    ]
    kind = helper.make_sequence_type_proto(
        helper.make_map_type_proto(TensorProto.INT64, helper.make_tensor_type_proto(TensorProto.FLOAT, []))
    )
    output = helper.make_value_info("probabilities", kind)
    _save(tmp_path, nodes, [("x", TensorProto.FLOAT, ["rows", 2])], [output], domains=["ai.onnx.ml"])
    runtime = open_model(tmp_path, Trust())
    got = runtime.predict({"x": np.array([[0.0, np.log(3)], [0.0, 0.0]])})["probabilities"]

    np.testing.assert_allclose(got, [[0.75, 0.25], [0.5, 0.5]], rtol=1e-6)
    assert runtime.outputs == (TensorSpec("probabilities", "FP32", (ANY, ANY)),)


def test_columns_by_name(tmp_path: Path) -> None:
    """Over V1, a model of one matrix takes objects by feature name once the settings name its columns."""
    RUNTIMES.find("onnx").example(tmp_path)
    (tmp_path / SETTINGS_FILE).write_text('{"features": ["a", "b", "c", "d"], "output": "label"}')
    row = {"b": 3.4, "a": 5.0, "d": 0.2, "c": 1.5}
    tensor = {"name": "x", "shape": [1, 4], "datatype": "FP32", "data": [6.6, 3.0, 5.6, 2.0]}
    with predictor(tmp_path, tmp_path) as server, server.client() as client:
        by_name = client.post("/v1/models/m:predict", json={"instances": [row, row]})
        by_tensor = client.post("/v2/models/m/infer", json={"inputs": [tensor]})
        refused = client.post("/v1/models/m:predict", json={"instances": [{"a": 5.0}]})

    assert by_name.json() == {"predictions": [0, 0]}
    assert by_tensor.json()["outputs"] == [{"name": "label", "shape": [1], "datatype": "INT64", "data": [2]}]
    assert refused.status_code == 400
    assert "missing ['b', 'c', 'd']" in refused.json()["error"]


def test_fixed_rows_are_never_joined(tmp_path: Path) -> None:
    """A graph of one row takes one row, and its calls are not joined."""
    nodes = [helper.make_node("Neg", ["x"], ["y"])]
    _save(tmp_path, nodes, [("x", TensorProto.FLOAT, [1, 2])], [_tensor("y", TensorProto.FLOAT, [1, 2])])
    runtime = open_model(tmp_path, Trust())

    assert runtime.max_batch == 1
    assert runtime.predict({"x": np.ones((1, 2))})["y"].tolist() == [[-1.0, -1.0]]
    with pytest.raises(InvalidInput, match=r"expected shape \[1, 2\], got \[2, 2\]"):
        runtime.predict({"x": np.ones((2, 2))})


def test_what_the_graph_refuses_is_the_callers_mistake(tmp_path: Path) -> None:
    """A value that no declaration rules out, such as an index out of range, is refused with the graph's words."""
    nodes = [helper.make_node("Gather", ["table", "index"], ["y"])]
    table = numpy_helper.from_array(np.arange(3.0, dtype=np.float32), "table")
    inputs: list[Value] = [("index", TensorProto.INT64, ["rows"])]
    _save(tmp_path, nodes, inputs, [_tensor("y", TensorProto.FLOAT, ["rows"])], [table])
    runtime = open_model(tmp_path, Trust())

    assert runtime.predict({"index": np.array([2, 0])})["y"].tolist() == [2.0, 0.0]
    with pytest.raises(InvalidInput, match=r"^inputs: indices element out of data bounds"):
        runtime.predict({"index": np.array([3])})


def test_weights_in_a_file_of_their_own(tmp_path: Path) -> None:
    """Weights beside the model are read; weights outside its folder are not."""
    nodes = [helper.make_node("Add", ["x", "w"], ["y"])]
    weights = numpy_helper.from_array(np.full((1, 4096), 2, np.float32), "w")
    inputs: list[Value] = [("x", TensorProto.FLOAT, ["rows", 4096])]
    model = _save(tmp_path, nodes, inputs, [_tensor("y", TensorProto.FLOAT, ["rows", 4096])], [weights])
    folder = tmp_path / "m"
    folder.mkdir()
    onnx.save(model, folder / "model.onnx", save_as_external_data=True, location="model.onnx.data")

    assert open_model(folder, Trust()).predict({"x": np.ones((1, 4096))})["y"].tolist() == [[3.0] * 4096]
    (folder / "model.onnx.data").rename(tmp_path / "outside.data")
    graph = onnx.load(folder / "model.onnx", load_external_data=False)
    entries = {entry.key: entry for entry in graph.graph.initializer[0].external_data}
    entries["location"].value = "../outside.data"
    (folder / "model.onnx").write_bytes(graph.SerializeToString())
    with pytest.raises(ModelLoadFailed, match=r"model\.onnx"):
        open_model(folder, Trust())


@pytest.mark.parametrize(
    ("device", "says"),
    [
        ("gpu", "device: expected auto, cpu or cuda:N, got 'gpu'"),
        ("cuda:x", "device: expected auto, cpu or cuda:N"),
        ("cuda:0", "needs ONNX Runtime's CUDA provider; install onnxruntime-gpu"),
    ],
)
def test_a_device_that_is_not_there_is_refused(tmp_path: Path, device: str, says: str) -> None:
    """A model that asks for a GPU never runs on the CPU instead without a word."""
    RUNTIMES.find("onnx").example(tmp_path)
    (tmp_path / SETTINGS_FILE).write_text(f'{{"options": {{"device": "{device}"}}}}')
    if device == "cuda:0" and "CUDAExecutionProvider" in _providers():
        pytest.skip("ONNX Runtime has its CUDA provider here")

    with pytest.raises(ModelLoadFailed, match=says):
        open_model(tmp_path, Trust())


def test_a_process_takes_the_gpu_of_its_number() -> None:
    """Only where the settings name none; and the CPU where ONNX Runtime can use no GPU."""
    gpus, none = ["CUDAExecutionProvider", "CPUExecutionProvider"], ["CPUExecutionProvider"]
    path = Path("model.onnx")

    assert providers("auto", gpus, path, 2, 4) == _on(2)
    # As PyTorch's models do, where there are fewer GPUs than processes were told of; and where nobody can count them.
    assert providers("auto", gpus, path, 5, 4) == _on(1)
    assert providers("auto", gpus, path, 5, 0) == _on(5)
    assert providers("auto", none, path, 2, 4) == none
    assert providers("cuda:1", gpus, path, 2, 4) == _on(1)
    assert providers("cpu", gpus, path, 2, 4) == none


def test_threads_act(tmp_path: Path) -> None:
    """A prediction runs on one thread unless the settings say otherwise."""
    RUNTIMES.find("onnx").example(tmp_path)
    plain: Any = open_model(tmp_path, Trust())
    (tmp_path / SETTINGS_FILE).write_text('{"options": {"threads": 2, "device": "cpu"}}')
    more: Any = open_model(tmp_path, Trust())

    assert plain._session.get_session_options().intra_op_num_threads == 1
    assert more._session.get_session_options().intra_op_num_threads == 2


def _on(gpu: int) -> list[Any]:
    return [("CUDAExecutionProvider", {"device_id": gpu}), "CPUExecutionProvider"]


def _providers() -> list[str]:
    import onnxruntime  # noqa: PLC0415 - only here

    return list(onnxruntime.get_available_providers())
