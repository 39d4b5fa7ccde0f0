"""Triton's own Python client, as its published examples use it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.inference.serving import Server

_CALLS = Path(__file__).with_name("calls.py")
_PYTHON = Path(sys.prefix) / "triton" / "bin" / "python"


@pytest.mark.skipif(not _PYTHON.exists(), reason="no .venv/triton: `make setup` makes it")
@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_triton_s_client_works_as_it_is(triton: Server, protocol: str) -> None:
    """Health, metadata, configuration, inference, sequences, classes, statistics, model control and streams."""
    address = triton.grpc if protocol == "grpc" else triton.url.removeprefix("http://")
    done = subprocess.run(
        [_PYTHON, _CALLS, protocol, address], capture_output=True, text=True, timeout=300, check=False
    )

    assert (done.returncode, done.stdout.strip()) == (0, "done"), done.stderr
