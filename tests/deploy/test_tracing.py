"""Stages that record spans: what is sent at the end, and variables that OpenTelemetry cannot work with."""

from __future__ import annotations

from functools import partial

import pytest

from deploy.tracing import traced
from streams.stage import Batch, Record, Stage
from streams.traces import Traces, begun
from tests.contracts.stages import Sums
from tests.receiver import receiving
from tests.streams.test_tracecontext import SPAN, TRACE


def _stage(partition: int) -> Stage:
    return Sums(partition, "out")


def test_spans_are_sent_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the batch before the end recorded has been sent when the block is left."""
    record = Record("p", 0, 0, b"k", b"1", (("ce_traceparent", f"00-{TRACE}-{SPAN}-01".encode()),))
    with receiving() as receiver:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.url)
        with traced(_stage, "sums") as factory:
            factory(0).process(Batch(0, (record,)))

        assert [span.name for span in receiver.spans] == ["sums p"]


def test_variables_that_cannot_be_used_cost_the_spans_alone(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """They may be there for all containers of a cluster: payloads go on, and the log says what is wrong."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("OTEL_BSP_MAX_QUEUE_SIZE", "100")
    with traced(_stage, "sums") as factory:
        assert factory is _stage

    assert begun(partial(Traces, "sidelight-logger")) is None
    assert "no spans are recorded: max_export_batch_size must be" in caplog.text
