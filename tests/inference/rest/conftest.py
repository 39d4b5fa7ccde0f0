"""One real predictor process per model, shared by the endpoint tests."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest

from inference.runtime import RUNTIMES
from tests.inference.serving import predictor

MAX_BODY = 100_000


@pytest.fixture(scope="session")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """Give a client of a predictor that serves scikit-learn's example as `m`, bodies up to MAX_BODY bytes."""
    folder = tmp_path_factory.mktemp("served")
    model = folder / "model"
    model.mkdir()
    RUNTIMES.find("sklearn").example(model)
    words = ("--max-body", str(MAX_BODY), "--enable_docs_url", "true")
    with predictor(model, folder, *words) as server, server.client() as client:
        yield client
