"""Starts `sidelight predictor` as its own process on a free loopback port and stops it again."""

from __future__ import annotations

import re
import signal
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

ROOT = Path(__file__).resolve().parents[2]
DEADLINE_S = 120.0
GATED = "tests.inference.gated:Gated"
ECHO = "tests.inference.echo:Echo"
_GRPC = re.compile(r"gRPC on (\S+)")
_NO_AUTHORITY = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
_READY = re.compile(r"predictor ready on (https?://\S+?),")


@dataclass(frozen=True, slots=True)
class Server:
    """A running predictor."""

    url: str
    process: subprocess.Popen[bytes]
    log: Path

    @property
    def grpc(self) -> str:
        """Give the address that gRPC is served on."""
        found = _GRPC.search(self.log.read_text())
        assert found is not None
        return found.group(1)

    def client(self) -> httpx.Client:
        """Give a client for it."""
        # Not httpx's own: it would read all authorities anew for each client, 30 ms of a processor, to speak no TLS.
        return httpx.Client(base_url=self.url, timeout=DEADLINE_S, verify=_NO_AUTHORITY)

    def terminate(self) -> None:
        """Send SIGTERM."""
        self.process.send_signal(signal.SIGTERM)


def eventually(condition: Callable[[], bool], what: str, within_s: float = DEADLINE_S) -> None:
    """Wait until a condition holds; fail with its name."""
    until = time.monotonic() + within_s
    while not condition():
        if time.monotonic() > until:
            raise AssertionError(f"not within {within_s:.0f} s: {what}")
        time.sleep(0.01)


@contextmanager
def predictor(
    model: Path, log_folder: Path, *words: str, variables: Mapping[str, str] | None = None
) -> Iterator[Server]:
    """Serve a model directory until the block ends; with another environment, if one is given."""
    log = log_folder / "predictor.log"
    command = [
        sys.executable, "-m", "deploy.cli", "predictor", "--model_name", "m", "--model_dir", str(model),
        "--host", "127.0.0.1", "--http_port", "0", *words,
    ]  # fmt: skip
    with served(command, log, variables) as server:
        yield server


@contextmanager
def served(command: list[str], log: Path, variables: Mapping[str, str] | None = None) -> Iterator[Server]:
    """Run a command that serves until the block ends; with another environment, if one is given."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=variables
        )
    try:
        eventually(lambda: process.poll() is not None or _url(log) != "", "the ready line")
        if process.poll() is not None:
            raise AssertionError(f"ended with {process.returncode}:\n{log.read_text()}")
        yield Server(_url(log), process, log)
    finally:
        process.terminate()
        try:
            process.wait(DEADLINE_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _url(log: Path) -> str:
    found = _READY.search(log.read_text())
    return found.group(1) if found else ""
