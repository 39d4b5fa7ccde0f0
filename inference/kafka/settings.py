"""Settings of the stage that answers requests from a topic."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamSettings:
    """What is the same for every partition."""

    responses: str
    """Where answers go unless the request names another topic that is allowed."""
    deadletter: str
    """Where requests go that cannot be read, with the reason; their answer says so, too."""
    model: str = ""
    """The model of requests that name none; empty: they are refused."""
    reply_topics: tuple[str, ...] = ()
    """Topics that a request may name for its answer; `*` at the end stands for anything. None: whoever may write
    requests could otherwise write anywhere that the predictor may."""
    payloads: str = ""
    """Where request and response go as a logger's events, for the assembler and the detectors; empty: nowhere."""
    service: str = ""
    """Name of the InferenceService in the events; empty: as the request says, else the model's name."""
    namespace: str = "default"
    """Its namespace, unless the request says another."""
    component: str = "predictor"
    source: str = "/sidelight/stream"
    """Source of the events."""
    max_rows: int = 256
    """Most rows that requests are joined to for one call of the model; a request with more goes by itself."""
    in_flight: int = 2
    """Calls of the model that one partition has under way: while one is computed, the next is read and the one before
    is written. More than 2 only helps models that compute on several threads at once."""
