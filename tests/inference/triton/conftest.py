"""One predictor with the models of Triton's published examples."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest

from tests.inference.serving import Server, served
from tests.inference.triton.models import write


@pytest.fixture(scope="session", name="examples")
def _examples(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Serve them as Triton would."""
    folder = tmp_path_factory.mktemp("triton")
    write(folder / "models")
    command = [
        sys.executable, "-m", "deploy.cli", "predictor", "--model_repository", str(folder / "models"), "--trusted",
        "--host", "127.0.0.1", "--http_port", "0",
    ]  # fmt: skip
    with served(command, folder / "predictor.log") as server:
        yield server
