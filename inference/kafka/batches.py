"""Requests that go together → one call of the model, and its answer → theirs again. Pure.

Rows are joined along the first dimension, never beyond what the model says that it takes. Next:
`inference/kafka/answers.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from inference.kafka.requests import Ask, Body, Raw, Table
from inference.kafka.sheets import Answered, Part, Sheet
from inference.protocol.tensors import Tensor
from inference.protocol.v1 import V1Request
from inference.protocol.v2 import InferRequest


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
        if len(self.asks) == 1:
            return self.asks[0].request
        bodies = [ask.body for ask in self.asks]
        raws = [body for body in bodies if isinstance(body, Raw)]
        if len(raws) == len(bodies):
            return Raw.joined(raws)
        tables = [body for body in bodies if isinstance(body, Table)]
        if len(tables) == len(bodies):
            return Table.joined(tables)
        first, requests = self.asks[0].request, [ask.request for ask in self.asks]
        if isinstance(first, V1Request):
            rows = [row for request in requests if isinstance(request, V1Request) for row in request.instances]
            return replace(first, instances=rows)
        parts = [request.inputs for request in requests if isinstance(request, InferRequest)]
        return InferRequest(inputs=tuple(map(_joined, zip(*parts, strict=True))), outputs=first.outputs)

    def parts(self, answered: Answered) -> list[Part] | None:
        """Give each request its rows; None when the outputs are not by rows, and each has to go by itself."""
        sheet = Sheet(answered)
        if len(self.asks) == 1:
            return [Part(sheet)]
        outcome = answered.outcome
        lengths = [len(outcome)] if isinstance(outcome, list) else [len(item.data) for item in outcome if item.shape]
        if lengths != [self.rows] * (1 if isinstance(outcome, list) else len(outcome)):
            return None
        found, start = [], 0
        for ask in self.asks:
            found.append(Part(sheet, start, start + ask.rows))
            start += ask.rows
        return found


def _joined(tensors: Sequence[Tensor]) -> Tensor:
    data = np.concatenate([tensor.data for tensor in tensors])
    return replace(tensors[0], data=data, shape=data.shape)
