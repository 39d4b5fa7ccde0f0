"""A tap that reads gRPC calls first, and hands everything on to another: the plain one, or the one that cleans."""

from __future__ import annotations

from logger.grpc.transcript import Transcriber
from logger.tap import Letter, Seen, Tap


class GrpcTap(Tap):
    """Stands before a tap.

    Args:
        tap: makes the events.
        cap: bytes of a body that the sinks take; see `Transcriber`.
    """

    def __init__(self, tap: Tap, cap: int) -> None:
        self._tap, self._read = tap, Transcriber(cap)
        self.events_each = tap.events_each

    def letters(self, seen: Seen, recorded_us: int) -> list[Letter]:
        """Give the events of one exchange; see `Tap.letters`."""
        return self._tap.letters(self._read(seen), recorded_us)
