"""Settings of the batcher."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchSettings:
    """When calls are joined. The defaults are those of KServe's agent."""

    max_rows: int = 32
    """Rows of a batch; a call with as many or more goes at once, by itself."""
    max_latency_ms: int = 5_000
    """How long a call waits for company, in milliseconds."""
    early: bool = False
    """Whether what waits goes as soon as no call of its kind is on its way: less waiting when there is little traffic,
    smaller batches when there is some. KServe's agent always waits."""
    max_body: int = 1 << 20
    """Bytes of a call's body; larger ones pass the batcher by, for reading them would cost more than joining saves."""
    max_waiting_bytes: int = 64 << 20
    """Bytes of bodies that may wait; beyond it nobody waits any more until there is room."""
    max_answer: int = 64 << 20
    """Bytes of a batch's answer; larger is given up, and each call is made by itself."""
    singles: int = 8
    """Calls that are made one by one at a time after batches that failed, so that a failing model is not flooded."""
    suspend_s: float = 60.0
    """How long calls of one kind are not joined after the model's answer to a batch could not be split."""
