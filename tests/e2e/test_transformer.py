"""A service with a transformer, as `sidelight up` runs it: one call, logged at both, counted once for each."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from confluent_kafka import Consumer

from deploy import environment
from inference.observations import decode_rows
from inference.runtime import RUNTIMES
from streams.topics import Topics
from tests.inference.serving import ROOT, eventually

pytestmark = [pytest.mark.kafka, pytest.mark.e2e]

_SERVICE = """\
apiVersion: serving.kserve.io/v1beta1
kind: InferenceService
metadata: {name: iris, namespace: shop}
spec:
  predictor:
    model: {modelFormat: {name: sklearn}, storageUri: file://model}
    logger: {mode: all}
  transformer:
    containers:
      - image: ghcr.io/sidelight/predictor:0.1
        args: [--trusted, --predictor_protocol, grpc-v2, --enable_predictor_health_check]
        env: [{name: STORAGE_URI, value: 'file://code'}]
    logger: {mode: all}
"""
_CODE = """\
class Transformer:
    def preprocess(self, inputs):
        return {name: rows / 10 for name, rows in inputs.items()}
"""


def _rows(kafka: str, topic: str) -> dict[str, list[tuple[str, list[float]]]]:
    """Give what each key's rows hold: correlation id and inputs."""
    consumer = Consumer({"bootstrap.servers": kafka, "group.id": topic, "auto.offset.reset": "earliest"})
    consumer.subscribe([topic])
    found: dict[str, list[tuple[str, list[float]]]] = {}

    def read() -> bool:
        for message in consumer.consume(10, 0.2):
            if message.error() is None and message.value():
                table = decode_rows(message.value() or b"")
                (column,) = (name for name in table.column_names if name.startswith("in."))
                rows = zip(table["_id"].to_pylist(), table[column].to_pylist(), strict=True)
                found.setdefault(str(message.key(), "utf-8"), []).extend(rows)  # type: ignore[arg-type]
        return len(found) == 2

    eventually(read, "the rows of both components")
    consumer.close()
    return found


def test_one_call_is_one_row_of_each_component(kafka: str, topics: Topics, tmp_path: Path) -> None:
    """Clients reach the transformer; both events carry the client's id; stopped, the front drains before the back."""
    for folder in ("model", "code", "home"):
        (tmp_path / folder).mkdir()
    RUNTIMES.find("sklearn").example(tmp_path / "model")
    (tmp_path / "code" / "transformer.py").write_text(_CODE)
    (tmp_path / "service.yaml").write_text(_SERVICE)
    log = tmp_path / "up.log"
    command = [sys.executable, "-m", "deploy.cli", "up", str(tmp_path / "service.yaml"), "--kafka", kafka]
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*command, "--prefix", topics.prefix], cwd=ROOT, stdout=output, stderr=output,
            env=environment.inherited() | {"SIDELIGHT_HOME": str(tmp_path / "home")},
        )  # fmt: skip
    try:
        eventually(lambda: "next:" in log.read_text() or process.poll() is not None, "the installation")
        found = re.search(r"shop/iris: (http\S+)", log.read_text())
        assert found is not None, log.read_text()
        answer = httpx.post(
            f"{found[1]}/v1/models/iris:predict", json={"instances": [[50, 34, 15, 2]]},
            headers={"x-request-id": "abc"}, timeout=60,
        )  # fmt: skip
        rows = _rows(kafka, topics.observations)
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(120)
    drained = re.findall(r"(\S+) drained", log.read_text())

    assert answer.json() == {"predictions": [0]}
    assert rows == {
        "shop/iris/transformer": [("abc", [50.0, 34.0, 15.0, 2.0])],
        "shop/iris": [("abc", [5.0, 3.4, 1.5, 0.2])],
    }
    assert drained[:4] == ["logger-iris.transformer", "transformer-iris", "logger-iris", "predictor-iris"]
