"""Traces, as an OTLP receiver gets them from a real predictor."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from deploy import environment
from inference.runtime import RUNTIMES
from tests.inference.serving import eventually, predictor
from tests.receiver import Receiver, receiving

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
BODY = {"instances": [[5.0, 3.4, 1.5, 0.2]] * 2}
SERVER = 2
ERROR = 2


@pytest.fixture(name="receiver")
def _receiver() -> Iterator[Receiver]:
    with receiving() as receiver:
        yield receiver


@pytest.fixture(name="model")
def _model(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    RUNTIMES.find("xgboost").example(folder)
    return folder


def _attributes(span: Any) -> dict[str, Any]:  # noqa: ANN401 - protobuf's classes have no types
    return {each.key: getattr(each.value, each.value.WhichOneof("value")) for each in span.attributes}


def test_callers_traces_are_continued(tmp_path: Path, model: Path, receiver: Receiver) -> None:
    """A call is a span below its caller's, with its wait and its computation below; an error is told."""
    variables = {"OTEL_EXPORTER_OTLP_ENDPOINT": receiver.url, "OTEL_BSP_SCHEDULE_DELAY": "50"}
    with predictor(model, tmp_path, variables=environment.inherited() | variables) as server, server.client() as client:
        client.post("/v1/models/m:predict", json=BODY, headers={"traceparent": f"00-{TRACE}-{PARENT}-01"})
        client.post("/v1/models/m:predict", json={"instances": [[1.0]]})
        eventually(lambda: len(receiver.spans) == 5, "five spans")

    continued = {span.name: span for span in receiver.spans if span.trace_id.hex() == TRACE}
    call, queue, compute = (continued[name] for name in ("infer m", "queue", "compute"))
    assert call.parent_span_id.hex() == PARENT
    assert call.kind == SERVER
    assert queue.parent_span_id == compute.parent_span_id == call.span_id
    assert call.start_time_unix_nano == queue.start_time_unix_nano
    assert queue.end_time_unix_nano <= compute.start_time_unix_nano
    assert compute.start_time_unix_nano < compute.end_time_unix_nano <= call.end_time_unix_nano
    assert _attributes(compute) == {"sidelight.rows": 2, "sidelight.batch.calls": 1}
    assert _attributes(call)["sidelight.model"] == "m"
    (failed,) = [span for span in receiver.spans if span.name == "infer m" and span.trace_id.hex() != TRACE]
    assert failed.status.code == ERROR
    assert _attributes(failed)["error.type"] == "InvalidInput"
    assert receiver.services == {"sidelight-predictor"}


def test_nothing_is_lost_at_the_end(tmp_path: Path, model: Path, receiver: Receiver) -> None:
    """What was not sent yet is sent when the process ends; OpenTelemetry's own names are heeded."""
    variables = {
        "OTEL_TRACES_EXPORTER": "otlp",
        "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": f"{receiver.url}/v1/traces",
        "OTEL_BSP_SCHEDULE_DELAY": "600000",
        "OTEL_SERVICE_NAME": "income",
    }
    with predictor(model, tmp_path, variables=environment.inherited() | variables) as server, server.client() as client:
        client.post("/v1/models/m:predict", json=BODY)

    assert {span.name for span in receiver.spans} == {"infer m", "queue", "compute"}
    assert receiver.services == {"income"}


def test_variables_that_cannot_be_used_cost_the_spans_alone(tmp_path: Path, model: Path) -> None:
    """They may be there for all containers of a cluster: calls are answered, and the log says what is wrong."""
    variables = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9", "OTEL_BSP_MAX_QUEUE_SIZE": "100"}
    with predictor(model, tmp_path, variables=environment.inherited() | variables) as server, server.client() as client:
        answer = client.post("/v1/models/m:predict", json=BODY)

    assert answer.status_code == 200
    assert "no spans are recorded: max_export_batch_size must be" in server.log.read_text()


@pytest.mark.parametrize(
    ("variables", "wanted"),
    [
        ({}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://x"}, True),
        ({"OTEL_TRACES_EXPORTER": "otlp"}, True),
        ({"OTEL_TRACES_EXPORTER": "none", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://x"}, False),
        ({"OTEL_SDK_DISABLED": "true", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://x"}, False),
    ],
)
def test_off_unless_asked(monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], wanted: bool) -> None:  # noqa: FBT001 - a table's column
    """Without OpenTelemetry's own variables nothing is recorded."""
    for name in ("OTEL_SDK_DISABLED", "OTEL_TRACES_EXPORTER", "OTEL_EXPORTER_OTLP_ENDPOINT"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)

    assert environment.traces() is wanted
