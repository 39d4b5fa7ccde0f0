"""One payload's whole way, as a user goes it: `sidelight up`, requests, status, payloads, alerts, explain, Ctrl-C."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import xgboost

from deploy import environment
from tests.e2e import traffic

pytestmark = [pytest.mark.kafka, pytest.mark.e2e, pytest.mark.timeout(900)]

SERVICE = """\
apiVersion: serving.kserve.io/v1beta1
kind: InferenceService
metadata: {name: credit, namespace: default}
spec:
  predictor:
    minReplicas: 1
    model: {modelFormat: {name: xgboost}, storageUri: file://model}
    logger: {mode: all, url: http://default-broker}
  explainer:
    containers: [{name: kserve-container, image: sidelight/explainer, args: [--background, "10"]}]
---
"""


class Installation:
    """A running `sidelight up`, and the command in the same home."""

    def __init__(self, folder: Path) -> None:
        self._environment = environment.inherited() | {"SIDELIGHT_HOME": str(folder / "home"), "OMP_NUM_THREADS": "1"}
        jars = environment.home() / "kafka"
        (folder / "home").mkdir()
        (folder / "home" / "kafka").symlink_to(jars)
        self.log = folder / "up.log"
        self._command = (sys.executable, "-m", "deploy.cli")
        with self.log.open("wb") as output:
            self.process = subprocess.Popen(
                (*self._command, "up", str(folder / "service.yaml"), "--data", str(folder / "data")),
                stdout=output, stderr=output, env=self._environment,
            )  # fmt: skip

    def call(self, *words: str, good: tuple[int, ...] = (0,)) -> str:
        """Run a subcommand; give its output."""
        command = (*self._command, *words)
        run = subprocess.run(command, capture_output=True, text=True, env=self._environment, timeout=180, check=False)

        assert run.returncode in good, run.stderr
        return run.stdout

    def status(self) -> dict[str, Any]:
        """Give the status as JSON; the exit code is 1 while a process is down."""
        found: dict[str, Any] = json.loads(self.call("status", "--json", good=(0, 1)))
        return found

    def ledger(self, condition: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """Wait for a status in which a condition holds; give its ledger. A page that is late is missing in one."""
        found: list[dict[str, Any]] = []

        def holds() -> bool:
            found.append(self.status())
            return condition(found[-1])

        until(holds)
        ledger: dict[str, Any] = found[-1]["ledger"]
        return ledger


def until(condition: Callable[[], bool], timeout_s: float = 180.0) -> None:
    """Wait for what has to come."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.2)


def settled(status: dict[str, Any], events: int) -> bool:
    """Tell whether so many events have gone all the way."""
    ledger = status["ledger"]
    taken = ledger["captured"], ledger["payloads"], ledger["assembler"].get("in")
    return (
        taken == (events, events, events)
        and all(law["holds"] for law in status["laws"])
        and not ledger["detectors"].get("waiting", 1)
    )


@pytest.fixture
def up(tmp_path: Path, kafka: str) -> Iterator[Installation]:
    """Train a small model, write the manifests, bring everything up; `kafka` sees to it that the jars are there."""
    assert kafka
    people = traffic.people(np.random.default_rng(1), 2_000, shifted=False)
    model = xgboost.XGBRegressor(n_estimators=5, max_depth=3, n_jobs=1)
    model.fit(people[["age", "income", "sex"]].to_numpy(), people["score"].to_numpy())
    (tmp_path / "model").mkdir()
    model.save_model(tmp_path / "model" / "model.json")
    traffic.write_monitor(tmp_path)
    (tmp_path / "service.yaml").write_text(SERVICE + traffic.MONITOR)
    installation = Installation(tmp_path)
    until(lambda: "next:" in installation.log.read_text() or installation.process.poll() is not None)

    assert installation.process.poll() is None, installation.log.read_text()
    yield installation
    if installation.process.poll() is None:
        installation.process.send_signal(signal.SIGINT)
        installation.process.wait(180)


def test_one_payloads_whole_way(up: Installation) -> None:
    """Requests are answered, logged, paired, analysed, alerted on and explained; nothing is lost; Ctrl-C drains."""
    url = up.status()["run"]["services"]["default/credit"]
    shifted = traffic.people(np.random.default_rng(2), 3_000, shifted=True)[["age", "income", "sex"]].to_numpy()
    with httpx.Client(base_url=url, timeout=60) as client:
        for at in range(0, len(shifted), 10):
            body = {"instances": shifted[at : at + 10].tolist()}
            assert client.post("/v1/models/credit:predict", json=body).status_code == 200
        named = client.post(
            "/v1/models/credit:predict", json={"instances": [[60.0, 300.0, 2.0]]}, headers={"x-request-id": "find-me"}
        )
        broken = client.post("/v1/models/credit:predict", content=b"{broken")
    assert named.headers["x-request-id"] == "find-me"
    assert broken.status_code == 400

    # While some are on their way all laws may hold, too: of what has arrived.
    ledger = up.ledger(lambda status: settled(status, 2 * 302))
    alerts = [json.loads(line) for line in up.call("alerts", "--json").splitlines()]
    payloads = up.call("payloads", "--service", "default/credit").splitlines()
    explained = json.loads(up.call("explain", "--event", "find-me", "--json"))

    assert ledger["captured"] == ledger["payloads"] == 2 * 302
    assert ledger["assembler"]["failed"] == 1
    assert ledger["detectors"]["released"] == 3_001
    assert {"drift", "mix"} <= {alert["detector"] for alert in alerts}
    assert all(alert["data"]["evidence"] for alert in alerts)
    assert len(payloads) == 2 * 302
    assert sum("400" in line for line in payloads) >= 1
    (explanation,) = explained["explanations"]
    assert explanation["method"] == "exact"
    assert sum(explanation["values"][0]) + explanation["base_values"][0] == pytest.approx(explained["predictions"][0])

    later = up.ledger(
        lambda status: status["ledger"]["assembler"].get("synthetic", 0) > 0 and status["ledger"]["detectors"] != {}
    )
    assert later["detectors"]["released"] == 3_001
    up.process.send_signal(signal.SIGINT)
    assert up.process.wait(180) == 0, up.log.read_text()
    assert "drained" in up.log.read_text()


def test_a_killed_process_comes_back(up: Installation) -> None:
    """Kill -9 of the assembler: it is started again by itself, takes up its state, and no event is missing."""
    status = up.status()
    url = status["run"]["services"]["default/credit"]
    with httpx.Client(base_url=url, timeout=60) as client:
        for _ in range(20):
            client.post("/v1/models/credit:predict", json={"instances": [[40.0, 30.0, 1.0]]})
        (assembler,) = [p for p in status["run"]["processes"] if p["name"] == "assembler-0"]
        os.kill(assembler["pid"], signal.SIGKILL)
        for _ in range(20):
            client.post("/v1/models/credit:predict", json={"instances": [[40.0, 30.0, 1.0]]})

    until(lambda: up.status()["ledger"]["assembler"].get("paired", 0) == 80)
    (again,) = [p for p in up.status()["run"]["processes"] if p["name"] == "assembler-0"]
    assert again["restarts"] == 1
    assert again["pid"] != assembler["pid"]
