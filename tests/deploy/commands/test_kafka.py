"""`sidelight kafka` as people run it: in processes of its own, with a network that does not work."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from deploy import environment
from deploy.kafka import broker, jars


class Commands:
    """Runs `sidelight kafka` with a home of its own, whose jars are cached, and no repository within reach."""

    def __init__(self, home: Path) -> None:
        config = home / "jgo.conf"
        config.write_text("[repositories]\ncentral = http://127.0.0.1:1/\n", encoding="utf-8")
        self.home = home
        self.environment = environment.inherited() | {"SIDELIGHT_HOME": str(home), "JGO_CONFIG_FILE": str(config)}

    def command(self, *words: str) -> list[str]:
        """Give the command line."""
        return [sys.executable, "-m", "deploy.cli", "kafka", *words]

    def __call__(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run to the end."""
        # Files, not pipes: the broker outlives the command, and the end of a pipe would be waited for.
        out, err = self.home / "out", self.home / "err"
        with out.open("wb") as stdout, err.open("wb") as stderr:
            code = subprocess.call(self.command(*words), env=self.environment, stdout=stdout, stderr=stderr)
        return subprocess.CompletedProcess(words, code, out.read_text("utf-8"), err.read_text("utf-8"))


@pytest.fixture
def kafka_command(tmp_path: Path) -> Iterator[Commands]:
    """Give the command in a home of its own, and stop what it started."""
    jars.class_path(environment.home() / "kafka", print)
    version = f"kafka-{jars.KAFKA_VERSION}"
    shutil.copytree(environment.home() / "kafka" / version / "jars", tmp_path / "kafka" / version / "jars")
    yield Commands(tmp_path)
    broker.stop(tmp_path / "kafka" / "broker", grace_s=5)


def until(condition: Callable[[], bool]) -> None:
    """Wait for something that will come."""
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.02)


@pytest.mark.kafka
def test_start_status_stop_without_a_network(kafka_command: Commands) -> None:
    """A filled cache is all that a start needs; status tells the address to programs; a second start is refused."""
    before = kafka_command("status", "--json")
    started = kafka_command("start")
    status = kafka_command("status", "--json")
    again = kafka_command("start")
    spoken = kafka_command("status")
    stopped = kafka_command("stop")
    after = kafka_command("status")
    facts = json.loads(status.stdout)
    folder = kafka_command.home / "kafka" / "broker"

    assert before.returncode == after.returncode == 3
    assert json.loads(before.stdout) == {"running": False, "answers": False, "folder": str(folder), "cluster": ""}
    assert started.returncode == 0, started.stderr
    assert facts["running"] is True
    assert facts["answers"] is True
    assert facts["cluster"] == broker.cluster_id(folder)
    assert started.stdout == spoken.stdout == f"Kafka at {facts['bootstrap']} (pid {facts['pid']}, data in {folder})\n"
    assert "starting Apache Kafka" in started.stderr
    assert again.returncode == 2
    assert again.stderr.splitlines()[-1].startswith(f"sidelight kafka: {folder}: Kafka at {facts['bootstrap']}")
    assert stopped.stdout == "stopped\n"
    assert after.stdout == f"no Kafka runs in {folder}\n"


@pytest.mark.kafka
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_foreground_stops_its_broker(kafka_command: Commands, number: signal.Signals) -> None:
    """Under a service manager: the address comes on standard output when it is ready, a signal ends both, code 0."""
    folder = kafka_command.home / "kafka" / "broker"
    command = kafka_command.command("start", "--foreground", "--json")
    with subprocess.Popen(command, env=kafka_command.environment, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        facts = json.loads(process.stdout.readline())
        assert facts["answers"] is True
        process.send_signal(number)
        assert process.wait(60) == 0

    assert broker.running(folder) is None
    assert not broker.answers(facts["bootstrap"], 0.5)


@pytest.mark.kafka
def test_a_killed_foreground_takes_its_broker_along(kafka_command: Commands) -> None:
    """Nothing is left behind by a SIGKILL to the command, and the data come up again."""
    folder = kafka_command.home / "kafka" / "broker"
    command = kafka_command.command("start", "--foreground", "--json")
    with subprocess.Popen(command, env=kafka_command.environment, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        cluster = json.loads(process.stdout.readline())["cluster"]
        process.kill()
    until(lambda: broker.running(folder) is None)

    assert json.loads(kafka_command("start", "--json").stdout)["cluster"] == cluster


@pytest.mark.kafka
def test_foreground_tells_when_kafka_ends_by_itself(kafka_command: Commands) -> None:
    """A broker that dies ends the command with code 1, so that a service manager starts it again."""
    command = kafka_command.command("start", "--foreground", "--json")
    with subprocess.Popen(
        command, env=kafka_command.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        os.kill(json.loads(process.stdout.readline())["pid"], signal.SIGKILL)
        _, said = process.communicate(timeout=60)

    assert process.returncode == 1
    assert "Kafka ended by itself" in said


@pytest.mark.parametrize("words", [("start", "--java", "/nowhere/java"), ("start", "--port", "70000"), ("restart",)])
def test_mistakes_are_told_in_one_line(kafka_command: Commands, words: tuple[str, ...]) -> None:
    """A wrong argument gives its name and code 2, no traceback, and starts nothing."""
    run = kafka_command(*words)

    assert run.returncode == 2
    assert words[1 if len(words) > 1 else 0] in run.stderr.splitlines()[-1]
    assert "Traceback" not in run.stderr
    assert broker.running(kafka_command.home / "kafka" / "broker") is None
