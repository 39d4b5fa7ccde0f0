"""PyTorch models: programs of `torch.export`, TorchScript, and weights with the class that they belong to.

All of them run code, so they need `--trusted`; `inference/pytorch/programs.py` says why. On the CPU a prediction takes
one thread; on a GPU each worker thread has a stream of its own.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Final, Self

import numpy as np
from numpy.typing import NDArray

from inference import options
from inference.errors import DeviceExhausted, DeviceLost, InvalidInput, ModelLoadFailed, PredictionFailed
from inference.pytorch import trials
from inference.pytorch.options import HALVES, TYPES, Options, check
from inference.runtime import ANY, Arrays, Runtime, Source, iris, library
from inference.signature import Signature, chosen

if TYPE_CHECKING:
    import torch

    from inference.pytorch.devices import Place
    from inference.pytorch.graphs import Graphs
    from inference.pytorch.programs import Program

log = logging.getLogger(__name__)

_INDEX: Final = ".safetensors.index.json"
_PART: Final = re.compile(r"(.+)-\d+-of-\d+\.safetensors")
_BATCH: Final = 64


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
        self._half: torch.dtype | None = getattr(self._torch, HALVES.get(chosen_options.dtype, ""), None)
        self._signature = Signature(program.wanted, source.settings)
        self._dtypes = self._input_types()
        self._served: dict[str, str] | None = None
        self._module = program.module
        """As it was read: what runs may be compiled."""
        self._graphs: Graphs | None = None
        self._lost = ""
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
        check(given, source.path)
        try:
            place = devices.Place(devices.find(given.device, source.gpu))
        except ValueError as exc:
            raise ModelLoadFailed(f"{source.path}: options: device: {exc}") from exc
        declared = options.specs(given.inputs, f"{source.path}: options: inputs")
        torch: Any = library("torch", "torch")
        try:
            dtype = getattr(torch, TYPES[given.dtype], None)
            program = programs.read(source, place.device, declared, given.model, given.arguments, dtype)
            runtime = cls(program, place, given, source)
            with place.prepared():
                runtime._prepare()
        except (torch.OutOfMemoryError, DeviceExhausted) as exc:
            problem = _brief(exc)
        else:
            return runtime
        # Not before the error is gone: it holds whatever was half loaded.
        place.clear()
        raise DeviceExhausted(f"{source.path}: {problem}", devices.full(problem, place.device))

    def predict(self, inputs: Arrays) -> dict[str, NDArray[Any]]:
        """Run the model without gradients."""
        arrays = self._signature.fit(inputs)
        text = [name for name, array in arrays.items() if array.dtype.kind not in "biuf"]
        if text:
            raise InvalidInput(f"input {text[0]!r}: expected numbers, got text")
        try:
            return self._run(arrays)
        except self._torch.OutOfMemoryError as exc:
            problem = _brief(exc)
        except AssertionError as exc:
            if not str(exc).startswith("Guard failed"):
                raise
            # The program was recorded for sizes within bounds.
            raise InvalidInput(f"inputs: {exc}") from exc
        except IndexError as exc:
            if not self._bears(arrays):
                raise
            raise InvalidInput(f"inputs: {exc}") from exc
        except RuntimeError as exc:
            if not self._place.lost():
                raise
            self._lost = f"{self._place.device} failed: {_brief(exc)}"
            raise DeviceLost(self._lost) from exc
        # Not before the error is gone: it holds what the prediction had allocated.
        raise DeviceExhausted(problem, str(self._place.device))

    def lost(self) -> str:
        """Say how the device failed, if it did: one kernel that fails ends them all."""
        return self._lost

    def unload(self) -> None:
        """Give the device its memory back."""
        code = self._program.code
        from inference.pytorch.devices import let_go  # noqa: PLC0415 - it imports torch

        if self._graphs is not None:
            self._graphs.close()
        let_go(self._module)
        del self._program, self._module
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
            outputs = None if self._graphs is None else self._graphs.replay(tensors)
            return self._place.get(self._call(tensors) if outputs is None else outputs)

    def _bears(self, arrays: Arrays) -> bool:
        """Say whether as many rows of zeros are predicted on, of the same sizes or of smaller ones.

        Then it is the values or sizes of the call that the model does not take, and else the model that is wrong.
        """
        for longest in (None, trials.TRIALS[0][1]):
            zeros = {name: np.zeros(trials.cut(each.shape, longest), each.dtype) for name, each in arrays.items()}
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
        module = self._module
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
        from inference.pytorch.devices import used, weigh  # noqa: PLC0415 - it imports torch

        self.device_bytes = weigh(module) + (0 if self._graphs is None else self._graphs.bytes())
        self.devices = tuple(sorted(used(module) | ({str(self._place.device)} if self._graphs else set())))

    def _try(self) -> None:
        """Predict on zeros of two sizes: the warm-up, and how the outputs' sizes follow the inputs' is seen."""
        if len(self.inputs) != len(self._program.wanted):
            return
        seen = []
        # The compiler makes a single row a case of its own, which no request should have to wait for.
        tried = (*trials.TRIALS, (1, trials.TRIALS[0][1])) if self._options.compile else trials.TRIALS
        for rows, size in tried:
            arrays = {spec.name: trials.zeros(spec, rows, size) for spec in self.inputs}
            try:
                seen.append(self.predict(arrays))
            except (ModelLoadFailed, DeviceExhausted, DeviceLost):
                raise
            except Exception as exc:  # noqa: BLE001 - a model may refuse zeros in any way, and serve all the same
                log.info("%s: could not be tried on zeros: %s: %s", self._source.path, type(exc).__name__, exc)
                return
        self.outputs = tuple(trials.described(name, array, seen[1][name]) for name, array in seen[0].items())
        if self._signature.joins() and all(spec.shape[:1] == (ANY,) for spec in self.outputs):
            self.max_batch = _BATCH

    def _record(self) -> None:
        from inference.pytorch.graphs import Graphs  # noqa: PLC0415 - it imports torch

        sizes = self._source.settings.pad_to
        free = [spec.name for spec in self.inputs if ANY in spec.shape[1:]]
        if self._place.device.type != "cuda" or not sizes or free or not self.inputs:
            raise ModelLoadFailed(
                f"{self._source.path}: options: cuda_graphs: expected a CUDA device, pad_to, and inputs of fixed sizes "
                f"but for the rows; got {self._place.device}, pad_to {list(sizes)}, free sizes in {free}"
            )
        try:
            graphs = self._graphs = Graphs(self._place.device)
        except ValueError as exc:
            raise ModelLoadFailed(f"{self._source.path}: options: cuda_graphs: {exc}") from exc
        try:
            self._record_each(graphs, sizes)
        except BaseException as exc:
            graphs.close()
            if isinstance(exc, self._torch.OutOfMemoryError) or not isinstance(exc, RuntimeError):
                raise
            raise ModelLoadFailed(
                f"{self._source.path}: options: cuda_graphs: cannot be recorded: {_brief(exc)}"
            ) from exc

    def _record_each(self, graphs: Graphs, sizes: Sequence[int]) -> None:
        for rows in sorted(sizes, reverse=True):
            # The largest first: the others find room in what it has taken.
            arrays = {spec.name: trials.zeros(spec, rows, 1) for spec in self.inputs}
            with self._place.turn():
                tensors = {name: self._place.put(array, self._dtype(name, array)) for name, array in arrays.items()}
                graphs.record(rows, self._call, tensors)

    def _call(self, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        if self._half is None or self._program.castable:
            result = self._program(tensors)
        else:
            with self._torch.autocast(self._place.device.type, self._half, cache_enabled=False):
                result = self._program(tensors)
        outputs = trials.named(result, self._options.outputs)
        if self._served is None:
            self._served = chosen(list(outputs), self._source.settings, self._source.path)
        return {name: self._told(outputs[own]) for own, name in self._served.items()}

    def _told(self, tensor: object) -> torch.Tensor:
        if not isinstance(tensor, self._torch.Tensor):
            raise PredictionFailed(f"the model gave {type(tensor).__name__} where a tensor was expected")
        half: torch.Tensor = tensor
        return half.float() if self._half is not None and half.dtype == self._half else half


def _brief(error: BaseException) -> str:
    """Give the first line of what torch says: the next ones are advice for debugging."""
    return str(error).strip().partition("\n")[0]
