"""Run files: what is up, for the commands that ask; never half a file, and no run that is over."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from deploy import runfile
from deploy.errors import UserError
from deploy.runfile import Process, Run


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SIDELIGHT_HOME", str(tmp_path))


def a_run(name: str = "local", pid: int | None = None) -> Run:
    """Make a run of this process's."""
    process = Process(name="logger-a", pid=os.getpid(), command=("sidelight", "logger"), log="/log", metrics="http://m")
    return Run(
        name=name, pid=os.getpid() if pid is None else pid, kafka="127.0.0.1:1", prefix="inference",
        services={"default/a": "http://a"}, explainers={"default/a": "http://x"}, processes=(process,),
    )  # fmt: skip


def over() -> int:
    """Give the pid of a process that has ended."""
    process = subprocess.Popen((sys.executable, "-c", ""))
    process.wait()
    return process.pid


def test_a_run_comes_back_as_it_was() -> None:
    """Everything that was written is read again; after the end, nothing."""
    run = a_run()
    run.write()
    found, again = runfile.current(), runfile.running()
    run.remove()
    run.remove()

    assert found == run
    assert again == [run]
    assert runfile.running() == []


def test_the_newest_run_is_the_one_that_is_meant() -> None:
    """With several runs side by side, the one written last comes first, and an update counts."""
    first, second = a_run("first"), a_run("second")
    for at, run in enumerate((first, second)):
        run.write()
        os.utime(run.path, ns=(at, at))
    before = [run.name for run in runfile.running()]
    replace(first, prefix="new").write()

    assert before == ["second", "first"]
    assert runfile.current().prefix == "new"


def test_nothing_here_is_one_clear_sentence() -> None:
    """Before the first run there is not even a folder."""
    with pytest.raises(UserError, match="nothing is running here; start with `sidelight up"):
        runfile.current()


def test_a_run_that_was_killed_is_over() -> None:
    """Its file stays; its process does not, nor does one that only waits to be reaped."""
    a_run(pid=over()).write()
    zombie = subprocess.Popen((sys.executable, "-c", ""))
    os.waitid(os.P_PID, zombie.pid, os.WEXITED | os.WNOWAIT)
    a_run("zombie", pid=zombie.pid).write()
    found = runfile.running()
    zombie.wait()

    assert found == []
    assert runfile.alive(os.getpid())


@pytest.mark.parametrize(
    "text", ["", "{", "null", '"text"', "[]", "{}", '{"name": "x", "pid": 1, "a-later-field": 2}', '{"processes": [1]}']
)
def test_a_file_that_is_none_of_ours_is_passed_over(text: str) -> None:
    """Another version's, or a broken one, hides no other run."""
    a_run().write()
    (runfile.folder() / "other.json").write_text(text)
    (runfile.folder() / "folder.json").mkdir()

    assert runfile.running() == [a_run()]


def test_a_reader_never_sees_half_a_file() -> None:
    """While one process writes again and again, every reading of another is a whole file."""
    run = a_run()
    many = replace(run, processes=run.processes * 200)
    run.write()
    code = (
        "import json, sys, pathlib\npath = pathlib.Path(sys.argv[1])\nprint('ready', flush=True)\n"
        "seen = set()\nwhile len(seen) < 2: seen.add(len(json.loads(path.read_text())['processes']))\n"
        "for _ in range(2000): json.loads(path.read_text())\n"
    )
    with subprocess.Popen((sys.executable, "-c", code, str(run.path)), stdout=subprocess.PIPE) as reader:
        assert reader.stdout is not None
        reader.stdout.readline()
        while reader.poll() is None:
            many.write()
            run.write()

    assert reader.returncode == 0
    assert json.loads(run.path.read_text())["name"] == "local"


def test_a_run_that_ends_while_it_is_listed_is_no_failure() -> None:
    """Files come and go under the reader's hands."""
    code = (
        "import sys, pathlib\nprint('ready', flush=True)\n"
        "while True:\n    path = pathlib.Path(sys.argv[1]); path.write_text('{}'); path.unlink()\n"
    )
    a_run().write()
    fleeting = runfile.folder() / "fleeting.json"
    with subprocess.Popen((sys.executable, "-c", code, str(fleeting)), stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        other.stdout.readline()
        found = {len(runfile.running()) for _ in range(500)}
        other.kill()

    assert found == {1}
