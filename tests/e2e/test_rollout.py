"""A canary from the request to the detectors' rows: predictor, logger, Kafka and assembler, as they run for a user."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from confluent_kafka import Consumer, TopicPartition

from deploy.kafka.ports import free_port
from deploy.kafka.topics import ensure_topics
from inference.observations import ArrowCodec, decode_rows
from streams.assembler import Assembler
from streams.settings import AssemblerSettings
from streams.stage import Batch, Record
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


def test_rows_carry_the_version_that_answered(kafka: str, topics: Topics, tmp_path: Path) -> None:
    """Each observation names the version whose answer it holds, whether the rollout or the caller chose it."""
    ensure_topics(kafka, topics.declared(1))
    folder = tmp_path / "m"
    for number in (1, 2, 3):
        write(folder / str(number), number)
    (folder / "rollout.yaml").write_text("{stable: 1, aliases: {next: 3}, canary: {version: 2, percent: 40}}")
    port = free_port()
    with predictor(folder, tmp_path, "--runtime", ANSWERING) as server:
        command = [
            sys.executable, "-m", "deploy.cli", "logger", "--log-url", f"kafka://{kafka}/{topics.payloads}",
            "--host", "127.0.0.1", "--port", str(port), "--component-port", server.url.rpartition(":")[2],
            "--inference-service", "s", "--namespace", "n",
        ]  # fmt: skip
        log = tmp_path / "logger.log"
        with log.open("wb") as output:
            logger = subprocess.Popen(command, cwd=ROOT, stdout=output, stderr=output)
        try:
            eventually(lambda: "logger ready" in log.read_text() or logger.poll() is not None, "the ready line")
            with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
                body = {"inputs": [{"name": "x", "shape": [1, 1], "datatype": "FP64", "data": [0.0]}]}
                for number in range(CALLS):
                    path = "/v2/models/m/versions/next/infer" if number % 10 == 0 else "/v2/models/m/infer"
                    client.post(path, json=body, headers={"x-request-id": f"c{number}"}).raise_for_status()
                for _ in range(CALLS):
                    client.post("/v1/models/m:predict", json={"instances": [[0.0]]}).raise_for_status()
            records = _records(kafka, topics.payloads, 4 * CALLS)
        finally:
            logger.terminate()
            logger.wait(30)
    settings = AssemblerSettings(
        payloads=topics.payloads, observations="o", deadletter="d", payload_partitions=1, observation_partitions=1
    )
    outputs = Assembler(0, settings, ArrowCodec()).process(Batch(0, tuple(records))).outputs
    rows = [
        (row["_version"], float(next(value for name, value in row.items() if name.startswith("out."))), row["_id"])
        for output in outputs
        if output.topic == "o" and output.value is not None
        for row in decode_rows(output.value).to_pylist()
    ]

    assert len(rows) == 2 * CALLS
    assert all(float(version) == answer for version, answer, _ in rows)
    assert {version for version, _, _ in rows} == {"1", "2", "3"}
    assert {identity for version, _, identity in rows if version == "3"} == {f"c{n}" for n in range(0, CALLS, 10)}
