"""Drawn connections; `make fuzz` draws more of them."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import settings

from tests.inference.grpc.promises import PROMISES


@pytest.mark.parametrize("promise", PROMISES, ids=lambda promise: promise.__name__)
def test_promises_hold(promise: Callable[[], None]) -> None:
    """Each promise, for some draws."""
    settings(max_examples=150)(promise)()
