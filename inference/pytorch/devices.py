"""Where a PyTorch model computes: arrays go there and come back, on a stream of each worker thread's own.

On a GPU both ways go through page-locked memory, so that a copy and another thread's computation overlap. Predictions
that are recorded: `inference/pytorch/graphs.py`.
"""

from __future__ import annotations

import contextlib
import re
import threading
from collections.abc import Iterator, Mapping
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

Tensors = Mapping[str, torch.Tensor]

_FULL: Final = re.compile(r"\bGPU (\d+) has a total capacity")
_PREPARING: Final = threading.Lock()
"""CUDA allows one recording in a process at a time, and ends one when somebody waits for the whole device, as a
compiler does that measures, or gives all free memory back."""
_STREAMS: Final = threading.local()
"""One for each thread and device, whatever the model: there are only 32 different ones, and what a stream has freed
is kept for that stream."""


class Place:
    """One device, for all threads."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._cuda = device.type == "cuda"

    @contextlib.contextmanager
    def turn(self) -> Iterator[None]:
        """Compute on this device in the calling thread, beside the other threads' work, and remember no gradients."""
        with torch.inference_mode():
            if not self._cuda:
                yield
                return
            with torch.cuda.device(self.device), torch.cuda.stream(self._stream()):
                yield

    @contextlib.contextmanager
    def prepared(self) -> Iterator[None]:
        """Get a model ready that was just brought here; no other one meanwhile."""
        if not self._cuda:
            yield
            return
        with _PREPARING:
            # Weights came on the device's first stream, for which the threads' own do not wait.
            torch.cuda.default_stream(self.device).synchronize()
            yield

    def put(self, array: NDArray[Any], dtype: torch.dtype | None) -> torch.Tensor:
        """Bring an array here. A copy in any case: a model may work in place, and the array is the request's body."""
        plain = torch.from_numpy(np.empty(0, array.dtype)).dtype
        host = torch.empty(array.shape, dtype=plain, pin_memory=self._cuda)
        np.copyto(host.numpy(), array)
        # Another type only once it is there: on its way, the copy would leave page-locked memory.
        there = host.to(self.device, non_blocking=True)
        return there if dtype is None else there.to(dtype)

    def get(self, tensors: Tensors) -> dict[str, NDArray[Any]]:
        """Bring results back, and wait for them."""
        hosts = {name: self._host(tensor.detach()) for name, tensor in tensors.items()}
        if self._cuda:
            torch.cuda.current_stream(self.device).synchronize()
        return {name: host.numpy() for name, host in hosts.items()}

    def clear(self) -> None:
        """Give memory that nothing uses any more back to the device; not now if a model is being prepared there."""
        if self._cuda and _PREPARING.acquire(blocking=False):
            try:
                torch.cuda.empty_cache()
            finally:
                _PREPARING.release()

    def lost(self) -> bool:
        """Say, after an error, whether the device refuses everything from now on: so it does when a kernel failed."""
        if not self._cuda:
            return False
        try:
            self._stream().synchronize()
        except RuntimeError:
            return True
        return False

    def _host(self, tensor: torch.Tensor) -> torch.Tensor:
        # NumPy has no bfloat16; every value of it is a float32.
        tensor = tensor.float() if tensor.dtype == torch.bfloat16 else tensor
        if not self._cuda:
            # A model may give its input back, or a part of its weights.
            return tensor.clone(memory_format=torch.contiguous_format)
        host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
        # A model over several devices may answer on another one, whose stream nobody waits for.
        return host.copy_(tensor, non_blocking=tensor.device == self.device)

    def _stream(self) -> torch.cuda.Stream:
        own: dict[torch.device, torch.cuda.Stream] = _STREAMS.__dict__.setdefault("own", {})
        if self.device not in own:
            own[self.device] = torch.cuda.Stream(self.device)  # type: ignore[no-untyped-call]
        return own[self.device]


def weigh(module: torch.nn.Module) -> int:
    """Give the bytes of GPUs' memory that a model's weights hold; what several of them share counts once."""
    weights = [each.untyped_storage() for each in (*module.parameters(), *module.buffers()) if each.is_cuda]
    return sum({storage.data_ptr(): storage.nbytes() for storage in weights}.values())


def used(module: torch.nn.Module) -> set[str]:
    """Name the GPUs that hold a model's weights."""
    return {str(each.device) for each in (*module.parameters(), *module.buffers()) if each.is_cuda}


def full(problem: str, usual: torch.device) -> str:
    """Name the device that an error of PyTorch's says to be full: a model over several may fail on any of them."""
    found = _FULL.search(problem)
    return f"cuda:{found[1]}" if found else str(usual)


def let_go(module: torch.nn.Module) -> None:
    """Free a model's weights now: an exported program is full of cycles, and hardly any are looked for in a server."""
    for each in (*module.parameters(), *module.buffers()):
        each.data = each.data.new_empty(0)


def automatic(gpu: int, count: int) -> torch.device:
    """Give the device for models that name none: the GPU of a number, of so many; the CPU where there are none."""
    return torch.device("cuda", gpu % count) if count else torch.device("cpu")


def find(name: str, gpu: int = 0) -> torch.device:
    """Give the device of a name: `auto`, `cpu`, `cuda` or `cuda:N`; `auto` is the GPU of that number, if there is one.

    Raises:
        ValueError: no such name, or no such device on this machine.
    """
    if name == "auto":
        return automatic(gpu, torch.cuda.device_count() if torch.cuda.is_available() else 0)
    kind, _, number = name.partition(":")
    if name != "cpu" and (kind != "cuda" or not (number or "0").isdecimal()):
        raise ValueError(f"expected auto, cpu or cuda:N, got {name!r}")
    if kind == "cpu":
        return torch.device("cpu")
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if int(number or "0") >= count:
        raise ValueError(f"{name}: this machine has {count} CUDA devices that PyTorch can use")
    return torch.device("cuda", int(number or "0"))
