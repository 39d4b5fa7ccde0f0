"""Decides which calls go together, and when. Pure: time comes in as an argument."""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from logger.batching.settings import BatchSettings

M = TypeVar("M")


@dataclass(slots=True)
class Group(Generic[M]):
    """Calls that wait for each other."""

    key: Hashable
    due: float
    members: list[M] = field(default_factory=list)
    rows: int = 0
    size: int = 0


class Gathering(Generic[M]):
    """The calls that wait.

    A group goes when it has the most rows that a batch may have, when one of its members has waited long enough, when
    the next call would make it too large, or with `early` when no call of its kind is on its way. It is the caller who
    sends it, and who tells when it is over.
    """

    def __init__(self, settings: BatchSettings) -> None:
        self._settings = settings
        self._groups: dict[Hashable, Group[M]] = {}
        self._running: dict[Hashable, int] = {}
        self._size = 0

    def add(self, key: Hashable, member: M, rows: int, size: int, now: float, due: float) -> list[Group[M]]:
        """Take a call with its rows and bytes, which waits until `due` at the longest; give the groups that go now."""
        going = []
        group = self._groups.get(key)
        if group is not None and group.rows + rows > self._settings.max_rows:
            going.append(self._leave(group))
            group = None
        if group is None:
            group = self._groups[key] = Group(key, due)
        group.members.append(member)
        group.rows += rows
        group.size += size
        group.due = min(group.due, due)
        self._size += size
        if group.rows >= self._settings.max_rows or group.due <= now or self._may_go(group):
            going.append(self._leave(group))
        while self._size > self._settings.max_waiting_bytes:
            going.append(self._leave(min(self._groups.values(), key=lambda waiting: waiting.due)))
        return going

    def due(self, now: float) -> list[Group[M]]:
        """Give the groups whose time has come."""
        return [self._leave(group) for group in list(self._groups.values()) if group.due <= now]

    def next_due(self) -> float | None:
        """Give when the next group's time comes."""
        return min((group.due for group in self._groups.values()), default=None)

    def over(self, key: Hashable) -> list[Group[M]]:
        """A call that went out has come back; give the groups that go now."""
        self._running[key] -= 1
        if not self._running[key]:
            del self._running[key]
        group = self._groups.get(key)
        return [self._leave(group)] if group is not None and self._may_go(group) else []

    def remove(self, key: Hashable, member: M, rows: int, size: int) -> None:
        """Forget a call that nobody waits for any more; it may have gone already."""
        group = self._groups.get(key)
        if group is None or member not in group.members:
            return
        group.members.remove(member)
        group.rows -= rows
        group.size -= size
        self._size -= size
        if not group.members:
            del self._groups[key]

    def everything(self) -> Iterator[Group[M]]:
        """Give all that waits: this is the end."""
        for group in list(self._groups.values()):
            yield self._leave(group)

    def _may_go(self, group: Group[M]) -> bool:
        return self._settings.early and group.key not in self._running

    def _leave(self, group: Group[M]) -> Group[M]:
        del self._groups[group.key]
        self._size -= group.size
        self._running[group.key] = self._running.get(group.key, 0) + 1
        return group
