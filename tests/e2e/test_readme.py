"""The README's own commands, run as they stand there, and the demo, on fewer people."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from deploy import environment
from deploy.kafka.ports import free_port
from tests.documented import ROOT, blocks, commands
from tests.inference.serving import eventually

pytestmark = [pytest.mark.kafka, pytest.mark.e2e, pytest.mark.timeout(900)]
PEOPLE = 24_000


class Terminal:
    """A shell as the README's reader has it: the virtual environment is active, and nothing ran before."""

    def __init__(self, home: Path) -> None:
        (home / "kafka").symlink_to(environment.home() / "kafka")
        path = f"{Path(sys.executable).parent}{os.pathsep}{environment.text('PATH')}"
        self.environment = environment.inherited() | {"SIDELIGHT_HOME": str(home), "PATH": path, "COLUMNS": "160"}

    def __call__(self, line: str, timeout_s: float = 300.0) -> str:
        """Type a line and wait; give what it says."""
        run = subprocess.run(  # noqa: S602 - the shell is the point
            line, shell=True, cwd=ROOT, env=self.environment, capture_output=True, text=True, timeout=timeout_s,
            check=False,
        )  # fmt: skip

        assert run.returncode == 0, f"{line}\n{run.stdout}{run.stderr}"
        return run.stdout

    def start(self, line: str, log: Path) -> subprocess.Popen[bytes]:
        """Type a line that runs on."""
        with log.open("wb") as output:
            return subprocess.Popen(  # noqa: S602 - as above
                f"exec {line}", shell=True, cwd=ROOT, env=self.environment, stdout=output, stderr=output
            )


@pytest.fixture
def terminal(tmp_path: Path, kafka: str) -> Terminal:
    """Give a terminal; `kafka` sees to it that the jars are there."""
    assert kafka
    (tmp_path / "home").mkdir()
    return Terminal(tmp_path / "home")


def readme(begins: str) -> str:
    """Give the README's command line that begins so."""
    lines = [line for block in blocks((ROOT / "README.md").read_text()) for line in commands(block)]
    (found,) = (line for line in lines if line.startswith(begins))
    return found


@pytest.mark.skipif(shutil.which("curl") is None, reason="the README's reader has curl")
def test_the_readme_from_the_first_line_to_the_last(terminal: Terminal, tmp_path: Path) -> None:
    """Train, bring up, ask, look on, explain, Ctrl-C: as the README has it, but for the port, which may be taken."""
    port, log = free_port(), tmp_path / "up.log"
    terminal(readme("python examples/employment/train.py"))
    line = readme("sidelight up examples/employment/service.yaml --port")
    assert " --port 8080" in line
    process = terminal.start(line.replace("8080", str(port)), log)
    try:
        eventually(lambda: b"next:" in log.read_bytes() or process.poll() is not None, "the run")
        asked = terminal(readme("curl localhost:8080").replace("8080", str(port)).replace("curl", "curl -sS --fail"))
        eventually(lambda: terminal("sidelight payloads").count("[first]") == 2, "the payloads")
        payloads = terminal(readme("sidelight payloads"))
        status = terminal(readme("sidelight status"))
        following = terminal.start(readme("sidelight alerts --follow"), tmp_path / "alerts.log")
        eventually(lambda: b"following" in (tmp_path / "alerts.log").read_bytes(), "the alerts")
        following.send_signal(signal.SIGINT)
        explained = terminal(readme("sidelight explain"))
        process.send_signal(signal.SIGINT)
        code = process.wait(90)
    finally:
        process.kill()
        process.wait()

    assert re.fullmatch(r'{"predictions":\[[0-9.]+\]}', asked)
    assert payloads.count("/v1/models/employment:predict") == 2
    assert "logger-employment" in status
    assert following.wait(60) == 0
    assert "request first of default/employment" in explained
    assert code == 0, log.read_text()
    assert "drained" in log.read_text()


def test_the_demo(terminal: Terminal) -> None:
    """On the first people of 2016: alerts come, the farthest outlier is explained, every law holds, nothing is lost."""
    said = terminal(f"python examples/employment/demo.py --people {PEOPLE}", 600)
    laws = re.findall(r"(holds|BROKEN)", said)

    assert re.search(rf"people that the detectors saw\W+{PEOPLE:,}\b", said)
    assert re.search(r"outlier alerts opened\W+1\b", said)
    assert "kernel SHAP" in said
    assert laws == ["holds"] * 5
    assert "An event was lost" not in said
