"""Predictions by CloudEvents over HTTP, both modes; the official SDK writes the questions and reads the answers."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
from cloudevents.core.bindings.http import HTTPMessage, from_http_event, to_binary_event, to_structured_event
from cloudevents.core.v1.event import CloudEvent

from deploy import environment
from tests.inference.serving import ECHO, predictor

V1, V2 = "/v1/models/m:predict", "/v2/models/m/infer"
INSTANCES = {"instances": [[1.0, 2.0]]}
TENSOR = {"name": "x", "shape": [1, 2], "datatype": "FP32", "data": [1.0, 2.0]}
QUESTIONS = {V1: INSTANCES, V2: {"inputs": [TENSOR]}}
ANSWERS = {
    V1: {"predictions": [[1.0, 2.0]]},
    V2: {"model_name": "m", "model_version": "1", "outputs": [TENSOR]},
}
ATTRIBUTES = {
    "id": "a-1", "source": "/clients/7", "type": "com.example.question", "subject": "row 7", "tenant": "blue",
    "time": datetime(2026, 1, 31, 12, tzinfo=UTC), "specversion": "1.0", "datacontenttype": "application/json",
}  # fmt: skip


@pytest.fixture(name="served", scope="module")
def _served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    folder = tmp_path_factory.mktemp("events")
    model = folder / "model"
    model.mkdir()
    with predictor(model, folder, "--runtime", ECHO) as server, server.client() as client:
        yield client


def _event(data: Any, **changes: Any) -> CloudEvent:  # noqa: ANN401 - JSON
    attributes = {name: value for name, value in (ATTRIBUTES | changes).items() if value is not None}
    return CloudEvent(attributes, data)


def _sent(client: httpx.Client, path: str, message: HTTPMessage) -> tuple[httpx.Response, CloudEvent]:
    answer = client.post(path, content=message.body, headers=message.headers)
    event = from_http_event(HTTPMessage(dict(answer.headers), answer.content))
    assert isinstance(event, CloudEvent)
    return answer, event


def _data(event: CloudEvent) -> Any:  # noqa: ANN401 - JSON
    data = event.get_data()
    return json.loads(data) if isinstance(data, (bytes, str)) else data


@pytest.mark.parametrize("path", [V1, V2])
@pytest.mark.parametrize("write", [to_binary_event, to_structured_event], ids=["binary", "structured"])
def test_events_are_answered_by_events(served: httpx.Client, path: str, write: Any) -> None:  # noqa: ANN401 - of the SDK
    """In either mode and protocol the answer is an event of the same mode, of KServe's type and source."""
    answer, event = _sent(served, path, write(_event(QUESTIONS[path])))
    mode = "binary" if "ce-id" in answer.headers else "structured"

    assert answer.status_code == 200
    assert mode == ("binary" if write is to_binary_event else "structured")
    assert _data(event) == ANSWERS[path]
    assert (event.get_type(), event.get_source()) == ("io.kserve.inference.response", "io.kserve.inference.m")
    assert event.get_id() not in {"", "a-1"}
    assert event.get_time() is not None
    assert event.get_extension("correlationid") == "a-1"
    assert event.get_subject() is None
    assert answer.headers["x-sidelight-model-version"] == "1"


def test_events_without_time_or_content_type(served: httpx.Client) -> None:
    """What CloudEvents leaves optional is not asked for."""
    body = {"specversion": "1.0", "id": "1", "source": "s", "type": "t", "data": INSTANCES}
    answer = served.post(V1, json=body, headers={"content-type": "application/cloudevents+json"})

    assert answer.json()["data"] == ANSWERS[V1]


def test_attributes_without_a_valid_name(served: httpx.Client) -> None:
    """An attribute that CloudEvents has no name for, and KServe's SDK sends, is left out; the call is answered."""
    body = {"specversion": "1.0", "id": "1", "source": "s", "type": "t", "custom-extension": "x", "data": INSTANCES}
    structured = served.post(V1, json=body, headers={"content-type": "application/cloudevents+json"})
    headers = {"ce-specversion": "1.0", "ce-id": "1", "ce-source": "s", "ce-type": "t", "ce-custom-extension": "x"}
    binary = served.post(V1, json=INSTANCES, headers=headers)

    assert structured.headers["content-type"] == "application/cloudevents+json"
    assert structured.json()["data"] == binary.json() == ANSWERS[V1]


def test_binary_tensors_in_an_event(served: httpx.Client) -> None:
    """A binary event may carry V2's binary tensors, and so may its answer."""
    raw = struct.pack("<2f", 1.0, 2.0)
    tensor = {key: TENSOR[key] for key in ("name", "shape", "datatype")} | {"parameters": {"binary_data_size": 8}}
    head = json.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True}}).encode()
    headers = {
        "ce-specversion": "1.0", "ce-id": "1", "ce-source": "s", "ce-type": "t",
        "content-type": "application/octet-stream", "inference-header-content-length": str(len(head)),
    }  # fmt: skip
    answer = served.post(V2, content=head + raw, headers=headers)

    assert answer.headers["ce-type"] == "io.kserve.inference.response"
    assert answer.headers["content-type"] == "application/octet-stream"
    assert answer.content[int(answer.headers["inference-header-content-length"]) :] == raw


def test_an_id_alone_is_no_event(served: httpx.Client) -> None:
    """`ce-id` without the rest is how clients name a call to KServe's logger."""
    answer = served.post(V1, json=INSTANCES, headers={"ce-id": "1"})

    assert answer.json() == ANSWERS[V1]
    assert "ce-type" not in answer.headers


@pytest.mark.parametrize(
    ("headers", "body", "says"),
    [
        ({"ce-specversion": "1.0", "ce-id": "1", "ce-source": "s"}, INSTANCES, "attribute 'type'"),
        ({"ce-specversion": "0.3", "ce-id": "1", "ce-source": "s", "ce-type": "t"}, INSTANCES, "expected '1.0'"),
        ({"content-type": "application/cloudevents+json"}, {"specversion": "1.0"}, "attribute 'id'"),
        ({"content-type": "application/cloudevents+avro"}, {}, "expected application/cloudevents+json"),
        ({"content-type": "application/cloudevents-batch+json"}, [], "expected one event, got a batch"),
        ({"ce-specversion": "1.0", "ce-id": "1", "ce-source": "s", "ce-type": "t"}, {"rows": 1}, "'instances'"),
    ],
)
def test_bad_events(served: httpx.Client, headers: dict[str, str], body: object, says: str) -> None:
    """What is no event, or carries no request, is a 400 with the reason, as plain JSON."""
    answer = served.post(V1, content=json.dumps(body), headers=headers)

    assert answer.status_code == 400
    assert says in answer.json()["error"]


def test_what_answers_say_can_be_set(tmp_path: Path) -> None:
    """CE_TYPE and CE_SOURCE name the answers, and with CE_MERGE they keep the request's other attributes."""
    model = tmp_path / "model"
    model.mkdir()
    settings = {"CE_TYPE": "com.example.answer", "CE_SOURCE": "/models/m", "CE_MERGE": "true"}
    with (
        predictor(model, tmp_path, "--runtime", ECHO, variables=environment.inherited() | settings) as server,
        server.client() as client,
    ):
        found = [_sent(client, V1, write(_event(INSTANCES)))[1] for write in (to_binary_event, to_structured_event)]

    for event in found:
        assert (event.get_type(), event.get_source()) == ("com.example.answer", "/models/m")
        assert (event.get_subject(), event.get_extension("tenant")) == ("row 7", "blue")
        assert event.get_id() != "a-1"
        assert event.get_time() != ATTRIBUTES["time"]
