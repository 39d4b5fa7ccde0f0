"""PyTorch models: programs of `torch.export`, TorchScript, and weights with the class that they belong to.

All of them run code, so they need `--trusted`; `inference/pytorch/programs.py` says why. On the CPU a prediction takes
one thread; on a GPU each worker thread has a stream of its own.
"""

from __future__ import annotations

import itertools
import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Final, Self

import numpy as np
from numpy.typing import NDArray

from inference import options
from inference.errors import InvalidInput, ModelLoadFailed, PredictionFailed
from inference.protocol.datatypes import NUMPY, datatype_of
from inference.runtime import ANY, Arrays, Runtime, Source, TensorSpec, iris, library
from inference.signature import Signature, chosen

if TYPE_CHECKING:
    import torch

    from inference.pytorch.devices import Graph, Place
    from inference.pytorch.programs import Program

log = logging.getLogger(__name__)

_HALVES: Final = {"FP16": "float16", "BF16": "bfloat16"}
# Those without CUDA graphs of the compiler's own, which are bound to one thread.
_MODES: Final = ("default", "max-autotune-no-cudagraphs")
_INDEX: Final = ".safetensors.index.json"
_PART: Final = re.compile(r"(.+)-\d+-of-\d+\.safetensors")
_BATCH: Final = 64
_TRIALS: Final = ((2, 16), (3, 24))
"""Rows, and the size of every other free dimension, of the calls that a model is tried with."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How a model is run."""

    device: str = "auto"
    """`cpu`, `cuda:N`, or `auto`: the first GPU that PyTorch can use, else the CPU."""
    dtype: str = ""
    """FP16 or BF16 compute in that type; inputs and outputs keep theirs, so that clients need not know.

    FP32 does so where a class's own type is another. Empty: as the model is.
    """
    compile: str = ""
    """A mode of torch.compile: `default` or `max-autotune-no-cudagraphs`. Takes seconds to minutes, at load."""
    cuda_graphs: bool = False
    """Record a prediction of each size in `pad_to` as one launch. For models whose Python does no more than launch."""
    model: str = ""
    """`module:Class` of the module that .safetensors or .pth weights belong to."""
    arguments: dict[str, Any] = field(default_factory=dict)
    """Keyword arguments of that class."""
    inputs: tuple[Any, ...] = ()
    """What the model takes, where its file does not say: all but .pt2."""
    outputs: tuple[str, ...] = ()
    """Names of its outputs, in order, where it gives them without names."""


class Torch(Runtime):
    """One model on one device."""

    suffixes: ClassVar[tuple[str, ...]] = (".pt2", ".pt", ".ts", ".safetensors", ".pth")
    platform: ClassVar[str] = "pytorch_module"
    options: ClassVar[type[Any]] = Options
    runs_code: ClassVar[bool] = True

    def __init__(self, program: Program, place: Place, chosen_options: Options, source: Source) -> None:
        self._torch: Any = library("torch", "torch")
        self._program = program
        self._place = place
        self._options = chosen_options
        self._source = source
        self._half: torch.dtype | None = getattr(self._torch, _HALVES.get(chosen_options.dtype, ""), None)
        self._signature = Signature(program.wanted, source.settings)
        self._dtypes = self._input_types()
        self._served: dict[str, str] | None = None
        self._graphs: dict[int, Graph] = {}
        self.inputs = self._signature.specs()
        self.features = self._signature.features()

    @classmethod
    def claims(cls, path: Path) -> bool:
        """Read files by their endings; of weights in several files the index, which lists them."""
        if path.name.endswith(_INDEX):
            return True
        part = _PART.fullmatch(path.name)
        return path.suffix in cls.suffixes and not (part and path.with_name(part[1] + _INDEX).exists())

    @classmethod
    def load(cls, source: Source) -> Self:
        """Read a model, bring it to its device, and try it."""
        library("torch", "torch")
        library("safetensors", "torch")
        from inference.pytorch import devices, programs  # noqa: PLC0415 - they import torch

        given = options.read(Options, source)
        _check(given, source.path)
        try:
            place = devices.Place(devices.find(given.device))
        except ValueError as exc:
            raise ModelLoadFailed(f"{source.path}: options: device: {exc}") from exc
        declared = options.specs(given.inputs, f"{source.path}: options: inputs")
        program = programs.read(source, place.device, declared, given.model, given.arguments)
        runtime = cls(program, place, given, source)
        runtime._prepare()
        return runtime

    def predict(self, inputs: Arrays) -> dict[str, NDArray[Any]]:
        """Run the model without gradients."""
        arrays = self._signature.fit(inputs)
        text = [name for name, array in arrays.items() if array.dtype.kind not in "biuf"]
        if text:
            raise InvalidInput(f"input {text[0]!r}: expected numbers, got text")
        try:
            return self._run(arrays)
        except AssertionError as exc:
            if not str(exc).startswith("Guard failed"):
                raise
            # The program was recorded for sizes within bounds.
            raise InvalidInput(f"inputs: {exc}") from exc
        except IndexError as exc:
            if not self._bears(arrays):
                raise
            raise InvalidInput(f"inputs: {exc}") from exc

    def unload(self) -> None:
        """Give the device its memory back."""
        code = self._program.code
        self._graphs.clear()
        del self._program
        self._place.clear()
        if code is not None:
            code.forget()

    @classmethod
    def example(cls, directory: Path) -> dict[str, NDArray[Any]]:
        """Save an exported network that gives three scores."""
        rows, _ = iris()
        torch = library("torch", "torch")
        generator = torch.Generator().manual_seed(0)
        network = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Tanh(), torch.nn.Linear(8, 3))
        for parameter in network.parameters():
            torch.nn.init.normal_(parameter, generator=generator)
        inputs = torch.from_numpy(rows.astype(np.float32))
        sizes = ({0: torch.export.Dim("rows")},)
        torch.export.save(torch.export.export(network.eval(), (inputs,), dynamic_shapes=sizes), directory / "model.pt2")
        return {"input": inputs.numpy()}

    def _run(self, arrays: Arrays) -> dict[str, NDArray[Any]]:
        with self._place.turn():
            tensors = {name: self._place.put(array, self._dtype(name, array)) for name, array in arrays.items()}
            graph = self._graphs.get(len(next(iter(arrays.values()))))
            if graph is not None and graph.fits(tensors):
                with graph.lock:
                    return self._place.get(graph(tensors))
            return self._place.get(self._call(tensors))

    def _bears(self, arrays: Arrays) -> bool:
        """Say whether as many rows of zeros are predicted on, of the same sizes or of smaller ones.

        Then it is the values or sizes of the call that the model does not take, and else the model that is wrong.
        """
        for longest in (None, _TRIALS[0][1]):
            zeros = {name: np.zeros(_cut(each.shape, longest), each.dtype) for name, each in arrays.items()}
            try:
                self._run(self._signature.fit(zeros))
            except Exception:  # noqa: BLE001, S112 - whatever it is, these zeros show nothing
                continue
            return True
        return False

    def _input_types(self) -> dict[str, torch.dtype]:
        from inference.pytorch.programs import DATATYPES  # noqa: PLC0415 - it imports torch

        types = {datatype: dtype for dtype, datatype in DATATYPES.items()}
        unknown = [wanted for wanted in self._program.wanted if wanted.datatype not in {None, *types}]
        if unknown:
            raise ModelLoadFailed(
                f"{self._source.path}: input {unknown[0].name!r}: {unknown[0].datatype} is no type of PyTorch's"
            )
        known = {each.name: types[each.datatype] for each in self._program.wanted if each.datatype is not None}
        if self._half is None or not self._program.castable:
            return known
        return {name: self._half if dtype.is_floating_point else dtype for name, dtype in known.items()}

    def _dtype(self, name: str, array: NDArray[Any]) -> torch.dtype | None:
        if name in self._dtypes or array.dtype.kind != "f":
            return self._dtypes.get(name)
        # The file does not say: numbers with a fraction are of the weights' type.
        return self._floats

    def _prepare(self) -> None:
        module = self._program.module
        if self._program.castable and self._options.dtype:
            module.to(self._half or self._torch.float32)
        floats = (each.dtype for each in module.parameters() if each.dtype.is_floating_point)
        self._floats: torch.dtype = next(floats, self._torch.float32)
        # The server already runs one prediction per core; and what is compiled holds for this number alone.
        self._torch.set_num_threads(1)
        if self._options.compile:
            if self._program.scripted:
                raise ModelLoadFailed(f"{self._source.path}: options: compile: TorchScript is compiled already")
            self._program.module = self._torch.compile(module, mode=self._options.compile)
        self._try()
        if self._options.cuda_graphs:
            self._record()
        from inference.pytorch.devices import weigh  # noqa: PLC0415 - it imports torch

        self.device_bytes = weigh(module) + sum(graph.bytes for graph in self._graphs.values())

    def _try(self) -> None:
        """Predict on zeros of two sizes: the warm-up, and how the outputs' sizes follow the inputs' is seen."""
        if len(self.inputs) != len(self._program.wanted):
            return
        seen = []
        # The compiler makes a single row a case of its own, which no request should have to wait for.
        trials = (*_TRIALS, (1, _TRIALS[0][1])) if self._options.compile else _TRIALS
        for rows, size in trials:
            arrays = {spec.name: _zeros(spec, rows, size) for spec in self.inputs}
            try:
                seen.append(self.predict(arrays))
            except ModelLoadFailed:
                raise
            except Exception as exc:  # noqa: BLE001 - a model may refuse zeros in any way, and serve all the same
                log.info("%s: could not be tried on zeros: %s: %s", self._source.path, type(exc).__name__, exc)
                return
        self.outputs = tuple(_described(name, array, seen[1][name]) for name, array in seen[0].items())
        if self._signature.joins() and all(spec.shape[:1] == (ANY,) for spec in self.outputs):
            self.max_batch = _BATCH

    def _record(self) -> None:
        from inference.pytorch.devices import Graph  # noqa: PLC0415 - it imports torch

        sizes = self._source.settings.pad_to
        free = [spec.name for spec in self.inputs if ANY in spec.shape[1:]]
        if self._place.device.type != "cuda" or not sizes or free or not self.inputs:
            raise ModelLoadFailed(
                f"{self._source.path}: options: cuda_graphs: expected a CUDA device, pad_to, and inputs of fixed sizes "
                f"but for the rows; got {self._place.device}, pad_to {list(sizes)}, free sizes in {free}"
            )
        for rows in sizes:
            arrays = {spec.name: _zeros(spec, rows, 1) for spec in self.inputs}
            with self._place.turn():
                tensors = {name: self._place.put(array, self._dtype(name, array)) for name, array in arrays.items()}
                self._graphs[rows] = Graph(self._call, tensors)

    def _call(self, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        if self._half is None or self._program.castable:
            result = self._program(tensors)
        else:
            with self._torch.autocast(self._place.device.type, self._half, cache_enabled=False):
                result = self._program(tensors)
        outputs = _named(result, self._options.outputs)
        if self._served is None:
            self._served = chosen(list(outputs), self._source.settings, self._source.path)
        return {name: self._told(outputs[own]) for own, name in self._served.items()}

    def _told(self, tensor: object) -> torch.Tensor:
        if not isinstance(tensor, self._torch.Tensor):
            raise PredictionFailed(f"the model gave {type(tensor).__name__} where a tensor was expected")
        half: torch.Tensor = tensor
        return half.float() if self._half is not None and half.dtype == self._half else half


def _check(given: Options, path: Path) -> None:
    if given.dtype not in {"", "FP32", *_HALVES}:
        raise ModelLoadFailed(f"{path}: options: dtype: expected FP32, FP16 or BF16, got {given.dtype!r}")
    if given.compile and given.compile not in _MODES:
        raise ModelLoadFailed(f"{path}: options: compile: expected one of {', '.join(_MODES)}, got {given.compile!r}")


def _named(result: Any, names: tuple[str, ...]) -> dict[str, Any]:  # noqa: ANN401 - the model's
    if isinstance(result, Mapping):
        return dict(result)
    if isinstance(result, tuple) and hasattr(result, "_fields"):
        return dict(zip(result._fields, result, strict=True))
    several = list(result) if isinstance(result, (list, tuple)) else [result]
    if not names:
        names = tuple(f"output-{at}" for at in range(len(several)))
    if len(names) != len(several):
        raise ModelLoadFailed(f"options: outputs: {len(names)} are named, the model gives {len(several)}")
    return dict(zip(names, several, strict=True))


def _zeros(spec: TensorSpec, rows: int, size: int) -> NDArray[Any]:
    shape = [size if each == ANY else each for each in spec.shape]
    if spec.shape[:1] == (ANY,):
        shape[0] = rows
    return np.zeros(shape, NUMPY[spec.datatype])


def _cut(shape: tuple[int, ...], longest: int | None) -> tuple[int, ...]:
    return shape if longest is None else (*shape[:1], *(min(size, longest) for size in shape[1:]))


def _described(name: str, one: NDArray[Any], other: NDArray[Any]) -> TensorSpec:
    shape = tuple(size if size == also else ANY for size, also in itertools.zip_longest(one.shape, other.shape))
    return TensorSpec(name, datatype_of(one), shape)
