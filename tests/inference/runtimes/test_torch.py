"""What only the PyTorch runtime promises: three kinds of file, each only when trusted, and how they are computed."""

from __future__ import annotations

import re
import shutil
import warnings
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file

from inference.directory import open_model
from inference.errors import DeviceExhausted, InvalidInput, ModelLoadFailed, PredictionFailed, UnsafeFormat
from inference.runtime import ANY, RUNTIMES, Runtime, TensorSpec
from inference.settings import SETTINGS_FILE, Trust
from tests.inference.serving import predictor

_TRUST = Trust(code=True)
_ROWS = np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32)
_NETWORK = '''
import torch
from .layers import Scale

class Network(torch.nn.Module):
    """A linear layer, scaled."""

    def __init__(self, width=3):
        super().__init__()
        self.linear = torch.nn.Linear(4, width)
        self.scale = Scale()

    def forward(self, x):
        return self.scale(self.linear(x))
'''
_LAYERS = '''
import torch

class Scale(torch.nn.Module):
    """Doubles."""

    def forward(self, x):
        return x * 2
'''


class _Exported(torch.nn.Module):
    """Several inputs, one of them a constant, and several outputs by name."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(4, 3)

    def forward(self, x: torch.Tensor, scale: int, *, keep: torch.Tensor) -> dict[str, torch.Tensor]:
        """Scale, and drop rows."""
        return {"scores": self.linear(x) * scale * keep[:, None], "kept": keep & True, "moved": x + torch.ones(4)}


def _open(directory: Path, **settings: Any) -> Runtime:  # noqa: ANN401 - JSON
    (directory / SETTINGS_FILE).write_bytes(orjson.dumps(settings))
    return open_model(directory, _TRUST)


def _export(directory: Path, module: torch.nn.Module, *inputs: torch.Tensor, **sizes: Any) -> None:  # noqa: ANN401
    torch.export.save(torch.export.export(module.eval(), inputs, **sizes), directory / "model.pt2")


def _weights(directory: Path, name: str = "model.safetensors") -> dict[str, torch.Tensor]:
    (directory / "net.py").write_text(_NETWORK)
    (directory / "layers.py").write_text(_LAYERS)
    generator = torch.Generator().manual_seed(1)
    state = {
        "linear.weight": torch.randn(3, 4, generator=generator),
        "linear.bias": torch.randn(3, generator=generator),
    }
    if name.endswith("safetensors"):
        save_file(state, directory / name)
    else:
        torch.save(state, directory / name)
    return state


def _expected(state: dict[str, torch.Tensor]) -> NDArray[Any]:
    product: NDArray[Any] = _ROWS @ state["linear.weight"].numpy().T
    product += state["linear.bias"].numpy()
    return product * 2


def _script(directory: Path, module: torch.nn.Module) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.script(module).save(directory / "model.pt")  # type: ignore[no-untyped-call]


def test_exported_programs_run_code_so_they_need_trust(tmp_path: Path) -> None:
    """Expressions in a .pt2 are evaluated as Python while it loads: this one makes a folder, once it is trusted."""
    RUNTIMES.find("torch").example(tmp_path)
    planted = tmp_path / "planted"
    _replace(
        tmp_path / "model.pt2",
        lambda text: re.sub(r'"expr_str": "[^"]*"', f"\"expr_str\": \"__import__('os').mkdir('{planted}')\"", text),
    )

    with pytest.raises(UnsafeFormat, match=r"evaluates expressions of the file as Python; .* --trusted"):
        open_model(tmp_path, Trust())
    assert not planted.exists()
    with pytest.raises(ModelLoadFailed, match=r"model\.pt2: no PyTorch model"):
        open_model(tmp_path, _TRUST)
    assert planted.exists()


def _replace(path: Path, change: Any) -> None:  # noqa: ANN401 - a function of text
    with zipfile.ZipFile(path) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, change(content.decode()) if name.endswith("/model.json") else content)


class _Planted(torch.nn.Module):
    """Creates a file when it is loaded."""

    def __init__(self, path: str) -> None:
        super().__init__()
        self.weight = torch.ones(3, 4)
        self.path = path

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Sum."""
        return x @ self.weight.T

    @torch.jit.export
    def __getstate__(self) -> tuple[torch.Tensor, str, bool]:
        """Keep everything."""
        return (self.weight, self.path, self.training)

    @torch.jit.export
    def __setstate__(self, state: tuple[torch.Tensor, str, bool]) -> None:
        """Make a file on the way."""
        self.path = state[1]
        self.training = state[2]
        self.weight = state[0] * (torch.from_file(state[1], shared=True, size=10).sum() + 1)


def test_torchscript_runs_code_so_it_needs_trust(tmp_path: Path) -> None:
    """A TorchScript file's own program runs while it loads: this one writes a file, once it is trusted."""
    planted = tmp_path / "planted"
    _script(tmp_path, _Planted(str(planted)))

    with pytest.raises(UnsafeFormat, match="a program, which runs while it loads and can write files"):
        open_model(tmp_path, Trust())
    assert not planted.exists()
    open_model(tmp_path, _TRUST)
    assert planted.exists()


def test_exported_programs_say_what_they_take(tmp_path: Path) -> None:
    """Names, types and sizes come from the program; constants are what it was recorded with."""
    module = _Exported()
    rows = torch.export.Dim("rows", min=2, max=8)
    program = torch.export.export(
        module.eval(),
        (torch.from_numpy(_ROWS), 3),
        {"keep": torch.ones(6, dtype=torch.bool)},
        dynamic_shapes={"x": {0: rows}, "scale": None, "keep": {0: rows}},
    )
    torch.export.save(program, tmp_path / "model.pt2")
    runtime = _open(tmp_path)
    keep = np.array([True, False, True])
    got = runtime.predict({"keep": keep, "x": _ROWS[:3].astype(np.float64)})
    with torch.inference_mode():
        expected = module(torch.from_numpy(_ROWS[:3]), 3, keep=torch.from_numpy(keep))

    assert runtime.inputs == (TensorSpec("x", "FP32", (ANY, 4)), TensorSpec("keep", "BOOL", (ANY,)))
    assert [(spec.name, spec.datatype, spec.shape) for spec in runtime.outputs] == [
        ("scores", "FP32", (ANY, 3)), ("kept", "BOOL", (ANY,)), ("moved", "FP32", (ANY, 4)),
    ]  # fmt: skip
    assert runtime.max_batch > 1
    for name, tensor in expected.items():
        np.testing.assert_allclose(got[name], tensor.numpy(), rtol=1e-6)
    with pytest.raises(InvalidInput, match=r"Guard failed: x\.size\(\)\[0\] <= 8"):
        runtime.predict({"keep": np.ones(9, bool), "x": np.ones((9, 4))})


def test_script_names_come_from_forward(tmp_path: Path) -> None:
    """A TorchScript's inputs are named as forward names them; declared, they are checked, described and joined."""

    class Adds(torch.nn.Module):
        def forward(self, a: torch.Tensor, b: torch.Tensor, weight: float = 2.0) -> tuple[torch.Tensor, torch.Tensor]:
            return a + b * weight, a.sum(1)

    _script(tmp_path, Adds())
    inputs = {"b": np.ones((2, 3), np.float32), "a": np.zeros((2, 3), np.float32)}
    plain = _open(tmp_path)
    declared = [{"name": name, "datatype": "FP32", "shape": [-1, 3]} for name in "ab"]
    described = _open(tmp_path, options={"inputs": declared, "outputs": ["added", "total"]})

    assert [name for name, _ in plain.predict(inputs).items()] == ["output-0", "output-1"]
    assert plain.predict(inputs)["output-0"].tolist() == [[2.0] * 3] * 2
    assert (plain.inputs, plain.max_batch) == ((), 1)
    assert [(spec.name, spec.shape) for spec in described.outputs] == [("added", (ANY, 3)), ("total", (ANY,))]
    assert described.max_batch > 1
    with pytest.raises(InvalidInput, match=r"missing \['b'\], unknown \['c'\]; expected \['a', 'b'\]"):
        plain.predict({"a": inputs["a"], "c": inputs["b"]})
    with pytest.raises(InvalidInput, match=r"input 'a': expected shape \[rows, 3\], got \[2, 2\]"):
        described.predict({"a": np.ones((2, 2)), "b": inputs["b"]})
    with pytest.raises(ModelLoadFailed, match=r"inputs: missing \['b'\], unknown \['c'\]; forward takes a, b, weight"):
        _open(tmp_path, options={"inputs": [declared[0], {**declared[1], "name": "c"}]})


def test_script_inputs_may_be_named_by_their_places(tmp_path: Path) -> None:
    """As Triton's configurations name them, in any order, so that its clients need no change; each place once."""

    class Subtracts(torch.nn.Module):
        def forward(self, a: torch.Tensor, b: torch.Tensor, weight: float = 2.0) -> torch.Tensor:
            return a - b * weight

    def declared(*names: str) -> dict[str, Any]:
        return {"inputs": [{"name": name, "datatype": "FP32", "shape": [-1, 3]} for name in names]}

    _script(tmp_path, Subtracts())
    runtime = _open(tmp_path, options={**declared("INPUT__1", "INPUT__0"), "outputs": ["OUTPUT__0"]})
    got = runtime.predict({"INPUT__0": np.zeros((2, 3)), "INPUT__1": np.ones((2, 3))})

    assert {name: array.tolist() for name, array in got.items()} == {"OUTPUT__0": [[-2.0] * 3] * 2}
    for names in (("INPUT__0",), ("INPUT__0", "INPUT__2"), ("INPUT__1", "OTHER__1")):
        with pytest.raises(ModelLoadFailed, match=f"the places from 0 on of a, b, weight, got {', '.join(names)}"):
            _open(tmp_path, options=declared(*names))
    with pytest.raises(ModelLoadFailed, match=r"inputs: missing \['b'\], unknown \['INPUT__0'\]"):
        _open(tmp_path, options=declared("a", "INPUT__0"))


@pytest.mark.parametrize("name", ["model.safetensors", "weights.pth"])
def test_weights_with_their_class(tmp_path: Path, name: str) -> None:
    """Weights are served by the class that the settings name, with its neighbours in the directory."""
    state = _weights(tmp_path, name)
    runtime = _open(tmp_path, options={"model": "net:Network", "arguments": {"width": 3}})

    np.testing.assert_allclose(
        runtime.predict({"instances": _ROWS.astype(np.float64)})["output-0"], _expected(state), rtol=1e-5
    )
    with pytest.raises(UnsafeFormat, match=f"{name}: the class that the weights belong to is code"):
        open_model(tmp_path, Trust())
    with pytest.raises(ModelLoadFailed, match='options: model: expected "module:Class"'):
        _open(tmp_path)
    with pytest.raises(ModelLoadFailed, match=f"(?s){name}: no PyTorch model: .*size mismatch for linear.weight"):
        _open(tmp_path, options={"model": "net:Network", "arguments": {"width": 5}})
    with pytest.raises(ModelLoadFailed, match=r"expected a torch\.nn\.Module, got Fraction"):
        _open(tmp_path, options={"model": "fractions:Fraction"})


@pytest.mark.parametrize("dtype", ["FP16", "BF16"])
@pytest.mark.parametrize("kind", ["weights", "exported"])
def test_half_precision_stays_inside(tmp_path: Path, dtype: str, kind: str) -> None:
    """Computing in half precision rounds, but what goes in and comes out is FP32 as before."""
    options: dict[str, Any] = {"dtype": dtype}
    if kind == "weights":
        _weights(tmp_path)
        options |= {"model": "net:Network", "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 4]}]}
    else:
        _export(tmp_path, torch.nn.Linear(4, 3), torch.from_numpy(_ROWS), dynamic_shapes=({0: torch.export.Dim("n")},))
    half = _open(tmp_path, options=options)
    whole = _open(tmp_path, options={**options, "dtype": "FP32"})
    name = half.inputs[0].name
    rounded, exact = (runtime.predict({name: _ROWS})["output-0"] for runtime in (half, whole))

    assert rounded.dtype == exact.dtype == np.float32
    assert half.inputs == whole.inputs
    assert half.outputs == whole.outputs
    assert not np.array_equal(rounded, exact)
    np.testing.assert_allclose(rounded, exact, atol=0.1)


def test_bfloat16_outputs_are_read_as_floats(tmp_path: Path) -> None:
    """A model that gives bfloat16 of its own is served as FP32, which holds every value of it."""

    class Halves(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.to(torch.bfloat16)

    _export(tmp_path, Halves(), torch.from_numpy(_ROWS))
    got = _open(tmp_path).predict({"x": _ROWS})["output-0"]

    assert got.dtype == np.float32
    np.testing.assert_allclose(got, _ROWS, rtol=0.01)
    assert not np.array_equal(got, _ROWS)


def test_models_that_work_in_place_keep_to_themselves(tmp_path: Path) -> None:
    """A model that writes into its input, or gives a part of itself, changes neither the request nor later answers."""

    class InPlace(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.kept = torch.nn.Parameter(torch.ones(2, 4))

        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return x.add_(1), self.kept

    _script(tmp_path, InPlace())
    runtime = _open(tmp_path)
    rows = np.zeros((2, 4), np.float32)
    first = runtime.predict({"x": rows})
    first["output-1"][:] = 7

    assert not rows.any()
    assert first["output-0"].tolist() == [[1.0] * 4] * 2
    assert runtime.predict({"x": rows})["output-1"].tolist() == [[1.0] * 4] * 2


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")  # torch's own, from inside its compiler
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
def test_compiled_models_predict_the_same(tmp_path: Path) -> None:
    """`compile` runs the model through torch.compile at load; no request waits for it, whatever its number of rows."""
    state = _weights(tmp_path)
    inputs = [{"name": "x", "datatype": "FP32", "shape": [-1, 4]}]
    runtime = _open(tmp_path, options={"model": "net:Network", "compile": "default", "inputs": inputs})

    compiled = _compiled()
    counts = (1, 2, 5, 6)
    with ThreadPoolExecutor(2) as threads:
        answers = list(threads.map(lambda count: runtime.predict({"x": _ROWS[:count]})["output-0"], counts))

    for count, got in zip(counts, answers, strict=True):
        np.testing.assert_allclose(got, _expected(state)[:count], rtol=1e-4)
    assert compiled > 0
    assert _compiled() == compiled


def _compiled() -> int:
    return int(torch._dynamo.utils.counters["stats"]["unique_graphs"])


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"device": "gpu"}, "options: device: expected auto, cpu or cuda:N, got 'gpu'"),
        ({"device": "cuda:99"}, r"options: device: cuda:99: this machine has \d+ CUDA devices"),
        ({"dtype": "FP64"}, "options: dtype: expected FP32, FP16 or BF16, got 'FP64'"),
        ({"compile": "fast"}, "options: compile: expected one of default, max-autotune-no-cudagraphs"),
        ({"device": "cpu", "cuda_graphs": True}, "options: cuda_graphs: expected a CUDA device, pad_to"),
        ({"model": "net:Network"}, r"model and arguments belong to \.safetensors, \.pth files"),
        ({"inputs": [{"name": "x", "datatype": "FP32", "shape": [4]}]}, "inputs: a .pt2 file says them itself"),
        ({"outputs": ["a", "b"]}, "2 are named, the model gives 1"),
    ],
)
def test_options_that_do_not_fit_are_refused(tmp_path: Path, options: dict[str, Any], says: str) -> None:
    """An option that cannot be followed ends the load, with what was expected."""
    RUNTIMES.find("torch").example(tmp_path)

    with pytest.raises(ModelLoadFailed, match=says):
        _open(tmp_path, options=options)


def test_scripts_are_not_compiled_twice(tmp_path: Path) -> None:
    """TorchScript and torch.compile exclude each other, and it is said so."""
    _script(tmp_path, torch.nn.Linear(4, 3))

    with pytest.raises(ModelLoadFailed, match="compile: TorchScript is compiled already"):
        _open(tmp_path, options={"compile": "default"})


def test_outputs_are_chosen_and_named(tmp_path: Path) -> None:
    """Settings choose one of several outputs, and name it."""

    class Two(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
            return {"first": x + 1, "second": x * 2}

    _export(tmp_path, Two(), torch.from_numpy(_ROWS))

    assert list(_open(tmp_path, output="second", output_name="score").predict({"x": _ROWS})) == ["score"]
    with pytest.raises(ModelLoadFailed, match="output: expected one of first, second, got 'third'"):
        _open(tmp_path, output="third")


def test_whose_mistake_it_is(tmp_path: Path) -> None:
    """Text, and an index that a table does not have, are the caller's mistakes; a nested answer is the model's."""

    class Looks(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = torch.nn.Embedding(3, 2)

        def forward(self, index: torch.Tensor) -> torch.Tensor:
            looked_up: torch.Tensor = self.table(index)
            return looked_up

    class Nests(torch.nn.Module):
        def forward(self, index: torch.Tensor) -> dict[str, list[torch.Tensor]]:
            return {"all": [index]}

    _export(tmp_path, Looks(), torch.tensor([0, 1]), dynamic_shapes=({0: torch.export.Dim("n")},))
    runtime = _open(tmp_path)

    assert runtime.predict({"index": np.array([0, 2])})["output-0"].shape == (2, 2)
    with pytest.raises(InvalidInput, match="index out of range"):
        runtime.predict({"index": np.array([3])})
    with pytest.raises(InvalidInput, match="input 'index': expected INT64, got text"):
        runtime.predict({"index": np.array(["a"], object)})
    (tmp_path / "model.pt2").unlink()
    _script(tmp_path, Nests())
    nests = _open(tmp_path)
    with pytest.raises(PredictionFailed, match="the model gave list where a tensor was expected"):
        nests.predict({"index": np.array([0])})
    with pytest.raises(InvalidInput, match="input 'index': expected numbers, got text"):
        nests.predict({"index": np.array(["a"], object)})


_INDEXES = """
import torch


class Network(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.words = torch.nn.Embedding(5, 2)
        self.places = torch.nn.Embedding(20, 2)
        self.names = {names}

    def forward(self, word):
        places = self.places(torch.arange(word.shape[1]))
        return self.words(word).sum(dim=-1) + places.sum(dim=-1) + self.names[len(word) - 1]
"""


def test_an_index_out_of_range_is_whoever_chose_it(tmp_path: Path) -> None:
    """Values and lengths that tables do not have are the caller's; what fails whatever they are is the model's bug."""
    network = torch.nn.ModuleDict({"words": torch.nn.Embedding(5, 2), "places": torch.nn.Embedding(20, 2)})
    save_file(network.state_dict(), tmp_path / "model.safetensors")
    (tmp_path / "net.py").write_text(_INDEXES.replace("{names}", "[1, 2, 3]"))
    declared = {"name": "word", "datatype": "INT64", "shape": [-1, -1]}
    options = {"model": "net:Network", "inputs": [declared], "device": "cpu"}
    runtime = _open(tmp_path, options=options)

    assert runtime.predict({"word": np.zeros((3, 20), int)})["output-0"].shape == (3, 20)
    for wrong in (np.full((2, 4), 5), np.zeros((2, 21), int)):
        with pytest.raises(InvalidInput, match="inputs: index out of range"):
            runtime.predict({"word": wrong})
    with pytest.raises(IndexError, match="list index out of range"):
        runtime.predict({"word": np.zeros((4, 2), int)})


def test_served_with_the_flag(tmp_path: Path) -> None:
    """Over HTTP: `--trusted` loads the file, V1 and V2 predict the same."""
    rows = RUNTIMES.find("torch").example(tmp_path)["input"][:2]
    tensor = {"name": "input", "shape": [2, 4], "datatype": "FP32", "data": rows.ravel().tolist()}
    expected = open_model(tmp_path, _TRUST).predict({"input": rows})["output-0"]
    with predictor(tmp_path, tmp_path, "--trusted") as server, server.client() as client:
        v1 = client.post("/v1/models/m:predict", json={"instances": rows.tolist()}).json()
        v2 = client.post("/v2/models/m/infer", json={"inputs": [tensor]}).json()

    np.testing.assert_allclose(v1["predictions"], expected, rtol=1e-6)
    np.testing.assert_allclose(v2["outputs"][0]["data"], expected.ravel(), rtol=1e-6)


@pytest.mark.parametrize("kind", ["exported", "script", "weights"])
def test_unloaded_weights_are_gone_at_once(tmp_path: Path, kind: str) -> None:
    """No search for cycles has to come by: a server hardly ever makes one, and the next model needs the memory now."""
    if kind == "weights":
        _weights(tmp_path)
    elif kind == "exported":
        _export(tmp_path, torch.nn.Linear(4, 3), torch.from_numpy(_ROWS))
    else:
        _script(tmp_path, torch.nn.Linear(4, 3))
    runtime = _open(tmp_path, options={"model": "net:Network"} if kind == "weights" else {})
    held = [each.untyped_storage() for each in _parameters(runtime)]
    before = _held(runtime)
    parameters = list(_parameters(runtime))
    runtime.unload()

    assert before == sum(storage.nbytes() for storage in held) > 0
    assert sum(each.untyped_storage().nbytes() for each in parameters) == 0


def _parameters(runtime: Runtime) -> list[torch.Tensor]:
    module: torch.nn.Module = runtime._module  # type: ignore[attr-defined] # what must not stay
    return list(module.parameters())


def _held(runtime: Runtime) -> int:
    return sum(each.untyped_storage().nbytes() for each in _parameters(runtime))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("options", [{}, {"cuda_graphs": True}, {"dtype": "BF16"}, {"compile": "default"}])
def test_a_gpu_predicts_as_the_cpu_does(tmp_path: Path, options: dict[str, Any]) -> None:
    """On a CUDA device, with recorded graphs too, and from many threads at once, predictions are the CPU's."""
    rows = RUNTIMES.find("torch").example(tmp_path)["input"]
    cpu = _open(tmp_path, options={"device": "cpu"})
    gpu = _open(tmp_path, pad_to=[1, 2, 4], options={"device": "cuda:0", **options})
    slices = [slice(start, start + 1 + start % 4) for start in range(100)] * 3
    expected = [cpu.predict({"input": rows[each]})["output-0"] for each in slices]
    with ThreadPoolExecutor(8) as threads:
        got = list(threads.map(lambda each: gpu.predict({"input": rows[each]})["output-0"], slices))

    for one, other in zip(expected, got, strict=True):
        np.testing.assert_allclose(one, other, atol=0.05 if "dtype" in options else 1e-3)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_recordings_of_models_are_apart(tmp_path: Path) -> None:
    """Models with CUDA graphs, loaded and asked at the same time, predict right; also after some of them have gone."""
    rows = np.random.default_rng(2).normal(size=(8, 4)).astype(np.float32)
    _weights(tmp_path)
    declared = {"name": "x", "datatype": "FP32", "shape": [-1, 4]}
    options = {"model": "net:Network", "inputs": [declared]}
    expected = _open(tmp_path, options={**options, "device": "cpu"}).predict({"x": rows})["output-0"]
    settings = {"pad_to": [1, 2, 8], "options": {**options, "device": "cuda:0", "cuda_graphs": True}}
    (tmp_path / SETTINGS_FILE).write_bytes(orjson.dumps(settings))
    with ThreadPoolExecutor(8) as threads:
        models = list(threads.map(lambda _: open_model(tmp_path, _TRUST), range(4)))
        for gone in range(4):
            calls = [(model, count) for model in models[gone:] for count in (1, 2, 8)] * 20
            got = list(threads.map(lambda call: call[0].predict({"x": rows[: call[1]]})["output-0"], calls))

            for (_, count), answer in zip(calls, got, strict=True):
                np.testing.assert_allclose(answer, expected[:count], atol=1e-3)
            models[gone].unload()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_full_gpu_is_said_to_be_full(tmp_path: Path) -> None:
    """Without room on the GPU a load and a prediction are refused as what may pass, and a small one goes on."""
    _weights(tmp_path)
    declared = {"name": "x", "datatype": "FP32", "shape": [-1, 4]}
    runtime = _open(tmp_path, options={"model": "net:Network", "inputs": [declared], "device": "cuda:0"})
    rows = np.broadcast_to(_ROWS[:1], (1 << 24, 4))
    torch.cuda.memory.set_per_process_memory_fraction(0.001, 0)
    try:
        with pytest.raises(DeviceExhausted, match="CUDA out of memory"):
            runtime.predict({"x": rows})
        assert len(runtime.predict({"x": _ROWS})["output-0"]) == len(_ROWS)
    finally:
        torch.cuda.memory.set_per_process_memory_fraction(1.0, 0)
