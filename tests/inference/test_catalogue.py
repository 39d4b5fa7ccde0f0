"""Describing models that are yet to be loaded."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

from inference.batching.terms import USUAL, Terms
from inference.catalogue import Catalogue
from tests.inference.shelves import DEADLINE_S, opening, shut, write


def test_a_caller_waits_no_longer_for_a_load_than_it_said(tmp_path: Path) -> None:
    """What the model is remains open then, and its load goes on."""
    gate = shut(write(tmp_path / "a", 1))
    gate.touch()

    with opening(tmp_path) as opened:
        catalogue = Catalogue(opened(), None, depends=False, patience_s=2 * DEADLINE_S)

        async def asked(terms: Terms) -> bool | None:
            async with asyncio.timeout(DEADLINE_S / 2):
                return await catalogue.streams("a", terms=terms)

        late = asyncio.run(asked(Terms(deadline=time.monotonic())))
        gate.unlink()
        loaded = asyncio.run(asked(USUAL))

    assert late is None
    assert loaded is False
