"""Requests that go together → one call of the model, and its answer → theirs again. Pure.

Rows are joined along the first dimension, never beyond what the model says that it takes. Next:
`inference/kafka/answers.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

import numpy as np

from inference.kafka.requests import Ask, Body
from inference.protocol.tensors import Tensor
from inference.protocol.v1 import V1Request
from inference.protocol.v2 import InferRequest

Outcome: TypeAlias = tuple[Tensor, ...] | list[Any]
"""Tensors, or V1 predictions where the request was none of tensors."""


@dataclass(frozen=True, slots=True)
class Answered:
    """What a model made of a call."""

    outcome: Outcome
    version: str
    at_us: int
    """When, in microseconds since the epoch."""


@dataclass(slots=True)
class Group:
    """Requests that are answered by one call."""

    limit: int
    """Most rows."""
    asks: list[Ask] = field(default_factory=list)
    places: list[int] = field(default_factory=list)
    """Where their answers belong in the batch of records."""
    rows: int = 0

    def takes(self, ask: Ask) -> bool:
        """Say whether there is room for one more."""
        return not self.asks or self.rows + ask.rows <= self.limit

    def add(self, ask: Ask, place: int) -> None:
        """Take one more."""
        self.asks.append(ask)
        self.places.append(place)
        self.rows += ask.rows

    def request(self) -> Body:
        """Give all rows as one request."""
        first = self.asks[0].request
        if len(self.asks) == 1:
            return first
        if isinstance(first, V1Request):
            rows = [row for ask in self.asks if isinstance(ask.request, V1Request) for row in ask.request.instances]
            return replace(first, instances=rows)
        parts = [ask.request.inputs for ask in self.asks if isinstance(ask.request, InferRequest)]
        return InferRequest(inputs=tuple(map(_joined, zip(*parts, strict=True))), outputs=first.outputs)

    def split(self, answered: Answered) -> list[Answered] | None:
        """Give each request its rows; None when the outputs are not by rows, and each has to go by itself."""
        if len(self.asks) == 1:
            return [answered]
        outcome = answered.outcome
        lengths = [len(outcome)] if isinstance(outcome, list) else [len(item.data) for item in outcome if item.shape]
        if lengths != [self.rows] * (1 if isinstance(outcome, list) else len(outcome)):
            return None
        found, start = [], 0
        for ask in self.asks:
            # Built anew: `replace` takes as long as all the rest of this.
            found.append(Answered(_cut(outcome, start, start + ask.rows), answered.version, answered.at_us))
            start += ask.rows
        return found


def _joined(tensors: Sequence[Tensor]) -> Tensor:
    data = np.concatenate([tensor.data for tensor in tensors])
    return replace(tensors[0], data=data, shape=data.shape)


def _cut(outcome: Outcome, start: int, end: int) -> Outcome:
    if isinstance(outcome, list):
        return outcome[start:end]
    return tuple(_rows(tensor, start, end) for tensor in outcome)


def _rows(tensor: Tensor, start: int, end: int) -> Tensor:
    data = tensor.data[start:end]
    return Tensor(name=tensor.name, datatype=tensor.datatype, shape=data.shape, data=data, parameters=tensor.parameters)
