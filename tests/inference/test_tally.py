"""Telling what models did: where it is done, and of what."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterable

import pytest

from inference.errors import ModelNotFound
from inference.folders import Loaded
from inference.repository import Repository
from inference.statistics import Said
from inference.tally import Tally
from tests.inference.halves import Halves


def _where(told: Iterable[Said]) -> tuple[list[str], int]:
    return [each["name"] for each in told], threading.get_ident()


def test_what_is_told_is_written_on_a_thread() -> None:
    """On the event loop all calls would wait for it, where there are thousands of models."""
    repository = Repository({name: lambda: Loaded(Halves(), "1") for name in ("m", "n")})
    repository.load("m")
    repository.load("n")

    async def run() -> tuple[list[str], int]:
        tally = Tally(repository, None)
        try:
            return await tally.told(_where, None, None, everywhere=True)
        finally:
            tally.close()

    names, thread = asyncio.run(run())

    assert names == ["m", "n"]
    assert thread != threading.get_ident()


def test_what_was_never_loaded_did_nothing() -> None:
    """Another process may have loaded it; which version it is turns out when it is loaded here."""
    repository = Repository({"m": lambda: Loaded(Halves(), "1")})
    before = repository.records("m", "1")
    repository.load("m")
    after = [(name, version) for name, version, _ in repository.records("m", "1")]

    assert (before, after) == ([], [("m", "1")])
    with pytest.raises(ModelNotFound, match="version 9"):
        repository.records("m", "9")
