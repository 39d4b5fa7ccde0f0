"""Canaries and shadows from the request to the detectors: predictor, logger, Kafka, assembler as a user runs them."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from confluent_kafka import Consumer, TopicPartition

from deploy.kafka.ports import free_port
from deploy.kafka.topics import ensure_topics
from detectors.registry import build
from detectors.settings import monitor_from_mapping
from detectors.stage import DetectorStage, Watch
from inference.observations import ArrowCodec, decode_rows
from inference.rollout import Routes, parse
from streams.assembler import Assembler
from streams.settings import AssemblerSettings
from streams.stage import Batch, Output, Record
from streams.topics import Topics
from tests.inference.serving import ROOT, eventually, predictor
from tests.inference.shelves import ANSWERING, write

CALLS = 60

pytestmark = [pytest.mark.kafka, pytest.mark.e2e]


def _records(kafka: str, topic: str, count: int) -> list[Record]:
    consumer = Consumer({"bootstrap.servers": kafka, "group.id": topic, "auto.offset.reset": "earliest"})
    consumer.assign([TopicPartition(topic, 0, 0)])
    found: list[Record] = []

    def read() -> bool:
        for message in consumer.consume(count, 0.2):
            assert message.error() is None
            headers = tuple(message.headers() or ())
            found.append(Record(topic, 0, message.offset() or 0, message.key(), message.value(), headers, 0))  # type: ignore[arg-type]
        return len(found) >= count

    eventually(read, "the events")
    consumer.close()
    return found


@contextmanager
def _logged(server: str, kafka: str, topic: str, folder: Path) -> Iterator[httpx.Client]:
    """Run a logger in front of a predictor; give a client of it."""
    port = free_port()
    command = [
        sys.executable, "-m", "deploy.cli", "logger", "--log-url", f"kafka://{kafka}/{topic}",
        "--host", "127.0.0.1", "--port", str(port), "--component-port", server.rpartition(":")[2],
        "--inference-service", "s", "--namespace", "n",
    ]  # fmt: skip
    log = folder / "logger.log"
    with log.open("wb") as output:
        logger = subprocess.Popen(command, cwd=ROOT, stdout=output, stderr=output)
    try:
        eventually(lambda: "logger ready" in log.read_text() or logger.poll() is not None, "the ready line")
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
            yield client
    finally:
        logger.terminate()
        logger.wait(60)


def _observed(topics: Topics, records: list[Record]) -> list[Output]:
    """Give what the assembler makes of payloads, and what it says when no more come."""
    settings = AssemblerSettings(
        payloads=topics.payloads, observations="o", deadletter="d", payload_partitions=1, observation_partitions=1
    )
    assembler = Assembler(0, settings, ArrowCodec())
    outputs = assembler.process(Batch(0, tuple(records))).outputs
    return [*outputs, *assembler.process(Batch(0, (), idle_ms=4_000_000_000_000)).outputs]


def _rows(outputs: list[Output]) -> list[dict[str, Any]]:
    return [
        {"key": (output.key or b"").decode(), **row}
        for output in outputs
        if output.topic == "o" and output.value is not None
        for row in decode_rows(output.value).to_pylist()
    ]


def _answer(row: dict[str, Any]) -> float:
    return float(next(value for name, value in row.items() if name.startswith("out.")))


def _watch(name: str, **spec: object) -> Watch:
    """Watch what the model answers; its reference answered 1."""
    document = {
        "apiVersion": "sidelight.dev/v1alpha1", "kind": "InferenceMonitor",
        "metadata": {"name": name, "namespace": "n"},
        "spec": {
            "inferenceService": "s", "reference": {"path": "r.parquet"}, "features": [{"name": "x"}],
            "outputs": [{"name": "score", "source": "output-0"}],
            "budget": {"falseAlarms": 1, "per": "10000 observations"},
            "detectors": [{"type": "prediction-drift", "params": {"window": 20}}], **spec,
        },
    }  # fmt: skip
    monitor = monitor_from_mapping(document, Path("/"))
    reference = {"x": np.zeros(500), "score": np.ones(500)}
    return Watch(monitor=monitor, build=lambda: build(monitor, reference), fingerprint="1")


def _alerting(outputs: list[Output], *watches: Watch) -> tuple[set[str], dict[str, int]]:
    """Run monitors over observations; give those that open an alert, and the stage's counters."""
    stage = DetectorStage(watches, lambda family: f"alerts.{family}", "d")
    records = tuple(
        Record("o", 0, offset, output.key, output.value, output.headers, 0)
        for offset, output in enumerate(output for output in outputs if output.topic == "o")
    )
    alerts = stage.process(Batch(0, records)).outputs
    names = {value.decode() for alert in alerts for name, value in alert.headers if name == "ce_monitor" and value}
    return names, dict(stage.counters())


def test_rows_carry_the_version_that_answered(kafka: str, topics: Topics, tmp_path: Path) -> None:
    """Each observation names the version whose answer it holds, whether the rollout or the caller chose it."""
    ensure_topics(kafka, topics.declared(1))
    folder = tmp_path / "m"
    for number in (1, 2, 3):
        write(folder / str(number), number)
    (folder / "rollout.yaml").write_text("{stable: 1, aliases: {next: 3}, canary: {version: 2, percent: 40}}")
    with (
        predictor(folder, tmp_path, "--runtime", ANSWERING) as server,
        _logged(server.url, kafka, topics.payloads, tmp_path) as client,
    ):
        body = {"inputs": [{"name": "x", "shape": [1, 1], "datatype": "FP64", "data": [0.0]}]}
        for number in range(CALLS):
            path = "/v2/models/m/versions/next/infer" if number % 10 == 0 else "/v2/models/m/infer"
            client.post(path, json=body, headers={"x-request-id": f"c{number}"}).raise_for_status()
        for _ in range(CALLS):
            client.post("/v1/models/m:predict", json={"instances": [[0.0]]}).raise_for_status()
        records = _records(kafka, topics.payloads, 4 * CALLS)
    rows = [(row["_version"], _answer(row), row["_id"]) for row in _rows(_observed(topics, records))]

    assert len(rows) == 2 * CALLS
    assert all(float(version) == answer for version, answer, _ in rows)
    assert {version for version, _, _ in rows} == {"1", "2", "3"}
    assert {identity for version, _, identity in rows if version == "3"} == {f"c{n}" for n in range(0, CALLS, 10)}


def test_shadows_are_compared_and_never_counted(kafka: str, topics: Topics, tmp_path: Path) -> None:
    """A shadow's answers are rows of their own, of the same calls: its monitor sees them, the service's does not."""
    ensure_topics(kafka, topics.declared(1))
    folder = tmp_path / "m"
    for number in (1, 2, 3):
        write(folder / str(number), number)
    rollout = "{stable: 1, shadows: [{version: 2}, {version: 3, percent: 50}]}"
    (folder / "rollout.yaml").write_text(rollout)
    routes = Routes("m", ("1", "2", "3"), parse(rollout.encode(), "rollout"))
    copies = sum(len(routes.choose(f"c{number}".encode(), {}, float).shadows) for number in range(CALLS))
    words = (
        "--log-shadows", f"kafka://{kafka}/{topics.payloads}", "--privacy", "none", "--inference-service", "s",
        "--namespace", "n", "--runtime", ANSWERING,
    )  # fmt: skip
    with (
        predictor(folder, tmp_path, *words) as server,
        _logged(server.url, kafka, topics.payloads, tmp_path) as client,
    ):
        body = {"inputs": [{"name": "x", "shape": [1, 1], "datatype": "FP64", "data": [0.0]}]}
        for number in range(CALLS):
            client.post("/v2/models/m/infer", json=body, headers={"x-request-id": f"c{number}"}).raise_for_status()
        records = _records(kafka, topics.payloads, 2 * CALLS + 2 * copies)
    outputs = _observed(topics, records)
    rows = _rows(outputs)
    service, shadows = ([row for row in rows if row["key"] == key] for key in ("n/s", "n/s/shadow"))
    second, third = ([row for row in shadows if row["_version"] == version] for version in ("2", "3"))
    alerting, counters = _alerting(
        outputs, _watch("service"), _watch("second", component="shadow", modelVersion="2"),
        _watch("as-before", component="shadow", modelVersion="1"),
    )  # fmt: skip
    _, alone = _alerting(outputs, _watch("service"))

    assert len(rows) == len(service) + len(shadows)
    assert {row["_id"] for row in service} == {f"c{number}" for number in range(CALLS)}
    assert [(row["_version"], _answer(row)) for row in service] == [("1", 1.0)] * CALLS
    assert sorted(row["_id"] for row in second) == sorted(row["_id"] for row in service)
    assert 0 < len(third) < CALLS
    assert {row["_id"] for row in third} < {row["_id"] for row in second}
    assert all(float(row["_version"]) == _answer(row) for row in shadows)
    assert alerting == {"second"}
    assert counters["unmonitored"] == 0
    assert alone["unmonitored"] == len(shadows)
