"""One predictor with the models of Triton's published examples."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.inference.serving import Server, served
from tests.inference.triton.models import write, write_image


@pytest.fixture(scope="session", name="examples")
def _examples(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Serve them in the usual dialect."""
    with _serving(tmp_path_factory.mktemp("usual")) as server:
        yield server


@pytest.fixture(scope="session", name="triton")
def _triton(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Serve them in Triton's."""
    with _serving(tmp_path_factory.mktemp("triton"), "--dialect", "triton") as server:
        yield server


@contextmanager
def _serving(folder: Path, *words: str) -> Iterator[Server]:
    write(folder / "models")
    write_image(folder / "models", "image", ["rows", 8, 6, 3], "pixels", "scores")
    command = [
        sys.executable, "-m", "deploy.cli", "predictor", "--model_repository", str(folder / "models"), "--trusted",
        "--host", "127.0.0.1", "--http_port", "0", *words,
    ]  # fmt: skip
    with served(command, folder / "predictor.log") as server:
        yield server
