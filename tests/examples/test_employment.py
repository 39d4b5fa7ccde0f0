"""The demo's verdict: what it calls a loss, for its exit code is a promise."""

from __future__ import annotations

import runpy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from deploy.ledger import Ledger

FOLDER = Path(__file__).parents[2] / "examples" / "employment"
CALLS = 50
WHOLE = Ledger(
    captured=100, delivered=98, in_flight=2, dropped={"queue-full": 0}, payloads=98, deadletters=0,
    assembler={"in": 98, "paired": 90, "expired": 1, "waiting": 7, "rows": 700}, detectors={"rows": 700},
)  # fmt: skip


@pytest.fixture
def lost(monkeypatch: pytest.MonkeyPatch) -> Callable[[Ledger, int], list[str]]:
    """Load the demo, which is a script beside its data."""
    monkeypatch.syspath_prepend(FOLDER)
    found: Callable[[Ledger, int], list[str]] = runpy.run_path(str(FOLDER / "demo.py"))["lost"]
    return found


def test_a_run_that_lost_nothing_is_whole(lost: Callable[[Ledger, int], list[str]]) -> None:
    """What waits, has expired or is on its way is accounted for."""
    assert lost(WHOLE, CALLS) == []


@pytest.mark.parametrize(
    ("book", "calls", "losses"),
    [
        (WHOLE, 51, ["events of the clients' calls = captured: 102 = 100"]),
        (replace(WHOLE, delivered=97), CALLS, [
            "logger: captured + recovered = delivered + in flight + spooled + unwanted + dropped: 100 = 99",
            "delivered = on the payload topic since the start: 97 = 98",
        ]),
        (replace(WHOLE, delivered=97, payloads=97, assembler={**WHOLE.assembler, "in": 97, "paired": 89},
                 dropped={"queue-full": 1}), CALLS, ["dropped by the logger, queue-full: 1"]),
        (replace(WHOLE, assembler={**WHOLE.assembler, "waiting": 6}), CALLS, [
            "assembler: in = paired + expired + evicted + dead-lettered + duplicates + waiting: 98 = 97",
        ]),
        (replace(WHOLE, stripped=2), CALLS, ["kept without their body by the logger: 2"]),
        (replace(WHOLE, detectors={"rows": 699}), CALLS, ["rows written = rows taken by the detectors: 700 = 699"]),
        (replace(WHOLE, detectors={}), CALLS, ["rows written = rows taken by the detectors: 700 = 0"]),
    ],
)  # fmt: skip
def test_one_event_less_is_a_loss(
    lost: Callable[[Ledger, int], list[str]], book: Ledger, calls: int, losses: list[str]
) -> None:
    """On whichever part of the way it goes missing, also when it was counted as dropped: named, and exit code 1."""
    assert lost(book, calls) == losses
