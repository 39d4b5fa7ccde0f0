"""CUDA graphs: predictions of fixed numbers of rows, each recorded once and launched as a whole.

Those of one model share the memory in which they compute, and what cuBLAS keeps for the stream that they were recorded
on; so they run one after the other, which the device sees to: threads launch and go on. What belongs to a stream goes
with the first graph of it that is deleted, so no two models record on the same one.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Final

import torch

from inference.pytorch.devices import Tensors

_WARM_UPS: Final = 3
_TRIES: Final = 64
"""Streams come from a ring of 32."""
_ABOVE_OTHERS: Final = -1
"""A ring apart from that of the threads' streams."""
_TAKEN: Final[set[tuple[torch.device, int]]] = set()
_TAKING: Final = threading.Lock()


class Graphs:
    """One model's recordings. Recorded while the model is prepared; replayed by any thread, on its own stream."""

    def __init__(self, device: torch.device) -> None:
        """Take a stream to record on.

        Raises:
            ValueError: as many models as there are streams have recordings.
        """
        self._device = device
        self._stream = _taken(device)
        self._order = threading.Lock()
        self._last = torch.cuda.Event()  # type: ignore[no-untyped-call]
        """When the device is done with the last replay, whichever thread began it."""
        self._recorded: dict[int, _Recorded] = {}

    def record(self, rows: int, call: Callable[[Tensors], dict[str, torch.Tensor]], inputs: Tensors) -> None:
        """Record a prediction. Called within `Place.prepared` and `Place.turn`."""
        own = {name: tensor.clone() for name, tensor in inputs.items()}
        # What a library sets up at its first calls must not become part of the recording.
        for _ in range(_WARM_UPS):
            call(own)
        torch.cuda.current_stream(self._device).synchronize()
        graph = torch.cuda.CUDAGraph()
        pool = next((each.graph.pool() for each in self._recorded.values()), None)
        # Other models' threads go on using the device meanwhile.
        with torch.cuda.graph(graph, pool=pool, stream=self._stream, capture_error_mode="thread_local"):
            outputs = call(own)
        self._recorded[rows] = _Recorded(graph, own, outputs)

    def replay(self, inputs: Tensors) -> dict[str, torch.Tensor] | None:
        """Predict, if these sizes were recorded; the results are the caller's own, ready when its stream is."""
        found = self._recorded.get(len(next(iter(inputs.values()))))
        if found is None or not found.fits(inputs):
            return None
        stream = torch.cuda.current_stream(self._device)
        with self._order:
            stream.wait_event(self._last)
            try:
                return found.replay(inputs)
            finally:
                self._last.record(stream)

    def bytes(self) -> int:
        """Give what the recordings keep of the device's memory for themselves."""
        pools = {each.graph.pool() for each in self._recorded.values()}
        segments = torch.cuda.memory_snapshot()  # type: ignore[no-untyped-call]
        return sum(each["total_size"] for each in segments if tuple(each["segment_pool_id"]) in pools)

    def close(self) -> None:
        """Let go of everything. Called when no replay is in progress."""
        self._recorded.clear()
        with _TAKING:
            _TAKEN.discard((self._device, self._stream.cuda_stream))


class _Recorded:
    """A prediction of one number of rows; its tensors are used by every replay."""

    def __init__(self, graph: torch.cuda.CUDAGraph, inputs: Tensors, outputs: Tensors) -> None:
        self.graph, self._inputs, self._outputs = graph, inputs, outputs

    def fits(self, inputs: Tensors) -> bool:
        return all(tensor.shape == self._inputs[name].shape for name, tensor in inputs.items())

    def replay(self, inputs: Tensors) -> dict[str, torch.Tensor]:
        for name, tensor in inputs.items():
            self._inputs[name].copy_(tensor, non_blocking=True)
        self.graph.replay()
        return {name: tensor.clone() for name, tensor in self._outputs.items()}


def _taken(device: torch.device) -> torch.cuda.Stream:
    with _TAKING:
        for _ in range(_TRIES):
            stream = torch.cuda.Stream(device, priority=_ABOVE_OTHERS)  # type: ignore[no-untyped-call]
            place = (device, stream.cuda_stream)
            if place not in _TAKEN:
                _TAKEN.add(place)
                return stream
    raise ValueError(f"{len(_TAKEN)} models have recordings already, and there are no more streams to record on")
