"""A local run: it starts whole or not at all, there is one of a name, and it drains in the order of the payloads."""

from __future__ import annotations

from os import getpid
from pathlib import Path

import httpx
import pytest

from deploy import runfile
from deploy.errors import ProcessFailed, UserError
from deploy.kafka.topics import partitions_of
from deploy.local import LocalRun, LocalSettings
from deploy.runfile import Run
from inference.runtime import RUNTIMES
from streams.reading import Reader
from streams.topics import Topics
from tests.deploy.commands.test_up import ROW, SERVICE


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give a folder with a service, which is the home, too."""
    monkeypatch.setenv("SIDELIGHT_HOME", str(tmp_path))
    (tmp_path / "model").mkdir()
    (tmp_path / "service.yaml").write_text(SERVICE)
    return tmp_path


def local(folder: Path, said: list[str], kafka: str = "127.0.0.1:1", prefix: str = "t") -> LocalRun:
    """Make a run on a broker that is there."""
    return LocalRun(LocalSettings(files=(folder / "service.yaml",), kafka=kafka, prefix=prefix), said.append)


def children() -> set[int]:
    """Give the processes that this one has started and not yet waited for."""
    return {int(pid) for task in Path("/proc/self/task").iterdir() for pid in (task / "children").read_text().split()}


@pytest.mark.kafka
def test_it_drains_in_the_order_of_the_payloads(kafka: str, topics: Topics, folder: Path) -> None:
    """Requests end first, then what they left in the topics is worked off; nothing of the run stays behind."""
    RUNTIMES.find("sklearn").example(folder / "model")
    before, said = children(), list[str]()
    run = local(folder, said, kafka, topics.prefix)
    found = run.start()
    noted = runfile.current()
    answer = httpx.post(f"{found.services['shop/iris']}/v1/models/iris:predict", json={"instances": [ROW]}, timeout=60)
    run.drain()
    drained = [line for line in said if "drained" in line]
    reader = Reader(kafka)
    rows = sum(reader.bounds(topics.observations, at)[1] for at in range(partitions_of(kafka, topics.observations)))

    assert answer.status_code == 200
    assert noted == found
    assert drained == ["logger-iris drained", "predictor-iris drained", "assembler-0 drained", "drained"]
    assert rows > 0
    assert runfile.running() == []
    assert not children() - before


@pytest.mark.kafka
def test_a_start_that_fails_leaves_nothing_behind(kafka: str, topics: Topics, folder: Path) -> None:
    """The model cannot be read: its process's own words, no process left, no run to be found."""
    (folder / "model" / "model.joblib").write_bytes(b"no model")
    before = children()
    with pytest.raises(ProcessFailed, match="predictor-iris: ended with code"):
        local(folder, [], kafka, topics.prefix).start()

    assert runfile.running() == []
    assert not children() - before


def test_a_model_that_is_missing_starts_nothing(folder: Path) -> None:
    """Said before a broker is asked for: the one that is named here does not exist."""
    (folder / "model").rmdir()
    with pytest.raises(UserError, match="train the model first"):
        local(folder, []).start()


def test_one_run_of_a_name(folder: Path) -> None:
    """A second one would take the first one's folder and file."""
    Run(name="local", pid=getpid(), kafka="a:1", prefix="t").write()
    with pytest.raises(UserError, match="'local' is already up"):
        local(folder, []).start()


def test_no_service_is_no_run(folder: Path) -> None:
    """Monitors alone watch nothing here."""
    (folder / "service.yaml").write_text("")
    with pytest.raises(UserError, match=r"no InferenceService in .*service\.yaml"):
        local(folder, [])
