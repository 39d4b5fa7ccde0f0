"""What the publishers' tests share: an address where nobody answers, and care for what kafka-python leaves open."""

from __future__ import annotations

import gc
import importlib
import socket
import warnings
from collections.abc import Iterator

import pytest

with warnings.catch_warnings():
    # kafka-python reads its own files in a way that Python 3.11 deprecates; warnings are errors here.
    warnings.simplefilter("ignore", DeprecationWarning)
    importlib.import_module("kafka")


@pytest.fixture
def nowhere() -> Iterator[str]:
    """Give an address that accepts connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        yield f"127.0.0.1:{silent.getsockname()[1]}"


@pytest.fixture(autouse=True, scope="module")
def _left_open() -> Iterator[None]:
    """Collect the sockets of failed attempts to connect, which kafka-python leaves open, before other tests run."""
    yield
    gc.collect()
