"""Every stream of bytes, legal or damaged: the promises hold."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import settings

from tests.logger.grpc import promises as grpc
from tests.logger.promises import PROMISES


@pytest.mark.parametrize("promise", [*PROMISES, *grpc.PROMISES], ids=lambda promise: promise.__name__)
def test_promises_hold(promise: Callable[[], None]) -> None:
    """A few hundred draws each; `make fuzz` draws for as long as one likes."""
    settings(max_examples=250)(promise)()
