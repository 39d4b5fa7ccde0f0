"""One answer of a model → the bodies of the answers to all requests that it was for. Pure.

What is the same for all of them is written once: lists and bytes are made of whole outputs, and each request gets its
piece. Used by `inference/kafka/answers.py`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np

from inference import instances
from inference.protocol import v2
from inference.protocol.datatypes import BYTES, WIDTH
from inference.protocol.errors import BadTensor
from inference.protocol.tensors import Tensor, to_raw
from inference.protocol.v2 import InferResponse

Outcome: TypeAlias = tuple[Tensor, ...] | list[Any]
"""Tensors, or V1 predictions where the request was none of tensors."""
Identity: TypeAlias = tuple[str, str | None, str | None]
"""Model, version and request id, as V2's answers say them."""


@dataclass(slots=True)
class Answered:
    """What a model made of a call."""

    outcome: Outcome
    version: str
    at_us: int
    """When, in microseconds since the epoch."""


@dataclass(slots=True)
class Sheet:
    """One answer of a model, and what has been written of it."""

    answered: Answered
    _predictions: list[Any] | None = None
    _raws: tuple[tuple[bytes, int], ...] = ()
    """Each output's bytes, and how many of them are a row's."""
    _heads: dict[tuple[Identity, int], tuple[bytes, int]] = field(default_factory=dict)

    def predictions(self) -> list[Any]:
        """Give the V1 predictions for all rows.

        Raises:
            BadTensor: text that is no UTF-8.
        """
        if self._predictions is None:
            outcome = self.answered.outcome
            self._predictions = outcome if isinstance(outcome, list) else predictions(outcome)
        return self._predictions

    def binary(self, identity: Identity, start: int, end: int) -> tuple[bytes, int | None]:
        """Write some rows of tensors of numbers as V2 with binary tensors: body, and length of its JSON.

        Raises:
            BadTensor: data and shape of an output differ.
        """
        outcome = self.answered.outcome
        assert isinstance(outcome, tuple)  # noqa: S101 - V2 requests are answered with tensors
        known = self._heads.get((identity, end - start))
        if known is None:
            body, length = v2.encode_response(_response(identity, cut(outcome, start, end)), lambda _name: True)
            if length is None:
                return body, None
            known = self._heads[identity, end - start] = body[:length], length
            if not self._raws:
                self._raws = tuple((to_raw(tensor), _row_bytes(tensor)) for tensor in outcome)
        head, length = known
        return b"".join((head, *[raw[start * size : end * size] for raw, size in self._raws])), length


@dataclass(slots=True)
class Part:
    """A request's own rows of a sheet."""

    sheet: Sheet
    start: int = 0
    end: int | None = None
    """None: all of it, whatever its outputs are by."""

    @property
    def outcome(self) -> Outcome:
        """Give them as the model did."""
        outcome = self.sheet.answered.outcome
        return outcome if self.end is None else cut(outcome, self.start, self.end)

    def predictions(self) -> list[Any]:
        """Give them as V1 predictions. Raises what `Sheet.predictions` raises, for these rows alone."""
        if self.end is None:
            return self.sheet.predictions()
        try:
            return self.sheet.predictions()[self.start : self.end]
        except BadTensor:
            outcome = self.outcome
            return outcome if isinstance(outcome, list) else predictions(outcome)

    def binary(self, identity: Identity) -> tuple[bytes, int | None]:
        """Give them as V2 with binary tensors: body, and length of its JSON."""
        outcome = self.sheet.answered.outcome
        assert isinstance(outcome, tuple)  # noqa: S101 - V2 requests are answered with tensors
        if self.end is None or any(tensor.datatype == BYTES for tensor in outcome):
            return v2.encode_response(_response(identity, self.outcome), lambda _name: True)
        return self.sheet.binary(identity, self.start, self.end)


def predictions(outputs: tuple[Tensor, ...]) -> list[Any]:
    """Give tensors as V1 predictions.

    Raises:
        BadTensor: text that is no UTF-8.
    """
    return instances.predictions({tensor.name: _texts(tensor) for tensor in outputs})


def _response(identity: Identity, outputs: Outcome) -> InferResponse:
    assert isinstance(outputs, tuple)  # noqa: S101 - V2 requests are answered with tensors
    model, version, name = identity
    return InferResponse(model_name=model, model_version=version, id=name, outputs=outputs)


def cut(outcome: Outcome, start: int, end: int) -> Outcome:
    """Give some of the rows."""
    if isinstance(outcome, list):
        return outcome[start:end]
    return tuple(_rows(tensor, start, end) for tensor in outcome)


def _rows(tensor: Tensor, start: int, end: int) -> Tensor:
    data = tensor.data[start:end]
    return Tensor(name=tensor.name, datatype=tensor.datatype, shape=data.shape, data=data, parameters=tensor.parameters)


def _row_bytes(tensor: Tensor) -> int:
    return WIDTH[tensor.datatype] * math.prod(tensor.shape[1:])


def _texts(tensor: Tensor) -> Any:  # noqa: ANN401 - an array
    if tensor.datatype != BYTES:
        return tensor.data
    texts = np.empty(tensor.data.size, object)
    try:
        texts[:] = [item.decode() for item in tensor.data.flat]
    except UnicodeDecodeError as exc:
        raise BadTensor(f"output {tensor.name!r}", "BYTES that are no UTF-8 have no JSON form") from exc
    return texts.reshape(tensor.shape)
