"""The repository extension and the metrics page over a real socket."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from inference.runtime import RUNTIMES
from tests.inference.serving import predictor

BODY = {"instances": [[5.0, 3.4, 1.5, 0.2]]}


@pytest.fixture(name="served")
def _served(tmp_path: Path) -> Iterator[tuple[httpx.Client, Path]]:
    model = tmp_path / "model"
    model.mkdir()
    RUNTIMES.find("lightgbm").example(model)
    with predictor(model, tmp_path) as server, server.client() as client:
        yield client, model / "model.txt"


def test_unload_and_load(served: tuple[httpx.Client, Path]) -> None:
    """An unloaded model stays in the index, is not ready, answers 503 with Retry-After, and can be loaded again."""
    client, _ = served
    unloaded = client.post("/v2/repository/models/m/unload")
    refused = client.post("/v1/models/m:predict", json=BODY)
    ready = client.get("/v1/models/m")
    index = client.post("/v2/repository/index").json()
    only_ready = client.post("/v2/repository/index", json={"ready": True}).json()
    loaded = client.post("/v2/repository/models/m/load")

    assert unloaded.json() == {"name": "m", "unload": True}
    assert (refused.status_code, refused.json()) == (503, {"error": "Model with name m is not ready."})
    assert refused.headers["retry-after"] == "1"
    assert (ready.status_code, ready.json()) == (503, {"error": "Model with name m is not ready."})
    assert client.get("/v2/health/ready").status_code == 200
    assert index == [{"name": "m", "version": "1", "state": "UNAVAILABLE", "reason": "unloaded"}]
    assert only_ready == []
    assert loaded.json() == {"name": "m", "load": True}
    assert client.post("/v1/models/m:predict", json=BODY).status_code == 200


def test_failed_reload_keeps_the_old_model(served: tuple[httpx.Client, Path]) -> None:
    """A damaged file is refused with 500 and the reason, and the model in memory goes on serving."""
    client, path = served
    before = client.post("/v1/models/m:predict", json=BODY).json()
    path.write_bytes(path.read_bytes()[:700])
    failed = client.post("/v2/repository/models/m/load")

    assert failed.status_code == 500
    assert "no LightGBM model" in failed.json()["error"]
    assert client.post("/v1/models/m:predict", json=BODY).json() == before
    assert client.post("/v2/repository/index").json()[0]["state"] == "READY"


@pytest.mark.parametrize(
    ("path", "content", "status", "says"),
    [
        ("/v2/repository/models/other/load", b"", 404, "failed to load 'other', the repository has no such model"),
        ("/v2/repository/models/other/unload", b"", 404, "Request for unknown model: 'other' is not found"),
        ("/v2/repository/models/m/load", b'{"parameters": {"file:1/m": "eA=="}}', 501, "not offered"),
        (
            "/v2/repository/models/m/load",
            b'{"parameters": {"config": "x"}}',
            400,
            "failed to load 'm': config: no JSON",
        ),
        ("/v2/repository/models/m/load", b'{"parameters": "x"}', 400, "parameters: expected an object, got str"),
        ("/v2/repository/models/m/load", b"[]", 400, "expected a JSON object, got list"),
        ("/v2/repository/index", b"{", 400, "no JSON"),
        ("/v2/repository/index", b'{"ready": 1}', 400, "ready: expected true or false, got 1"),
    ],
)
def test_bad_calls(client: httpx.Client, path: str, content: bytes, status: int, says: str) -> None:
    """What cannot be done is answered with its status and the reason, never ignored."""
    answer = client.post(path, content=content)

    assert answer.status_code == status
    assert says in answer.json()["error"]


def test_metrics(served: tuple[httpx.Client, Path]) -> None:
    """The page has KServe's histograms and our counters, synthetic calls apart, unknown names under one label."""
    client, _ = served
    rows = {"instances": BODY["instances"] * 3}
    client.post("/v1/models/m:predict", json=rows)
    client.post("/v1/models/m:predict", json=rows, headers={"x-sidelight-synthetic": "true"})
    client.post("/v1/models/m:predict", json={})
    client.post("/v1/models/surprise:predict", json=rows)
    page = client.get("/metrics").text

    for line in (
        'request_preprocess_seconds_count{model_name="m"} 3.0',
        'request_predict_seconds_count{model_name="m"} 2.0',
        'request_postprocess_seconds_count{model_name="m"} 2.0',
        'sidelight_predictor_requests_total{model_name="m",protocol="v1",status="200",synthetic="false"} 1.0',
        'sidelight_predictor_requests_total{model_name="m",protocol="v1",status="200",synthetic="true"} 1.0',
        'sidelight_predictor_requests_total{model_name="m",protocol="v1",status="400",synthetic="false"} 1.0',
        'sidelight_predictor_requests_total{model_name="unknown",protocol="v1",status="404",synthetic="false"} 1.0',
        'sidelight_predictor_errors_total{error="MalformedBody",model_name="m"} 1.0',
        'sidelight_predictor_rows_total{model_name="m",protocol="v1"} 6.0',
        "sidelight_predictor_in_progress 0.0",
    ):
        assert line in page
    assert "surprise" not in page
