"""Counts in shared memory: one process writes, anybody reads. What is counted is its subclasses' to say."""

from __future__ import annotations


class Counts:
    """Numbers by their places. They outlive whoever counts: one that is started again goes on.

    Args:
        memory: shared, all zeros at first.
    """

    def __init__(self, memory: memoryview) -> None:
        self._words = memory.cast("Q")

    def add(self, what: int, amount: int = 1) -> None:
        """Count."""
        self._words[what] += amount

    def set(self, what: int, value: int) -> None:
        """Note a level."""
        self._words[what] = value

    def get(self, what: int) -> int:
        """Give a count."""
        return self._words[what]

    def _by_status(self, at: int, most: int) -> dict[int, int]:
        """Give those of `most` places that are not 0, by their distance from the first."""
        return {status: count for status, count in enumerate(self._words[at : at + most]) if count}
