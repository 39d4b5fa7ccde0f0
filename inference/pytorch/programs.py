"""Reads PyTorch's model files into something that is called with named tensors.

Every one of them runs code of its author. A .pt2 holds expressions that `torch.export.load` evaluates as Python;
TorchScript holds programs of its own that run while it loads, and can write files; weights alone need a class.
"""

from __future__ import annotations

import inspect
import re
import warnings
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from safetensors import SafetensorError
from safetensors.torch import load_model
from torch.export import ExportedProgram
from torch.export.graph_signature import ConstantArgument, InputKind
from torch.export.passes import move_to_device_pass
from torch.utils import _pytree as pytree

from inference.errors import ModelLoadFailed, UnsafeFormat
from inference.modelcode import ModelCode
from inference.pytorch import sharded
from inference.runtime import ANY, Source, TensorSpec
from inference.signature import Wanted

Tensors = Mapping[str, torch.Tensor]

DATATYPES: Final = {
    torch.bool: "BOOL",
    torch.uint8: "UINT8", torch.int8: "INT8", torch.int16: "INT16", torch.int32: "INT32", torch.int64: "INT64",
    torch.float16: "FP16", torch.bfloat16: "BF16", torch.float32: "FP32", torch.float64: "FP64",
}  # fmt: skip
WEIGHTS: Final = (".safetensors", ".pth")
_INDEX: Final = ".json"
"""Of weights in several .safetensors files."""
SCRIPTS: Final = (".pt", ".ts")
_PLACE: Final = re.compile(r".+__([0-9]{1,4})")
_WHY: Final = {
    ".pt2": "torch.export.load evaluates expressions of the file as Python",
    **dict.fromkeys(SCRIPTS, "TorchScript is a program, which runs while it loads and can write files"),
    **dict.fromkeys((*WEIGHTS, _INDEX), "the class that the weights belong to is code"),
}


@dataclass(slots=True)
class Program:
    """A model, ready to be called on one device."""

    module: Any
    """What is called, and may be compiled; a plain function has no parameters."""
    wanted: tuple[Wanted, ...]
    arguments: Callable[[Tensors], tuple[tuple[Any, ...], dict[str, Any]]]
    """Puts named tensors into the form of the call."""
    code: ModelCode | None = None
    scripted: bool = False
    """TorchScript brings a compiler of its own."""
    castable: bool = False
    """Whether its weights may be given another number type; a recorded graph fixes its own."""

    def __call__(self, tensors: Tensors) -> Any:  # noqa: ANN401 - whatever the model gives
        """Call the model."""
        positional, named = self.arguments(tensors)
        return self.module(*positional, **named)


def read(
    source: Source,
    device: torch.device,
    declared: Sequence[TensorSpec],
    model: str,
    arguments: dict[str, Any],
    dtype: torch.dtype | None = None,
) -> Program:
    """Load a model file onto a device; weights of a class, which have no recorded type, as `dtype`.

    Raises:
        UnsafeFormat: the operator does not trust the file.
        ModelLoadFailed: it is no model, or its class or inputs are not what the settings say.
    """
    suffix = source.path.suffix
    if not source.trust.code:
        raise UnsafeFormat(f"{source.path}: {_WHY[suffix]}; if you trust the file: --trusted")
    if suffix in {*WEIGHTS, _INDEX}:
        return _weights(source, (device, dtype), declared, model, arguments)
    if model or arguments:
        raise ModelLoadFailed(f"{source.path}: options: model and arguments belong to {', '.join(WEIGHTS)} files")
    if not zipfile.is_zipfile(source.path):
        raise ModelLoadFailed(f"{source.path}: no PyTorch model: expected a zip archive")
    if suffix == ".pt2":
        return _exported(source.path, device, declared)
    return _script(source.path, device, declared)


def _exported(path: Path, device: torch.device, declared: Sequence[TensorSpec]) -> Program:
    if declared:
        raise ModelLoadFailed(f"{path}: options: inputs: a .pt2 file says them itself")
    with _refused(path):
        program = torch.export.load(path)
        program = move_to_device_pass(program, device)
        module = program.module()
    slots = _slots(program, path)
    structure = program.call_spec.in_spec

    def arguments(tensors: Tensors) -> tuple[tuple[Any, ...], dict[str, Any]]:
        flat = [tensors[slot.name] if isinstance(slot, Wanted) else slot for slot in slots]
        positional, named = pytree.tree_unflatten(flat, structure)
        return tuple(positional), dict(named)

    return Program(module, tuple(slot for slot in slots if isinstance(slot, Wanted)), arguments)


def _slots(program: ExportedProgram, path: Path) -> list[Any]:
    """Give what the graph takes, in order: a wanted tensor, or the constant that it was recorded with."""
    values = {node.name: node.meta.get("val") for node in program.graph.nodes if node.op == "placeholder"}
    slots: list[Any] = []
    for spec in program.graph_signature.input_specs:
        if spec.kind is not InputKind.USER_INPUT:
            continue
        if isinstance(spec.arg, ConstantArgument):
            slots.append(spec.arg.value)
            continue
        value = values.get(spec.arg.name)
        if not isinstance(value, torch.Tensor):
            raise ModelLoadFailed(f"{path}: input {spec.arg.name!r}: expected a tensor, got {type(spec.arg).__name__}")
        if value.dtype not in DATATYPES:
            raise ModelLoadFailed(f"{path}: input {spec.arg.name!r}: its type {value.dtype} has no V2 datatype")
        shape = tuple(size if type(size) is int else ANY for size in value.shape)  # else a symbol
        slots.append(Wanted(spec.arg.name, DATATYPES[value.dtype], shape))
    return slots


def _script(path: Path, device: torch.device, declared: Sequence[TensorSpec]) -> Program:
    with _refused(path), warnings.catch_warnings():
        # Deprecated in favour of torch.export; its files are served all the same.
        warnings.simplefilter("ignore", DeprecationWarning)
        module = torch.jit.load(path, map_location=device)  # type: ignore[no-untyped-call]
        taken = list(module.forward.schema.arguments[1:])
    names = [argument.name for argument in taken if not argument.has_default_value()]
    known = [argument.name for argument in taken]
    places = _places(declared, known)
    if places:
        if sorted(places.values()) != list(range(len(places))) or not len(names) <= len(places) <= len(known):
            raise ModelLoadFailed(
                f"{path}: options: inputs: expected the places from 0 on of {', '.join(known)}, got {', '.join(places)}"
            )
        order = sorted(places, key=places.__getitem__)
        wanted = tuple(Wanted(spec.name, spec.datatype, spec.shape) for spec in declared)
        return Program(
            module.eval(), wanted, lambda tensors: (tuple(tensors[name] for name in order), {}), scripted=True
        )
    return Program(module.eval(), _wanted(declared, names, known, path), _by_name, scripted=True)


def _places(declared: Sequence[TensorSpec], known: Sequence[str]) -> dict[str, int]:
    """Give the places in the call that names say as Triton's configurations do, such as `INPUT__0`; all do, or none."""
    found = {spec.name: _PLACE.fullmatch(spec.name) for spec in declared if spec.name not in known}
    places = {name: int(place[1]) for name, place in found.items() if place is not None}
    return places if len(places) == len(declared) else {}


def _weights(
    source: Source,
    goal: tuple[torch.device, torch.dtype | None],
    declared: Sequence[TensorSpec],
    model: str,
    arguments: dict[str, Any],
) -> Program:
    path = source.path
    if not model:
        raise ModelLoadFailed(f'{path}: options: model: expected "module:Class" of the module that the weights are for')
    code = ModelCode(model, source)
    try:
        module = code.build(arguments)
        _fill(module, path, code.where)
        parameters = list(inspect.signature(module.forward).parameters.values())
        names = [each.name for each in parameters if each.default is each.empty and each.kind is not each.VAR_KEYWORD]
        wanted = _wanted(declared, names, [each.name for each in parameters], path)
        # At once, and not first in the type of the file: the device may have no room for both.
        module.to(*goal).eval()
    except BaseException:
        code.forget()
        raise
    return Program(module, wanted, _by_name, code=code, castable=True)


def _fill(module: object, path: Path, where: str) -> None:
    if not isinstance(module, torch.nn.Module):
        raise ModelLoadFailed(f"{where}: expected a torch.nn.Module, got {type(module).__name__}")
    with _refused(path):
        if path.suffix == ".safetensors":
            load_model(module, path)
        elif path.suffix == _INDEX:
            sharded.fill(module, path)
        else:
            module.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))


def _wanted(
    declared: Sequence[TensorSpec], names: Sequence[str], known: Sequence[str], path: Path
) -> tuple[Wanted, ...]:
    if not declared:
        return tuple(Wanted(name) for name in names)
    wrong = [spec.name for spec in declared if spec.name not in known]
    missing = [name for name in names if name not in {spec.name for spec in declared}]
    if wrong or missing:
        raise ModelLoadFailed(
            f"{path}: options: inputs: missing {missing}, unknown {wrong}; forward takes {', '.join(known)}"
        )
    return tuple(Wanted(spec.name, spec.datatype, spec.shape) for spec in declared)


def _by_name(tensors: Tensors) -> tuple[tuple[Any, ...], dict[str, Any]]:
    return (), dict(tensors)


@contextmanager
def _refused(path: Path) -> Iterator[None]:
    """Turn whatever torch says about a file into one error."""
    try:
        yield
    except (ModelLoadFailed, torch.OutOfMemoryError):
        raise
    except (OSError, SafetensorError) as exc:
        raise ModelLoadFailed(f"{path}: no PyTorch model: {exc}") from exc
    except Exception as exc:
        raise ModelLoadFailed(f"{path}: no PyTorch model: {type(exc).__name__}: {str(exc).strip()}") from exc
