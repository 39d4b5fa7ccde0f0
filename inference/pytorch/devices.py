"""Where a PyTorch model computes: arrays go there and come back, on a stream of each worker thread's own.

On a GPU both ways go through page-locked memory, so that a copy and another thread's computation overlap. CUDA graphs
replay a whole prediction of a fixed number of rows as one launch.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

Tensors = Mapping[str, torch.Tensor]


class Place:
    """One device, for all threads."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._cuda = device.type == "cuda"
        self._own = threading.local()

    @contextlib.contextmanager
    def turn(self) -> Iterator[None]:
        """Compute on this device in the calling thread, beside the other threads' work, and remember no gradients."""
        with torch.inference_mode():
            if not self._cuda:
                yield
                return
            with torch.cuda.device(self.device), torch.cuda.stream(self._stream()):
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
        """Give memory that nothing uses any more back to the device."""
        if self._cuda:
            torch.cuda.empty_cache()

    def _host(self, tensor: torch.Tensor) -> torch.Tensor:
        # NumPy has no bfloat16; every value of it is a float32.
        tensor = tensor.float() if tensor.dtype == torch.bfloat16 else tensor
        if not self._cuda:
            # A model may give its input back, or a part of its weights.
            return tensor.clone(memory_format=torch.contiguous_format)
        host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
        return host.copy_(tensor, non_blocking=True)

    def _stream(self) -> torch.cuda.Stream:
        stream: torch.cuda.Stream | None = getattr(self._own, "stream", None)
        if stream is None:
            stream = self._own.stream = torch.cuda.Stream(self.device)  # type: ignore[no-untyped-call]
        return stream


class Graph:
    """A prediction of one number of rows, recorded once. Its tensors are shared: hold `lock` until results are back."""

    def __init__(self, call: Callable[[Tensors], dict[str, torch.Tensor]], inputs: Tensors) -> None:
        self.lock = threading.Lock()
        self._inputs = {name: tensor.clone() for name, tensor in inputs.items()}
        # What a library sets up at its first calls must not become part of the recording.
        for _ in range(3):
            call(self._inputs)
        torch.cuda.current_stream().synchronize()
        self._graph = torch.cuda.CUDAGraph()
        before = torch.cuda.memory_reserved()
        # Other models' threads go on using the device meanwhile.
        with torch.cuda.graph(self._graph, capture_error_mode="thread_local"):
            self._outputs = call(self._inputs)
        self.bytes = max(0, torch.cuda.memory_reserved() - before)
        """What it keeps of the device's memory for itself alone."""

    def fits(self, inputs: Tensors) -> bool:
        """Say whether inputs have the shapes that were recorded."""
        return all(tensor.shape == self._inputs[name].shape for name, tensor in inputs.items())

    def __call__(self, inputs: Tensors) -> dict[str, torch.Tensor]:
        """Replay on the current stream; what it gives is overwritten by the next replay."""
        for name, tensor in inputs.items():
            self._inputs[name].copy_(tensor, non_blocking=True)
        self._graph.replay()
        return self._outputs


def weigh(module: torch.nn.Module) -> int:
    """Give the bytes of GPUs' memory that a model's weights hold; what several of them share counts once."""
    weights = [each.untyped_storage() for each in (*module.parameters(), *module.buffers()) if each.is_cuda]
    return sum({storage.data_ptr(): storage.nbytes() for storage in weights}.values())


def find(name: str) -> torch.device:
    """Give the device of a name: `auto`, `cpu`, `cuda` or `cuda:N`.

    Raises:
        ValueError: no such name, or no such device on this machine.
    """
    if name == "auto":
        return torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")
    kind, _, number = name.partition(":")
    if name != "cpu" and (kind != "cuda" or not (number or "0").isdecimal()):
        raise ValueError(f"expected auto, cpu or cuda:N, got {name!r}")
    if kind == "cpu":
        return torch.device("cpu")
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if int(number or "0") >= count:
        raise ValueError(f"{name}: this machine has {count} CUDA devices that PyTorch can use")
    return torch.device("cuda", int(number or "0"))
