"""Callers that do not wait to the end leave nothing behind."""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest

from inference.batching.batcher import Batcher
from inference.batching.call import NOTHING_ASKED, Call, Given
from inference.errors import DeadlineExceeded
from inference.metrics import PredictorMetrics
from inference.repository import Wanted


class Body:
    """A request's body, of which it can be told whether anybody holds it."""

    content = b"1234"


class Loading:
    """Loads, and does not come to an end."""

    def __init__(self) -> None:
        self.pending: list[Callable[[Any], None]] = []

    def lease(self, name: str, version: Wanted = None) -> None:
        """Have nothing yet."""
        del name, version

    def lease_later(self, name: str, version: Wanted, done: Callable[[Any], None]) -> None:
        """Begin."""
        del name, version
        self.pending.append(done)


def _read(body: Body) -> Given:
    return {"x": np.frombuffer(body.content, np.uint8)}, NOTHING_ASKED


def test_who_gives_up_waiting_for_a_load_takes_the_request_along() -> None:
    """A model may take minutes to load, and callers come again and again meanwhile: their bodies do not add up."""
    loading = Loading()
    batcher = Batcher(loading, PredictorMetrics(lambda: 0.0), threads=1)
    body = Body()
    kept = weakref.ref(body)
    call = Call("m", partial(_read, body), lambda answer, _: answer, timeout_s=0.02)
    del body
    with pytest.raises(DeadlineExceeded):
        asyncio.run(batcher.run(call))
    batcher.close()

    assert len(loading.pending) == 1
    assert kept() is None
