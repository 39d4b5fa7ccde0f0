"""The server's behaviour under load, failure and shutdown: real processes over loopback."""

from __future__ import annotations

import re
import socket
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

from tests.inference.serving import GATED, Server, eventually, predictor

PREDICT = "/v1/models/m:predict"
ONE = {"instances": [[1.0, 2.0]]}


@pytest.fixture(name="gate")
def _gate(tmp_path: Path) -> Path:
    directory = tmp_path / "gate"
    directory.mkdir()
    return directory


def _in_progress(client: httpx.Client) -> int:
    line = next(
        line for line in client.get("/metrics").text.splitlines() if line.startswith("sidelight_predictor_in_progress ")
    )
    return int(float(line.rpartition(" ")[2]))


def _post(server: Server, body: object = ONE, headers: Mapping[str, str] | None = None) -> httpx.Response:
    with server.client() as client:
        return client.post(PREDICT, json=body, headers=headers)


def test_each_caller_gets_its_own_answer(tmp_path: Path, gate: Path) -> None:
    """Many callers at once: every answer belongs to its request."""
    (gate / "open").touch()
    with predictor(gate, tmp_path, "--runtime", GATED) as server, ThreadPoolExecutor(16) as threads:
        bodies = [{"instances": [[index, row] for row in range(index % 7 + 1)]} for index in range(300)]
        answers = list(threads.map(lambda body: _post(server, body), bodies))

    for body, answer in zip(bodies, answers, strict=True):
        expected = [{"output-0": sum(row), "rows": index} for index, row in enumerate(body["instances"])]
        assert answer.json() == {"predictions": expected}


def test_overload_is_refused_at_once(tmp_path: Path, gate: Path) -> None:
    """With all threads busy and the queue full, more calls get 503 with Retry-After; what was accepted is answered."""
    words = ("--runtime", GATED, "--max_threads", "2", "--max-queue", "3")
    with predictor(gate, tmp_path, *words) as server, server.client() as client, ThreadPoolExecutor(5) as threads:
        accepted = [threads.submit(_post, server) for _ in range(5)]
        eventually(lambda: _in_progress(client) == 5, "five calls in progress")
        refused = [client.post(PREDICT, json=ONE) for _ in range(20)]
        health = client.get("/v2/health/ready")
        (gate / "open").touch()
        answered = [call.result() for call in accepted]
        after = client.post(PREDICT, json=ONE)

    assert {answer.status_code for answer in refused} == {503}
    assert {answer.headers["retry-after"] for answer in refused} == {"1"}
    assert refused[0].json() == {"error": "overloaded: 5 requests are in progress or waiting; retry later"}
    assert health.status_code == 200
    assert {answer.status_code for answer in answered} == {200}
    assert after.status_code == 200


def test_late_predictions_are_given_up(tmp_path: Path, gate: Path) -> None:
    """A call beyond the deadline gets 503, its place stays taken until the model is done, and then is free again."""
    words = ("--runtime", GATED, "--max_threads", "1", "--max-queue", "0", "--request-timeout", "0.2")
    with predictor(gate, tmp_path, *words) as server, server.client() as client:
        late = client.post(PREDICT, json=ONE)
        refused = client.post(PREDICT, json=ONE)
        (gate / "open").touch()
        eventually(lambda: _in_progress(client) == 0, "the late call has ended")
        # A fifth of a second is little: any call may be late where the machine is busy.
        eventually(lambda: client.post(PREDICT, json=ONE).status_code == 200, "its place is free again")

    assert (late.status_code, late.json()) == (503, {"error": "no answer within 0.2 s; retry later"})
    assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")


@pytest.mark.parametrize(
    ("file", "says"), [("fail", "RuntimeError : the gate fell"), ("crash", "SystemExit : the gate crashed")]
)
def test_failing_models_do_not_end_the_server(tmp_path: Path, gate: Path, file: str, says: str) -> None:
    """A model that raises, or even exits, is a 500 with type and text; the next call finds a whole server."""
    (gate / file).touch()
    with predictor(gate, tmp_path, "--runtime", GATED, "--max_threads", "1") as server, server.client() as client:
        failed = [client.post(PREDICT, json=ONE) for _ in range(3)]
        (gate / "open").touch()
        (gate / file).unlink()
        after = client.post(PREDICT, json=ONE)

    assert [(answer.status_code, answer.json()) for answer in failed] == [(500, {"error": says})] * 3
    assert after.status_code == 200


def test_a_lost_gpu_ends_the_process(tmp_path: Path, gate: Path) -> None:
    """Where one failed kernel makes every call fail, callers may come again, and the process ends to be started anew.

    The model is behind a transformer: what it says is passed on.
    """
    (gate / "gpu").touch()
    (gate / "around.py").write_text("class Around:\n    def postprocess(self, outputs):\n        return outputs\n")
    (gate / "sidelight.json").write_text('{"transformer": "around:Around"}')
    words = ("--runtime", GATED, "--trusted")
    with predictor(gate, tmp_path, *words) as server, server.client() as client, ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(_post, server)
        eventually(lambda: _in_progress(client) == 1, "one call in progress")
        (gate / "lost").touch()
        answer = waiting.result()
        code = server.process.wait(60)

    assert (answer.status_code, answer.json()) == (503, {"error": "the gate is lost"})
    assert answer.headers["retry-after"] == "10"
    assert code == 1
    assert "ends, to be started anew: the gate is lost" in (tmp_path / "predictor.log").read_text()


def test_drain_answers_what_is_in_progress(tmp_path: Path, gate: Path) -> None:
    """After SIGTERM nothing is ready, the request in progress is answered, and the process ends with code 0."""
    with predictor(gate, tmp_path, "--runtime", GATED) as server, server.client() as client:
        with ThreadPoolExecutor(1) as threads:
            waiting: Future[httpx.Response] = threads.submit(_post, server)
            eventually(lambda: _in_progress(client) == 1, "one call in progress")
            server.terminate()
            eventually(lambda: client.get("/v2/health/ready").status_code == 503, "not ready")
            model = [client.get(path).status_code for path in ("/v1/models/m", "/v2/models/m/ready")]
            live = client.get("/v2/health/live").status_code
            (gate / "open").touch()
            answer = waiting.result()
        code = server.process.wait(60)

    assert (model, live) == ([503, 503], 200)
    assert (answer.status_code, answer.json()) == (200, {"predictions": [{"output-0": 3.0, "rows": 0}]})
    assert code == 0


def test_drain_ends_at_its_deadline(tmp_path: Path, gate: Path) -> None:
    """A prediction that never ends cannot keep the process from ending."""
    words = ("--runtime", GATED, "--drain-timeout", "0.3")
    with predictor(gate, tmp_path, *words) as server, server.client() as client, ThreadPoolExecutor(1) as threads:
        lost = threads.submit(_post, server)
        eventually(lambda: _in_progress(client) == 1, "one call in progress")
        server.terminate()
        code = server.process.wait(60)

        assert code == 0
        assert isinstance(lost.exception(), httpx.HTTPError) or lost.result().status_code >= 500


def test_slow_bodies_are_given_up(tmp_path: Path, gate: Path) -> None:
    """A client that announces a body and sends only a part of it gets 408, and its connection is closed."""
    with predictor(gate, tmp_path, "--runtime", GATED, "--body-timeout", "0.2") as server:
        address = urlsplit(server.url)
        with socket.create_connection((address.hostname, address.port), timeout=30) as connection:
            connection.sendall(f"POST {PREDICT} HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{{".encode())
            received = b""
            while chunk := connection.recv(4096):
                received += chunk

    assert received.startswith(b"HTTP/1.1 408 ")
    assert b"request body: not complete within 0.2 s" in received


def test_clients_that_leave_do_no_harm(tmp_path: Path, gate: Path) -> None:
    """A client that closes its connection in mid-body is no error of the server's."""
    (gate / "open").touch()
    with predictor(gate, tmp_path, "--runtime", GATED) as server, server.client() as client:
        address = urlsplit(server.url)
        with socket.create_connection((address.hostname, address.port), timeout=30) as connection:
            connection.sendall(f"POST {PREDICT} HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{{".encode())
        left = 'sidelight_predictor_errors_total{error="ClientDisconnect",model_name="m"} 1.0'
        eventually(lambda: left in client.get("/metrics").text, "the disconnect is counted")
        after = client.post(PREDICT, json=ONE)
        log = server.log.read_text()

    assert after.status_code == 200
    assert "Traceback" not in log


def test_clients_that_leave_while_they_wait_are_taken_out(tmp_path: Path, gate: Path) -> None:
    """A client that gives up before its turn costs the model nothing: its call leaves the queue."""
    words = ("--runtime", GATED, "--max_threads", "1")
    with predictor(gate, tmp_path, *words) as server, server.client() as client, ThreadPoolExecutor(1) as threads:
        running = threads.submit(_post, server)
        eventually(lambda: _in_progress(client) == 1, "one call in progress")
        address = urlsplit(server.url)
        body = b'{"instances": [[7.0, 7.0]]}'
        with socket.create_connection((address.hostname, address.port), timeout=30) as connection:
            connection.sendall(
                f"POST {PREDICT} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body
            )
            eventually(lambda: _in_progress(client) == 2, "the second waits")
        eventually(lambda: _in_progress(client) == 1, "it has left")
        (gate / "open").touch()
        answer = running.result()
        gone = 'sidelight_predictor_errors_total{error="ClientGone",model_name="m"} 1.0'
        done = 'request_predict_seconds_count{model_name="m"} 1.0'
        eventually(lambda: {gone, done} <= set(client.get("/metrics").text.splitlines()), "both are counted")

    assert answer.status_code == 200


def test_callers_say_how_urgent_they_are(tmp_path: Path, gate: Path) -> None:
    """A caller's own time limit ends its wait; calls that no user made are the first to be refused, with 429."""
    words = ("--runtime", GATED, "--max_threads", "1", "--max-queue", "2")
    synthetic = {"x-sidelight-synthetic": "true"}
    with predictor(gate, tmp_path, *words) as server, server.client() as client, ThreadPoolExecutor(3) as threads:
        accepted = [threads.submit(_post, server)]
        eventually(lambda: _in_progress(client) == 1, "one call in progress")
        late = client.post(PREDICT, json=ONE, headers={"x-sidelight-timeout-ms": "50"})
        envoy = client.post(PREDICT, json=ONE, headers={"x-envoy-expected-rq-timeout-ms": "50"})
        wrong = client.post(PREDICT, json=ONE, headers={"x-sidelight-timeout-ms": "soon"})
        accepted.append(threads.submit(_post, server, ONE, synthetic))
        eventually(lambda: _in_progress(client) == 2, "a synthetic call waits")
        postponed = client.post(PREDICT, json=ONE, headers=synthetic)
        accepted.append(threads.submit(_post, server))
        eventually(lambda: _in_progress(client) == 3, "a user's call waits")
        (gate / "open").touch()
        answers = [call.result().status_code for call in accepted]

    assert late.status_code == 503
    # Less what passed between the reading of the limit and the beginning of the call.
    assert re.fullmatch(r"no answer within 0(\.0\d+)? s; retry later", late.json()["error"])
    assert envoy.status_code == 503
    assert (wrong.status_code, wrong.json()["error"]) == (
        400,
        "x-sidelight-timeout-ms: expected milliseconds, got 'soon'",
    )
    assert (postponed.status_code, int(postponed.headers["retry-after"])) == (429, 1)
    assert answers == [200, 200, 200]
