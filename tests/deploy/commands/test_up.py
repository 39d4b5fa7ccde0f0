"""`sidelight up` with flags for its loggers and for a broker that is locked; what is wrong is said before the start."""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from inference.runtime import RUNTIMES
from tests import secured
from tests.deploy.commands.calling import Sidelight, lines_of
from tests.inference.serving import eventually
from tests.secured import PASSWORDS

SERVICE = """\
apiVersion: serving.kserve.io/v1beta1
kind: InferenceService
metadata: {name: iris, namespace: shop}
spec:
  predictor:
    model: {modelFormat: {name: sklearn}, storageUri: file://model}
    logger: {mode: all, url: http://default-broker}
"""
PRIVACY = """\
rules:
  - {pointer: /parameters/name, action: mask, in: request}
"""
ROW = [5.1, 3.5, 1.4, 0.2]


@pytest.fixture
def service(tmp_path: Path) -> Path:
    """Give a service with its model."""
    (tmp_path / "model").mkdir()
    RUNTIMES.find("sklearn").example(tmp_path / "model")
    (tmp_path / "service.yaml").write_text(SERVICE)
    return tmp_path / "service.yaml"


@contextmanager
def up(sidelight: Sidelight, folder: Path, *words: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run it until the block ends, which drains it."""
    log = folder / "up.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            sidelight.command("up", *words), env=sidelight.environment, cwd=folder, stdout=output, stderr=output
        )
    try:
        eventually(lambda: b"next:" in log.read_bytes() or process.poll() is not None, "the run")

        assert process.poll() is None, log.read_text()
        yield process
    finally:
        process.send_signal(signal.SIGINT)
        code = process.wait(90)

    assert code == 0, log.read_text()


@pytest.mark.kafka
@pytest.mark.e2e
def test_flags_reach_every_process(sidelight: Sidelight, service: Path, tmp_path: Path) -> None:
    """A locked broker, rules of privacy, a spool: logger, assembler and the commands that look on take part in all."""
    (tmp_path / "privacy.yaml").write_text(PRIVACY)
    (tmp_path / "username").write_text("alice")
    (tmp_path / "password").write_text(PASSWORDS["alice"])
    call = {"instances": [ROW], "parameters": {"name": "Alice Example"}}
    with secured.kafka(tmp_path) as broker:
        words = (
            str(service), "--kafka", broker.sasl, "--kafka-ca-file", str(broker.authority.file),
            "--kafka-sasl-mechanism", "PLAIN", "--kafka-username-file", "username", "--kafka-password-file", "password",
            "--privacy", "privacy.yaml", "--logger-flags=--outbox spool --enable-batcher --max-latency 1",
        )  # fmt: skip
        with up(sidelight, tmp_path, *words):
            facts = json.loads(sidelight("status", "--json").stdout)
            url = facts["run"]["services"]["shop/iris"]
            answer = httpx.post(f"{url}/v1/models/iris:predict", json=call, timeout=60)
            eventually(lambda: _paired(sidelight) == 2, "the pair")
            pages = {process["name"]: process["metrics"] for process in facts["run"]["processes"]}
            shown = httpx.get(pages["logger-iris"], timeout=60).text
            bodies = "\n".join(lines_of(sidelight("payloads", "--bodies")))

    assert answer.status_code == 200
    assert "sidelight_logger_redacted_total 1.0" in shown
    assert "sidelight_batcher_calls_total 1.0" in shown
    assert "sidelight_logger_spool_healthy{" in shown
    assert "***" in bodies
    assert "Alice" not in bodies
    assert list((tmp_path / "run" / "local" / "spool" / "shop.iris").iterdir())


def _paired(sidelight: Sidelight) -> int:
    facts = json.loads(sidelight("status", "--json").stdout)
    return int(facts["ledger"]["assembler"].get("paired", 0))


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("--logger-flags=--outbx spool",), "--logger-flags: unrecognized arguments: --outbx spool"),
        (("--logger-flags=--outbox disk",), "--logger-flags: argument --outbox: invalid choice: 'disk'"),
        (("--logger-flags=--port 80",), "--logger-flags: --port is not yours to set: `up` does"),
        (("--logger-flags=--component-tls",), "--logger-flags: --component-tls is not yours to set: `up` does"),
        (("--logger-flags=--outbox 'spool",), "--logger-flags: No closing quotation"),
        (("--kafka-config", "x"), "--kafka-config: the embedded broker needs none; name yours with --kafka"),
        (("--kafka", "a:1", "--host", "faust", "--kafka-config", "x"), "--host faust: takes no TLS"),
        (("--kafka", "a:1", "--kafka-ca-file", "gone"), "Kafka credentials: ssl.ca.location: gone: no such file"),
    ],
)
def test_wrong_flags_are_one_line(sidelight: Sidelight, service: Path, words: tuple[str, ...], expected: str) -> None:
    """Said before anything is started."""
    run = sidelight("up", str(service), *words)

    assert (run.returncode, len(run.stderr.splitlines())) == (2, 1), run.stderr
    assert run.stderr.startswith(f"sidelight up: {expected}")
