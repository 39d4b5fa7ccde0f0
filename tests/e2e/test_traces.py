"""One trace from the client to the detectors: logger, predictor, Kafka, assembler and detectors as a user runs them."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import grpc
import httpx
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.propagate import inject
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.trace import SpanKind

from deploy import environment
from deploy.kafka.ports import free_port
from deploy.kafka.topics import ensure_topics
from inference.protocol.grpc_codec import encode_request
from inference.protocol.grpc_messages import SERVICE
from inference.protocol.tensors import Tensor
from inference.protocol.v2 import InferRequest
from streams.topics import Topics
from tests.inference.serving import ECHO, ROOT, eventually, predictor
from tests.receiver import Receiver, receiving

pytestmark = [pytest.mark.kafka, pytest.mark.e2e]

_ROWS = [[0.5]]
_SERVER, _CLIENT, _CONSUMER = 2, 3, 5
_MONITOR = {
    "apiVersion": "sidelight.dev/v1alpha1", "kind": "InferenceMonitor", "metadata": {"name": "w", "namespace": "n"},
    "spec": {
        "inferenceService": "s", "reference": {"path": "r.parquet"},
        "features": [{"name": "x"}],
        "budget": {"falseAlarms": 1, "per": "10000 observations"},
        "detectors": [{"type": "ks", "params": {"window": 20}}],
    },
}  # fmt: skip


@contextmanager
def _running(words: list[str], log: Path, ready: str, variables: dict[str, str]) -> Iterator[None]:
    """Run a command until the block ends."""
    command = [sys.executable, "-m", "deploy.cli", *words]
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=variables
        )
    try:
        eventually(lambda: ready in log.read_text() or process.poll() is not None, ready)
        assert process.poll() is None, log.read_text()
        yield
    finally:
        process.terminate()
        process.wait(60)


@contextmanager
def _service(kafka: str, topics: Topics, folder: Path, variables: dict[str, str]) -> Iterator[str]:
    """Run everything; give the logger's address."""
    (folder / "model").mkdir()
    pq.write_table(pa.table({"x": np.linspace(0.0, 1.0, 500)}), folder / "r.parquet")
    (folder / "monitor.yaml").write_text(json.dumps(_MONITOR))
    common = ("--kafka", kafka, "--prefix", topics.prefix)
    port = free_port()
    with ExitStack() as stack:
        for name, more in (("assembler", ()), ("detector", ("--monitor", str(folder / "monitor.yaml")))):
            words = [name, *common, *more]
            stack.enter_context(_running(words, folder / f"{name}.log", " ready: ", variables))
        served = predictor(folder / "model", folder, "--runtime", ECHO, variables=variables)
        server = stack.enter_context(served)
        words = [
            "logger", "--log-url", f"kafka://{kafka}/{topics.payloads}", "--host", "127.0.0.1", "--port", str(port),
            "--component-port", server.url.rpartition(":")[2],
            "--grpc-component-port", server.grpc.rpartition(":")[2],
            "--inference-service", "s", "--namespace", "n",
        ]  # fmt: skip
        stack.enter_context(_running(words, folder / "logger.log", "logger ready", variables))
        yield f"127.0.0.1:{port}"


def _call(address: str, kind: str, head: dict[str, str]) -> None:
    request = InferRequest(inputs=(Tensor.of("x", np.array(_ROWS)),))
    if kind == "http":
        body = {"inputs": [{"name": "x", "shape": [1, 1], "datatype": "FP64", "data": _ROWS[0]}]}
        httpx.post(f"http://{address}/v2/models/m/infer", json=body, headers=head, timeout=60).raise_for_status()
        return
    with grpc.insecure_channel(address) as channel:
        infer = channel.unary_unary(f"/{SERVICE}/ModelInfer")
        infer(encode_request("m", request, raw=True), timeout=60, wait_for_ready=True, metadata=tuple(head.items()))


def test_one_trace_from_the_client_to_the_detectors(kafka: str, topics: Topics, tmp_path: Path) -> None:
    """Over HTTP and gRPC: client → logger → prediction, and below the logger what became of its events."""
    ensure_topics(kafka, topics.declared(1))
    with receiving() as receiver:
        provider = TracerProvider()
        provider.add_span_processor(SimpleSpanProcessor(OTLPSpanExporter(endpoint=f"{receiver.url}/v1/traces")))
        tracer, traces = provider.get_tracer("client"), {}
        otel = {"OTEL_EXPORTER_OTLP_ENDPOINT": receiver.url, "OTEL_BSP_SCHEDULE_DELAY": "50"}
        with _service(kafka, topics, tmp_path, environment.inherited() | otel) as address:
            for kind in ("http", "grpc"):
                with tracer.start_as_current_span("client", kind=SpanKind.CLIENT) as span:
                    head: dict[str, str] = {}
                    inject(head)
                    _call(address, kind, head)
                traces[kind] = span.get_span_context().trace_id.to_bytes(16)
            for trace in traces.values():
                eventually(lambda trace=trace: _seen(receiver, trace) == _ALL, "the spans")  # type: ignore[misc]
        provider.shutdown()

    assert receiver.services >= {f"sidelight-{name}" for name in ("logger", "predictor", "assembler", "detectors")}
    for kind, trace in traces.items():
        _assert_whole([span for span in receiver.spans if span.trace_id == trace], topics, kind)


_ALL = {"client", "logger", "infer m", "queue", "compute", "assembler", "detectors"}


def _seen(receiver: Receiver, trace: bytes) -> set[str]:
    """Name the spans that have come of a trace, without paths and topics."""
    names = [span.name for span in receiver.spans if span.trace_id == trace]
    return {"logger" if name.startswith("POST") else name if name == "infer m" else name.split()[0] for name in names}


def _assert_whole(spans: list[Any], topics: Topics, kind: str) -> None:
    path = "/v2/models/m/infer" if kind == "http" else f"/{SERVICE}/ModelInfer"
    logged, assembled, detected = f"POST {path}", f"assembler {topics.payloads}", f"detectors {topics.observations}"
    by_name = {span.name: span for span in spans}
    above = {span.span_id: span.name for span in spans}
    parents = {name: above.get(span.parent_span_id, "") for name, span in by_name.items()}

    assert parents == {
        "client": "", logged: "client", "infer m": logged, "queue": "infer m", "compute": "infer m",
        assembled: logged, detected: logged,
    }  # fmt: skip
    assert {name: by_name[name].kind for name in ("client", logged, "infer m", assembled, detected)} == {
        "client": _CLIENT, logged: _SERVER, "infer m": _SERVER, assembled: _CONSUMER, detected: _CONSUMER,
    }  # fmt: skip
    assert by_name[logged].start_time_unix_nano <= by_name["infer m"].start_time_unix_nano
    # The request's event and the answer's may come in one batch or in two.
    assert set(Counter(span.name for span in spans).values()) <= {1, 2}
