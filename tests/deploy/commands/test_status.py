"""`sidelight status`: what runs, what it counted, whether the sums agree; and what is shown when something is down."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
from dataclasses import asdict
from os import getpid
from pathlib import Path

import pytest

from deploy.kafka.ports import free_port
from deploy.runfile import Process, Run
from streams.topics import Topics
from tests.deploy.commands.calling import Sidelight, lines_of
from tests.deploy.laying import Laid, create, event, lay
from tests.deploy.serving import answering

LOGGER_PAGE = b"""\
sidelight_logger_captured_total 3
sidelight_logger_recovered_total 1
sidelight_logger_spooled 1
kserve_logger_events_sent_total 2
sidelight_logger_in_flight 0
kserve_logger_events_dropped_total{reason="queue-full"} 1
"""
ASSEMBLER_PAGE = b"""\
sidelight_stage_total{stage="assembler",counter="in",partition="0"} 2
sidelight_stage_total{stage="assembler",counter="waiting",partition="0"} 1
"""


def write_run(home: Path, kafka: str, prefix: str, processes: dict[str, tuple[int, str]]) -> None:
    """Note a run of these processes, each with its pid and metrics page."""
    found = tuple(
        Process(name=name, pid=pid, command=("x",), log="", restarts=2, metrics=page)
        for name, (pid, page) in processes.items()
    )
    run = Run(
        name="local", pid=getpid(), kafka=kafka, prefix=prefix, services={"default/a": "http://a"}, processes=found
    )
    (home / "run").mkdir()
    (home / "run" / "local.json").write_text(json.dumps(asdict(run)))


def over() -> int:
    """Give the pid of a process that has ended."""
    process = subprocess.Popen((sys.executable, "-c", ""))
    process.wait()
    return process.pid


@pytest.mark.kafka
def test_processes_counters_and_laws(sidelight: Sidelight, tmp_path: Path, kafka: str, topics: Topics) -> None:
    """Each law with its two sums, and the one that does not hold is marked; JSON has the same facts."""
    create(kafka, topics.payloads)
    lay(kafka, topics.payloads, [Laid(event("a")), Laid(event("b"))])
    with answering(LOGGER_PAGE) as logger, answering(ASSEMBLER_PAGE) as assembler:
        pages = {"logger-a": (getpid(), logger.url), "assembler-0": (getpid(), assembler.url)}
        write_run(tmp_path, kafka, topics.prefix, pages)
        shown = "\n".join(lines_of(sidelight("status")))
        facts = json.loads(sidelight("status", "--json").stdout)

    assert "default/a                   http://a" in shown
    assert f"  logger-a                  up    pid {getpid():<9}restarts 2" in shown
    assert "captured 3, delivered 2, in flight 0\n           recovered 1, spooled 1, unwanted 0\n" in shown
    assert "           dropped 1 queue-full; 0 kept without body\n" in shown
    assert "topics     2 payloads, 0 dead letters\nassembler  in 2, waiting 1\ndetectors  nothing yet\n" in shown
    assert "  ok  logger: captured + recovered = delivered + in flight + spooled + unwanted + dropped: 4 = 4" in shown
    assert "  ... assembler: in = paired + expired + evicted + dead-lettered + duplicates + waiting: 2 = 1" in shown
    assert [law["holds"] for law in facts["laws"]] == [True, True, True, False, True]
    assert facts["ledger"]["assembler"] == {"in": 2, "waiting": 1}
    assert (facts["down"], facts["problem"]) == ([], "")


def test_a_run_in_trouble_is_shown(sidelight: Sidelight, tmp_path: Path) -> None:
    """Kafka is away and a process has died: which one, and that no sums can be told; exit code 1, no traceback."""
    kafka = f"127.0.0.1:{free_port()}"
    write_run(tmp_path, kafka, "inference", {"logger-a": (over(), ""), "predictor-a": (getpid(), "")})
    run = sidelight("status")

    assert run.returncode == 1
    assert "  logger-a                  down  " in run.stdout
    assert "  predictor-a               up    " in run.stdout
    assert run.stdout.splitlines()[-1].startswith(f"Kafka at {kafka} does not answer: ")
    assert "captured" not in run.stdout
    assert run.stderr == ""


def test_nothing_running_is_one_line(sidelight: Sidelight) -> None:
    """What to do, and exit code 2."""
    run = sidelight("status", "--json")

    assert (run.returncode, run.stdout) == (2, "")
    assert run.stderr.startswith("sidelight status: nothing is running here; start with `sidelight up service.yaml`")


def test_ctrl_c_is_no_traceback(sidelight: Sidelight, tmp_path: Path) -> None:
    """Interrupted while it waits for a process that hangs: silence, and the exit code that shells expect."""
    with socket.create_server(("127.0.0.1", 0)) as hung:
        page = f"http://127.0.0.1:{hung.getsockname()[1]}"
        write_run(tmp_path, "127.0.0.1:1", "inference", {f"p{at}": (getpid(), page) for at in range(20)})
        with sidelight.start("status") as process:
            connection, _ = hung.accept()
            process.send_signal(signal.SIGINT)
            said = process.communicate(timeout=30)
            connection.close()

    assert (process.returncode, *said) == (130, "", "")
