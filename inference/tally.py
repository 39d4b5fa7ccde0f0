"""Tells what models did: all versions of one or of all, in this process and in those that serve the same models.

On threads of its own, for there may be thousands of models, and other processes are waited for. Used by
`inference/catalogue.py`; what is told of one version stands in `inference/statistics.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Final, TypeVar
from urllib.parse import quote

import orjson

from inference.pool import MutualPool
from inference.repository import Repository
from inference.siblings import Siblings
from inference.statistics import Said, merged

T = TypeVar("T")

_QUEUE: Final = 16
_PATIENCE_S: Final = 30.0


class Tally:
    """Tells of one repository's models."""

    def __init__(self, repository: Repository, siblings: Siblings | None) -> None:
        self._repository, self._siblings = repository, siblings
        self._pool = MutualPool(queue=_QUEUE, timeout_s=_PATIENCE_S)

    async def told(
        self, write: Callable[[Iterable[Said]], T], model: str | None, version: str | None, *, everywhere: bool
    ) -> T:
        """Tell of a version of a model, of all of them that were ever loaded, or of all models'.

        `write` runs on the thread, too. It takes them one by one: all at once, a library's function would hold the
        event loop up as if it ran there.

        Raises:
            ModelNotFound: no such model, or no such version.
            Overloaded, DeadlineExceeded: too many ask.
        """
        siblings = self._siblings if everywhere else None
        if siblings is None:
            return await self._pool.run(lambda: write(self._own(model, version)), asks=False)
        return await self._pool.run(lambda: write(self._all(siblings, model, version)), asks=True)

    def close(self) -> None:
        """Tell nobody any more."""
        self._pool.close()

    def _own(self, model: str | None, version: str | None) -> Iterator[Said]:
        return (record.said(name, number) for name, number, record in self._repository.records(model, version))

    def _all(self, siblings: Siblings, model: str | None, version: str | None) -> list[Said]:
        return merged([self._own(model, version), *_theirs(siblings, model, version)])


def _theirs(siblings: Siblings, model: str | None, version: str | None) -> Iterator[list[Said]]:
    which = "" if model is None else f"/{quote(model, safe='')}"
    which += "" if version is None else f"/versions/{quote(version, safe='')}"
    for answer in siblings.answers(f"/v2/models{which}/stats"):
        yield orjson.loads(answer)["model_stats"]
