"""Triton's statistics and model configuration, over HTTP and gRPC."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.inference.grpc.calling import Client, client
from tests.inference.serving import Server


@pytest.fixture(name="http")
def _http(examples: Server) -> Iterator[httpx.Client]:
    with examples.client() as connected:
        yield connected


@pytest.fixture(name="grpc")
def _grpc(examples: Server) -> Iterator[Client]:
    with client(examples.grpc) as connected:
        yield connected


def _rows(count: int, width: int = 16) -> dict[str, Any]:
    shape, data = [count, width], [1] * count * width
    return {"inputs": [{"name": f"INPUT{at}", "datatype": "INT8", "shape": shape, "data": data} for at in range(2)]}


def _told(http: httpx.Client, path: str = "/v2/models/simple_int8/stats") -> dict[str, Any]:
    (told,) = http.get(path).raise_for_status().json()["model_stats"]
    found: dict[str, Any] = told
    return found


def test_statistics_count_what_was_asked(http: httpx.Client, grpc: Client) -> None:
    """Inferences are rows, executions batches; refused calls are failures; both protocols tell the same."""
    infer = "/v2/models/simple_int8/infer"
    http.post(infer, json=_rows(1)).raise_for_status()
    before = _told(http)
    for count in (1, 3, 3):
        http.post(infer, json=_rows(count)).raise_for_status()
    wrong = http.post(infer, json=_rows(1, 15))
    after = _told(http, "/v2/models/simple_int8/versions/1/stats")
    (message,) = grpc.call("ModelStatistics", name="simple_int8", version="1").model_stats

    assert (after["name"], after["version"], wrong.status_code) == ("simple_int8", "1", 400)
    assert after["inference_count"] - before["inference_count"] == 7
    assert after["execution_count"] - before["execution_count"] == 3
    assert after["last_inference"] >= before["last_inference"] > 0
    for name in ("success", "queue", "compute_input", "compute_infer", "compute_output"):
        old, new = before["inference_stats"][name], after["inference_stats"][name]
        assert (new["count"] - old["count"], new["ns"] > old["ns"]) == (3, True)
    assert after["inference_stats"]["fail"]["count"] - before["inference_stats"]["fail"]["count"] == 1
    assert [each["batch_size"] for each in after["batch_stats"]] == [1, 3]
    assert after["batch_stats"][1]["compute_infer"]["count"] == 2
    assert (message.inference_count, message.execution_count) == (after["inference_count"], after["execution_count"])
    assert message.inference_stats.success.ns == after["inference_stats"]["success"]["ns"]
    assert [each.batch_size for each in message.batch_stats] == [1, 3]


def test_statistics_of_all_models(http: httpx.Client, grpc: Client) -> None:
    """Without a name, of each version that was ever loaded."""
    http.get("/v2/models/simple/config").raise_for_status()
    names = {told["name"] for told in http.get("/v2/models/stats").json()["model_stats"]}

    assert "simple" in names
    assert {told.name for told in grpc.call("ModelStatistics").model_stats} >= names


@pytest.mark.parametrize("path", ["/v2/models/nobody/stats", "/v2/models/simple/versions/9/stats"])
def test_statistics_of_what_is_unknown(http: httpx.Client, path: str) -> None:
    """404, with the name."""
    http.get("/v2/models/simple").raise_for_status()
    answer = http.get(path)

    assert answer.status_code == 404
    assert path.split("/")[3] in answer.json()["error"]


@pytest.mark.parametrize("path", ["/v2/models/simple/config", "/v2/models/simple/versions/1/config"])
def test_configurations(http: httpx.Client, grpc: Client, path: str) -> None:
    """Both protocols describe a model as Triton does; it is loaded for that."""
    config = http.get(path).raise_for_status().json()
    message = grpc.call("ModelConfig", name="simple", version="1" if "versions" in path else "").config

    assert (config["name"], config["backend"], config["max_batch_size"]) == ("simple", "python", 8)
    assert config["input"][1] == {
        "name": "INPUT1", "data_type": "TYPE_INT32", "format": "FORMAT_NONE", "dims": [16],
    }  # fmt: skip
    assert (message.name, message.platform, message.max_batch_size) == ("simple", "python_class", 8)
    assert [(each.name, each.data_type, list(each.dims)) for each in message.output] == [
        ("OUTPUT0", 8, [16]), ("OUTPUT1", 8, [16]),
    ]  # fmt: skip
    assert message.HasField("dynamic_batching")


def test_classes_have_their_labels(http: httpx.Client) -> None:
    """Where the model's settings have them: `"score:index:label"`."""
    body = {
        "inputs": [{"name": "pixels", "datatype": "FP32", "shape": [1, 8, 6, 3], "data": [1.0] * 144}],
        "outputs": [{"name": "scores", "parameters": {"classification": 1}}],
    }
    (found,) = http.post("/v2/models/image/infer", json=body).raise_for_status().json()["outputs"]
    _, index, label = found["data"][0].split(":")

    assert label == f"kind {index}"


def test_what_is_offered_is_said(http: httpx.Client, grpc: Client) -> None:
    """The server's metadata name the extensions."""
    offered = {"statistics", "model_configuration"}

    assert offered <= set(http.get("/v2").json()["extensions"])
    assert offered <= set(grpc.call("ServerMetadata").extensions)
