"""One Apache Kafka node in KRaft mode, on loopback, with its data in a folder that outlives it.

The folder holds `data/`, `server.properties`, `ports.json`, `server.log`, `broker.json` (pid, start time and address of
the broker that runs) and `lock`. The broker itself inherits the lock, so that it is held exactly as long as the broker
lives, however it ends. The same folder comes up again with everything that was in it.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import select
import signal
import subprocess
import time
import uuid
from base64 import urlsafe_b64encode
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Final, cast

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from deploy.errors import ProcessFailed, UserError
from deploy.kafka import ports, properties
from deploy.supervisor import end_with_parent, tail

log = logging.getLogger(__name__)

_LINGER_S: Final = 3.0
_JVM: Final = (
    "-Xms128m", "-Xmx512m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-XX:+ExitOnOutOfMemoryError",
    "-Djava.awt.headless=true", "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
)  # fmt: skip
_NAME: Final = "broker"
_KILL_S: Final = 10.0
_PORT_TRIES: Final = 3
_PORT_TAKEN: Final = "Address already in use"
_started: Final[dict[int, subprocess.Popen[bytes]]] = {}
"""Brokers that this process started. They may outlive it; while it lives, it has to reap them."""

ChoosePorts = Callable[[Path, int], tuple[int, int]]
"""Gives client and controller port for a folder and a named client port, which is 0 when none was named."""
free_port = ports.free_port


@dataclass(frozen=True, slots=True, kw_only=True)
class Running:
    """A broker that runs."""

    pid: int
    started: int
    """Start time of the process in kernel ticks: with it, a pid that another program took over is recognised."""
    bootstrap: str


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokerSettings:
    """Where and with what a broker runs."""

    folder: Path
    java: Path
    class_path: str
    port: int = 0
    """Client port on loopback; 0 takes a free one, and keeps it for this folder."""
    ready_s: float = 180.0
    """How long the start may take before it counts as failed."""
    with_parent: bool = False
    """End when the starting process ends; otherwise the broker stays until someone stops it."""


def running(folder: Path) -> Running | None:
    """Tell which broker serves this folder, if one does; a stale file left by a crash does not count."""
    try:
        fields = json.loads((folder / "broker.json").read_text(encoding="utf-8"))
        found = Running(**fields)
    except (OSError, ValueError, TypeError):
        return None
    return found if _start_ticks(found.pid) == found.started else None


def cluster_id(folder: Path) -> str:
    """Give the id of the cluster whose data a folder holds; empty before the first start."""
    try:
        return properties.cluster_id((folder / "data" / "meta.properties").read_text(encoding="utf-8"))
    except OSError:
        return ""


def answers(bootstrap: str, timeout_s: float = 2.0) -> str:
    """Ask for metadata; give the id of the cluster that answers, empty when none does or its broker is not up yet."""
    admin = AdminClient({"bootstrap.servers": bootstrap, "log_level": 0, "reconnect.backoff.max.ms": 200})
    with suppress(KafkaException):
        found = admin.list_topics(timeout=timeout_s)
        # A node that still reads its log answers, but lists no broker. The client's own annotation of the id is None.
        return (cast("str | None", found.cluster_id) or "") if found.brokers else ""
    return ""


def start(
    settings: BrokerSettings, environment: Mapping[str, str], choose_ports: ChoosePorts = ports.choose
) -> Running:
    """Start a broker and wait until it answers a metadata request.

    Raises:
        ProcessFailed: it did not come up; the detail holds the end of Kafka's own log.
        UserError: another broker serves this folder already, the folder cannot be used, or the port is taken.
    """
    folder = settings.folder.absolute()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / "lock").open("a") as lock:
            _take(lock, folder)
            _reap()
            return _start(folder, settings, environment, choose_ports, lock.fileno())
    except OSError as exc:
        raise UserError(f"{folder}: a broker cannot be started there: {exc}") from exc


def stop(folder: Path, grace_s: float = 30.0) -> bool:
    """Stop the broker of this folder, cleanly if it can; say whether there was one.

    Raises:
        ProcessFailed: not even SIGKILL ended it.
    """
    found = running(folder)
    if found is not None:
        # A handle, not the pid: a pid could be another program's by the time that the signal is sent.
        with suppress(ProcessLookupError), _handle(found.pid) as handle:
            if _start_ticks(found.pid) == found.started:
                _end(handle, found.pid, grace_s)
    _reap()
    (folder / "broker.json").unlink(missing_ok=True)
    return found is not None


def _start(
    folder: Path, settings: BrokerSettings, environment: Mapping[str, str], choose_ports: ChoosePorts, lock: int
) -> Running:
    java = (str(settings.java), *_JVM, "-cp", settings.class_path)
    output = folder / "server.log"
    for _ in range(_PORT_TRIES):
        client, controller = choose_ports(folder, settings.port)
        output.write_bytes(b"")
        _format(folder, java, environment, (client, controller))
        (folder / "server.properties").write_text(properties.render("data", client, controller), encoding="utf-8")
        process = _spawn(folder, (*java, "kafka.Kafka", "server.properties"), environment, settings, lock)
        bootstrap = f"{properties.LOOPBACK}:{client}"
        found = Running(pid=process.pid, started=_start_ticks(process.pid) or 0, bootstrap=bootstrap)
        try:
            # Written before it answers: a start that is killed half-way leaves a broker that `stop` can find.
            _note(folder, found)
            problem = _wait(process, bootstrap, cluster_id(folder), settings.ready_s)
        except BaseException:
            _kill(process)
            raise
        if not problem:
            _started[process.pid] = process
            return found
        _kill(process)
        (folder / "broker.json").unlink()
        if _PORT_TAKEN not in output.read_text(encoding="utf-8", errors="replace"):
            break
        log.info("someone else took port %d or %d; trying others", client, controller)
    raise ProcessFailed(_NAME, f"{problem}\n{tail(output)}")


def _format(folder: Path, java: tuple[str, ...], environment: Mapping[str, str], chosen: tuple[int, int]) -> None:
    """Make the data folder where there is none: beside its place and moved there, so that it is whole or absent."""
    data, fresh = folder / "data", folder / "data.new"
    if (data / "meta.properties").exists():
        return
    if data.exists() and any(data.iterdir()):
        raise UserError(f"{data}: has files but no meta.properties, so is no Kafka's data; expected an empty folder")
    for left in fresh.glob("**/*"):
        if left.is_file():
            left.unlink()
    (folder / "format.properties").write_text(properties.render("data.new", *chosen), encoding="utf-8")
    # No dash: at the id's beginning, one in 64 times, the tool would take it for an option.
    cluster = urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=").replace("-", "_")
    words = ("kafka.tools.StorageTool", "format", "--standalone", "-t", cluster, "-c", "format.properties")
    with (folder / "server.log").open("ab") as sink:
        code = subprocess.call(  # noqa: S603 - our own class path and properties
            (*java, *words), cwd=folder, stdin=subprocess.DEVNULL, stdout=sink, stderr=sink, env=dict(environment)
        )
    if code != 0:
        raise ProcessFailed(_NAME, f"its data folder could not be formatted\n{tail(folder / 'server.log')}")
    fresh.replace(data)


def _spawn(
    folder: Path, command: tuple[str, ...], environment: Mapping[str, str], settings: BrokerSettings, lock: int
) -> subprocess.Popen[bytes]:
    with (folder / "server.log").open("ab") as sink:
        return subprocess.Popen(  # noqa: S603 - our own class path and properties
            command, cwd=folder, stdin=subprocess.DEVNULL, stdout=sink, stderr=sink, env=dict(environment),
            start_new_session=True, pass_fds=(lock,),
            preexec_fn=end_with_parent if settings.with_parent else None,  # noqa: PLW1509 - only a system call
        )  # fmt: skip


def _wait(process: subprocess.Popen[bytes], bootstrap: str, cluster: str, ready_s: float) -> str:
    """Wait until the broker answers; give an empty text then, else what went wrong."""
    deadline = time.monotonic() + ready_s
    while process.poll() is None:
        # The cluster's id tells it from another Kafka that took the port.
        if answers(bootstrap, 0.5) == cluster:
            return ""
        if time.monotonic() > deadline:
            return f"did not answer in {ready_s:.0f} s"
    return f"ended with code {process.returncode}"


def _note(folder: Path, found: Running) -> None:
    draft = folder / "broker.tmp"
    draft.write_text(json.dumps(asdict(found)), encoding="utf-8")
    draft.replace(folder / "broker.json")


def _take(lock: IO[str], folder: Path) -> None:
    # A broker that was killed counts as gone a moment before its last thread has let go of the lock.
    deadline = time.monotonic() + _LINGER_S
    while not _try(lock):
        found = running(folder)
        if found is not None:
            raise UserError(
                f"{folder}: Kafka at {found.bootstrap} (pid {found.pid}) serves this data already;"
                f" stop it with `sidelight kafka stop --data {folder}`"
            )
        if time.monotonic() > deadline:
            raise UserError(f"{folder}: another process is starting or using a broker on this data")
        time.sleep(0.05)


def _try(lock: IO[str]) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _start_ticks(pid: int) -> int | None:
    """Give when a process started; None when it is gone or only waits to be reaped."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] == "Z" else int(fields[19])


@contextmanager
def _handle(pid: int) -> Iterator[int]:
    handle = os.pidfd_open(pid)
    try:
        yield handle
    finally:
        os.close(handle)


def _end(handle: int, pid: int, grace_s: float) -> None:
    signal.pidfd_send_signal(handle, signal.SIGTERM)
    if _ended(handle, grace_s):
        return
    log.warning("Kafka (pid %d) did not stop in %.0f s and was killed", pid, grace_s)
    signal.pidfd_send_signal(handle, signal.SIGKILL)
    if not _ended(handle, _KILL_S):
        raise ProcessFailed(_NAME, f"pid {pid} did not end in {_KILL_S:.0f} s after SIGKILL")


def _ended(handle: int, within_s: float) -> bool:
    poll = select.poll()
    poll.register(handle, select.POLLIN)
    return bool(poll.poll(within_s * 1000))


def _kill(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()


def _reap() -> None:
    for pid in [pid for pid, process in _started.items() if process.poll() is not None]:
        del _started[pid]
