"""Settings of the streams package's own stage, the assembler."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class PairingSettings:
    """How long, and how much, an event may wait for its partner. Bounds are per partition."""

    expiry_ms: int = 300_000
    """Event time after which an event without partner is given up. Longer than any prediction takes, or slow answers
    are lost; all that waits is part of every checkpoint."""
    max_pending: int = 20_000
    """Events that may wait; one more puts the oldest on the dead letters."""
    max_pending_bytes: int = 32 << 20
    """Size of what may wait, headers and a fixed cost for each record and header included; all of it is part of every
    checkpoint, which must stay below the state topic's 64 MiB."""
    completed_memory: int = 20_000
    """Events of completed pairs that are remembered, 8 bytes each, so that a re-sent one is known as a duplicate."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AssemblerSettings:
    """Settings of the assembler."""

    payloads: str
    observations: str
    deadletter: str
    payload_partitions: int
    observation_partitions: int
    pairing: PairingSettings = field(default_factory=PairingSettings)
    watermark_every_ms: int = 500
    """Event time between two watermark records to every observations partition. Less is fresher, and more records."""
    max_record_bytes: int = 8 << 20
    """Largest observation record, about; rows beyond it go into the next one. An exchange that is larger by itself
    goes to the dead letters as `too-large`. The topic allows twice as much."""
