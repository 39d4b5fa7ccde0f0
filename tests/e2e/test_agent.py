"""The logger in the place of KServe's agent: its words and environment, its batcher, its events, and locked Kafka."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from deploy import environment
from deploy.kafka.ports import free_port
from deploy.kafka.topics import ensure_topics
from inference.protocol import v2
from inference.protocol.tensors import Tensor
from inference.runtime import RUNTIMES
from streams.reading import Reader
from streams.stage import Record
from streams.topics import Topic, Topics
from tests import secured
from tests.inference.serving import ROOT, Server, eventually, predictor
from tests.secured import PASSWORDS, Secured

CALLS = 60
PROBE = {"K-Network-Probe": "queue"}


@dataclass(frozen=True)
class Agent:
    """A running logger."""

    url: str
    process: subprocess.Popen[bytes]
    log: Path

    def stop(self) -> str:
        """Stop it as a kubelet does; give its whole log."""
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(60) in {0, 1}
        return self.log.read_text()


@contextmanager
def agent(folder: Path, component_port: int, *words: str, **variables: str) -> Iterator[Agent]:
    """Run a logger with the words that KServe's controller gives to its agent, and others."""
    port = free_port()
    command = [
        sys.executable, "-m", "deploy.cli", "logger", "--source-uri", "", "--log-mode", "all", "--inference-service",
        "iris", "--namespace", "default", "--endpoint", "", "--component", "predictor", "--logger-tls-skip-verify",
        "false", "--component-port", str(component_port), "--host", "127.0.0.1", "-port", str(port), *words,
    ]  # fmt: skip
    log = folder / "agent.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, cwd=ROOT, stdout=output, stderr=output, env=environment.inherited() | variables
        )  # fmt: skip
    try:
        eventually(lambda: "logger ready" in log.read_text() or process.poll() is not None, "the ready line")
        assert process.poll() is None, log.read_text()
        yield Agent(f"http://127.0.0.1:{port}", process, log)
    finally:
        process.kill()
        process.wait()


@dataclass(frozen=True)
class Request:
    """One call of a client."""

    path: str
    body: bytes
    headers: dict[str, str]


def requests() -> list[Request]:
    """Give calls of both protocols, some with rows that the model refuses."""
    found = []
    for number in range(CALLS):
        rows = np.round(np.random.default_rng(number).uniform(0, 8, (number % 3 + 1, 4)), 2)
        headers = {"content-type": "application/json", "x-request-id": f"r-{number}"}
        kind = number % 4
        if kind < 2:
            content: Any = rows.tolist() if number % 10 else [["no", "numbers", "at", "all"]]
            found.append(Request("/v1/models/m:predict", json.dumps({"instances": content}).encode(), headers))
            continue
        request = v2.InferRequest(inputs=(Tensor.of("input-0", rows),), id=f"id-{number}")
        body, length = v2.encode_request(request, binary=kind == 3)
        if length is not None:
            headers |= {"content-type": "application/octet-stream", "inference-header-content-length": str(length)}
        found.append(Request("/v2/models/m/infer", body, headers))
    return found


async def answers(url: str, calls: Sequence[Request], at_once: int = CALLS) -> list[tuple[int, Any, str]]:
    """Make the calls, so many at once; give status, content and request id of each answer."""
    async with httpx.AsyncClient(base_url=url, timeout=60, limits=httpx.Limits(max_connections=at_once)) as client:

        async def one(call: Request) -> tuple[int, Any, str]:
            found = await client.post(call.path, content=call.body, headers=call.headers)
            return found.status_code, found.json(), found.headers.get("x-request-id", "")

        return await asyncio.gather(*(one(call) for call in calls))


def records(kafka: str, topic: str, count: int) -> list[Record]:
    """Read so many records of a topic with one partition."""
    reader = Reader(kafka)
    eventually(lambda: reader.bounds(topic, 0)[1] >= count, f"{count} records")
    return reader.read(topic, 0, *reader.bounds(topic, 0))


@pytest.fixture(scope="module", name="model")
def _model(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("predictor")
    (folder / "model").mkdir()
    RUNTIMES.find("sklearn").example(folder / "model")
    with predictor(folder / "model", folder) as found:
        yield found


def port_of(model: Server) -> int:
    """Give the port of a predictor."""
    return int(model.url.rpartition(":")[2])


@pytest.mark.kafka
@pytest.mark.e2e
def test_the_batcher_before_the_real_predictor(kafka: str, topics: Topics, tmp_path: Path, model: Server) -> None:
    """Of V1, V2 and binary calls at once, each has what the predictor gives to it alone, ids included.

    The predictor is asked far less often, and the log holds what clients sent and got, never a batch.
    """
    ensure_topics(kafka, (Topic(topics.payloads, 1, {}),))
    calls = requests()
    words = (
        "--log-url", f"kafka://{kafka}/{topics.payloads}", "--enable-batcher", "--max-batchsize=16",
        "--max-latency", "1000",
    )  # fmt: skip
    alone = asyncio.run(answers(model.url, calls, at_once=1))
    with agent(tmp_path, port_of(model), *words) as logger:
        together = asyncio.run(answers(logger.url, calls))
        logged = records(kafka, topics.payloads, 2 * CALLS)
        log = logger.stop()
    drained = re.search(r"batcher drained: (\d+) calls, (\d+) of them joined into (\d+) batches", log)

    assert [found[:2] for found in together] == [found[:2] for found in alone]
    assert {found[0] for found in alone} == {200, 400}
    assert [found[2] for found in together] == [call.headers["x-request-id"] for call in calls]
    assert drained is not None
    assert int(drained[1]) == CALLS
    assert int(drained[2]) > CALLS / 2
    assert int(drained[3]) < CALLS / 4
    assert len(logged) == 2 * CALLS
    bodies = {(record.key, record.value) for record in logged if dict(record.headers)["ce_type"] == _REQUEST}
    assert bodies == {(call.headers["x-request-id"].encode(), call.body) for call in calls}
    statuses = [dict(record.headers)["ce_statuscode"] for record in logged if _is_response(record)]
    assert Counter(statuses) == Counter(str(found[0]).encode() for found in alone)


_REQUEST = b"org.kubeflow.serving.inference.request"


def _is_response(record: Record) -> bool:
    return dict(record.headers)["ce_type"] != _REQUEST


@pytest.mark.e2e
def test_probe_and_batcher_without_a_log(tmp_path: Path, model: Server) -> None:
    """As KServe passes them for a service that only batches: no sink.

    The probe says what its own port says; the batcher is killed and comes back, calls go on, and the page counts on.
    """
    with socket.create_server(("127.0.0.1", 0)) as probed:
        port = probed.getsockname()[1]
        probe = json.dumps({"tcpSocket": {"port": port}, "periodSeconds": 10, "timeoutSeconds": 1})
        page = free_port()
        words = ("--enable-batcher", "true", "-max-latency=1", "--log-url", "", "--metrics-port", str(page))
        with agent(tmp_path, port_of(model), *words, SERVING_READINESS_PROBE=probe) as logger:
            ready = httpx.get(logger.url, headers=PROBE, timeout=60)
            before = asyncio.run(answers(logger.url, requests()[:10]))
            old = _named(logger.process.pid, "batcher")
            assert old
            os.kill(old, signal.SIGKILL)
            eventually(lambda: _named(logger.process.pid, "batcher") not in {0, old}, "a new batcher")
            after = asyncio.run(answers(logger.url, requests()[:10]))
            counted = {"sidelight_batcher_calls_total 20.0", "sidelight_batcher_waiting 0.0"}
            eventually(lambda: counted <= set(_page(page).splitlines()), "the batcher's counts")
            probed.close()
            gone = httpx.get(logger.url, headers=PROBE, timeout=60)
            log = logger.stop()

    assert (ready.status_code, ready.text) == (200, "queue")
    assert before == after
    assert gone.status_code == 503
    assert f"127.0.0.1:{port}: " in gone.json()["error"]
    assert "shipper" not in log


def _named(parent: int, name: str) -> int:
    for child in Path(f"/proc/{parent}/task/{parent}/children").read_text().split():
        # One may end while it is looked at.
        with contextlib.suppress(OSError):
            if Path(f"/proc/{child}/comm").read_text().strip() == name:
                return int(child)
    return 0


def _page(port: int) -> str:
    """Read the metrics page; nothing as long as nobody answers."""
    try:
        return httpx.get(f"http://127.0.0.1:{port}/metrics", timeout=60).text
    except httpx.TransportError:
        return ""


def test_an_exec_probe_ends_the_start() -> None:
    """It cannot be run from here, and the log says so in one sentence."""
    done = _started(SERVING_READINESS_PROBE='{"exec": {"command": ["true"]}}')

    assert done.returncode == 2
    assert "SERVING_READINESS_PROBE: exec: a command in the model's container cannot be run" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("--kafka-ca-file", "/gone/ca.pem"), "Kafka credentials: ssl.ca.location: /gone/ca.pem: no such file"),
        (("--logger-ca-cert-file", "/gone/ca.pem"), "--logger-ca-cert-file: /gone/ca.pem: no such file"),
        (("--kafka-sasl-mechanism", "PLAIN"), "SASL PLAIN needs a user name file and a password file"),
    ],
)
def test_missing_authorities_end_the_start(words: tuple[str, ...], expected: str) -> None:
    """Never a fallback to others than the user named."""
    done = _started(*words)

    assert done.returncode == 2
    assert expected in done.stderr


def _started(*words: str, **variables: str) -> subprocess.CompletedProcess[str]:
    command = [
        sys.executable, "-m", "deploy.cli", "logger", "--log-url", "kafka://127.0.0.1:1", "--host", "127.0.0.1",
        "--port", str(free_port()), *words,
    ]  # fmt: skip
    given = environment.inherited() | variables
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False, env=given)


@pytest.fixture(scope="module", name="broker")
def _broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    with secured.kafka(tmp_path_factory.mktemp("secured")) as found:
        yield found


@pytest.mark.kafka
@pytest.mark.e2e
def test_passwords_change_under_way(broker: Secured, topics: Topics, tmp_path: Path, model: Server) -> None:
    """Logger and assembler over TLS with a password; user and password change between calls.

    Every event arrives and is paired, no process is started again, and no secret is in any log.
    """
    ensure_topics(broker.open, topics.declared(1))
    flags = _credentials(broker, tmp_path, "alice")
    calls = [call for call in requests() if call.path.startswith("/v1") and b"no" not in call.body]
    page = free_port()
    assembler = [
        sys.executable, "-m", "deploy.cli", "assembler", "--kafka", broker.sasl, "--prefix", topics.prefix,
        "--metrics-port", str(page), *flags,
    ]  # fmt: skip
    url = f"kafka://{broker.sasl}/{topics.payloads}"
    with (
        agent(tmp_path, port_of(model), "--log-url", url, *flags) as logger,
        (tmp_path / "assembler.log").open("wb") as output,
    ):
        process = subprocess.Popen(assembler, cwd=ROOT, stdout=output, stderr=output)
        try:
            asyncio.run(answers(logger.url, calls))
            eventually(lambda: "assigned [0]" in (tmp_path / "assembler.log").read_text(), "the assembler")
            _credentials(broker, tmp_path, "bob")
            eventually(
                lambda: (
                    "a new producer takes over" in logger.log.read_text()
                    and "a new host goes on" in (tmp_path / "assembler.log").read_text()
                ),
                "the new credentials",
            )
            again = [replace(call, headers=call.headers | {"x-request-id": f"2-{at}"}) for at, call in enumerate(calls)]
            asyncio.run(answers(logger.url, again))
            records(broker.open, topics.payloads, 4 * len(calls))
            eventually(lambda: _paired(page) == 4 * len(calls), "the pairs")
            log = logger.stop()
        finally:
            process.terminate()
            code = process.wait(60)
    logs = log + (tmp_path / "assembler.log").read_text()

    assert code == 0
    assert f"{4 * len(calls)} events captured, 0 recovered, {4 * len(calls)} delivered, 0 spooled, dropped {{}}" in log
    assert "is started again" not in log
    assert not any(password in logs for password in PASSWORDS.values())


def _credentials(broker: Secured, folder: Path, name: str) -> tuple[str, ...]:
    for kind, text in (("password", PASSWORDS[name]), ("username", name)):
        (folder / f"{kind}.new").write_text(text)
        (folder / f"{kind}.new").replace(folder / kind)
    return (
        "--kafka-ca-file", str(broker.authority.file), "--kafka-sasl-mechanism", "PLAIN",
        "--kafka-username-file", str(folder / "username"), "--kafka-password-file", str(folder / "password"),
    )  # fmt: skip


def _paired(page: int) -> float:
    return sum(float(line.rpartition(" ")[2]) for line in _page(page).splitlines() if 'counter="paired"' in line)


@pytest.mark.kafka
@pytest.mark.e2e
def test_kserves_own_events(kafka: str, topics: Topics, tmp_path: Path, model: Server) -> None:
    """`--events kserve`: one id for both events, nothing but KServe's attributes, and no response unless it was 200."""
    ensure_topics(kafka, (Topic(topics.payloads, 1, {}),))
    calls = requests()
    words = ("--log-url", f"kafka://{kafka}/{topics.payloads}", "--events", "kserve")
    with agent(tmp_path, port_of(model), *words) as logger:
        found = asyncio.run(answers(logger.url, calls))
        good = sum(status == 200 for status, _, _ in found)
        logged = records(kafka, topics.payloads, CALLS + good)
        log = logger.stop()
    ids = Counter(dict(record.headers)["ce_id"] for record in logged)

    assert 0 < good < CALLS
    assert len(logged) == CALLS + good
    assert Counter(ids.values()) == {2: good, 1: CALLS - good}
    assert {name for record in logged for name, _ in record.headers} == {
        "ce_specversion", "ce_id", "ce_source", "ce_type", "ce_time", "ce_inferenceservicename", "ce_namespace",
        "ce_component", "ce_endpoint", "ce_metadata", "ce_recordedtime", "content-type",
    }  # fmt: skip
    assert f"{CALLS + good} delivered, 0 spooled, dropped {{}}, {CALLS - good} unwanted" in log
