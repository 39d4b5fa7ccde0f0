"""What the stage asks of models, and what it needs to know of them: the seam between them.

`inference/kafka/plane.py` is the way to the data plane; `inference/kafka/stage.py` makes the calls.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Protocol

from inference.kafka.envelopes import Envelope
from inference.kafka.requests import Ask, Body
from inference.kafka.sheets import Answered


@dataclass(frozen=True, slots=True)
class Call:
    """What a model is asked."""

    model: str
    version: str | None
    request: Body
    around: Envelope
    """Of the first request that is joined in it; the others are routed as it is."""
    rows: int = 1
    size: int = 0
    """Bytes of the bodies, wherever they lay."""
    traces: tuple[str, ...] = ()
    """Trace contexts of the others, where they have any."""


@dataclass(frozen=True, slots=True)
class Side:
    """Where a request goes: requests of different sides are never joined."""

    which: Hashable
    limit: int
    """Most rows that may be joined there; 1 is never."""
    steady: bool = False
    """Whether all requests for the same model and version go there, for now."""


class Pending(Protocol):
    """A call under way."""

    def result(self) -> Answered:
        """Wait for the answer.

        Raises:
            streams.errors.NotNow: the model is away; the same call may be made again.
            InferenceError, ProtocolError: there will be no answer.
        """
        ...


class Models(Protocol):
    """The way to the models: values in, values out."""

    def side(self, ask: Ask) -> Side:
        """Say with which other requests one may be joined.

        Raises:
            InferenceError: no such model or version.
        """
        ...

    def start(self, call: Call) -> Pending:
        """Begin a call; never raises, never waits for the model."""
        ...

    def lost(self) -> str:
        """Say why no model can answer any more in this process; empty: it can."""
        ...
