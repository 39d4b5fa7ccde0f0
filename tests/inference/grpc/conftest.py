"""Real predictor processes, shared by the tests of their gRPC side."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from inference.runtime import RUNTIMES
from tests.inference.grpc.calling import Client, client
from tests.inference.serving import ECHO, Server, predictor


@pytest.fixture(scope="session", name="echo")
def _echo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Serve a model that echoes as `m`."""
    folder = tmp_path_factory.mktemp("echo")
    model = folder / "model"
    model.mkdir()
    with predictor(model, folder, "--runtime", ECHO) as server:
        yield server


@pytest.fixture(scope="session", name="stub")
def _stub(echo: Server) -> Iterator[Client]:
    """Give a client of the model that echoes."""
    with client(echo.grpc) as connected:
        yield connected


@pytest.fixture(scope="session", name="iris")
def _iris(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """Give a client of a predictor that serves scikit-learn's example as `m`."""
    folder = tmp_path_factory.mktemp("iris")
    model = folder / "model"
    model.mkdir()
    RUNTIMES.find("sklearn").example(model)
    with predictor(model, folder) as server, client(server.grpc) as connected:
        yield connected
