"""A text that the predictor makes, piece by piece, whatever it is asked in. Next: `events.py`, or `grpc.py`."""

from __future__ import annotations

from collections.abc import Generator
from typing import NamedTuple


class Said(NamedTuple):
    """What came at once."""

    piece: str
    version: str
    """Of the model that makes it; empty where the predictor does not say."""


class Text:
    """The pieces, to be read to their end or closed. Its first one has come when it is made.

    Args:
        said: what comes; raises what is wrong with it, and is closed with the text.
        version: of the model that makes it, where that is known before anything has come.

    Raises:
        PredictorFailed: the predictor fails in mid-text, or what it sends is no text.
        DeadlineExceeded: the text is not over in time.
    """

    def __init__(self, said: Generator[Said, None, None], version: str = "") -> None:
        self.version = version
        self._said = said
        self._first: str | None = None
        try:
            self._first = next(self, None)
        except BaseException:
            self.close()
            raise

    def __iter__(self) -> Text:
        return self

    def __next__(self) -> str:
        """Wait for a piece."""
        piece, self._first = self._first, None
        while not piece:
            piece, version = next(self._said)
            self.version = version or self.version
        return piece

    def close(self) -> None:
        """Let the predictor stop."""
        self._said.close()
