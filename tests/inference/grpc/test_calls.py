"""gRPC calls under load, failure, impatience and shutdown: real processes over loopback."""

from __future__ import annotations

import queue
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import httpx
import numpy as np
import pytest

from inference.grpc import health, statuses
from inference.protocol.grpc_codec import decode_response, encode_request
from inference.protocol.grpc_messages import ModelInferRequest, ModelInferResponse, ModelStreamInferResponse
from tests.inference.grpc.calling import DEADLINE_S, Client, client, code_of, request
from tests.inference.serving import GATED, Server, eventually, predictor

ONE = encode_request("m", request(np.array([[1.0, 2.0]])), raw=True)


@pytest.fixture(name="gate")
def _gate(tmp_path: Path) -> Path:
    directory = tmp_path / "gate"
    directory.mkdir()
    return directory


@contextmanager
def _served(gate: Path, *words: str) -> Iterator[tuple[Server, Client, httpx.Client]]:
    with (
        predictor(gate, gate.parent, "--runtime", GATED, *words) as server,
        server.client() as http,
        client(server.grpc) as stub,
    ):
        yield server, stub, http


def _in_progress(http: httpx.Client) -> int:
    lines = http.get("/metrics").text.splitlines()
    line = next(line for line in lines if line.startswith("sidelight_predictor_in_progress "))
    return int(float(line.rpartition(" ")[2]))


def _sum(data: bytes) -> list[float]:
    values: list[float] = decode_response(data).outputs[0].data.tolist()
    return values


def test_overload_is_refused_with_a_time(gate: Path) -> None:
    """With threads busy and the queue full, more calls are UNAVAILABLE and told when to come again."""
    with _served(gate, "--max_threads", "1", "--max-queue", "1") as (_, stub, http):
        accepted = [stub.future(ONE) for _ in range(2)]
        eventually(lambda: _in_progress(http) == 2, "two calls in progress")
        refused = stub.future(ONE)
        code, trailers = code_of(refused), dict(refused.trailing_metadata())
        (gate / "open").touch()
        answers = [call.result() for call in accepted]
    status = statuses._Status.FromString(trailers["grpc-status-details-bin"])
    retry = statuses._RetryInfo.FromString(status.details[0].value)

    assert code is grpc.StatusCode.UNAVAILABLE
    assert (trailers["retry-after"], retry.retry_delay.seconds) == ("1", 1)
    assert (status.code, status.details[0].type_url) == (14, "type.googleapis.com/google.rpc.RetryInfo")
    assert [_sum(answer) for answer in answers] == [[3.0], [3.0]]


def test_deadlines_reach_the_queue(gate: Path) -> None:
    """A call whose deadline passes while it waits leaves the queue; the server's own limit has the same status."""
    with _served(gate, "--max_threads", "1", "--request-timeout", "20") as (_, stub, http):
        running = stub.future(ONE)
        eventually(lambda: _in_progress(http) == 1, "one call in progress")
        late = stub.future(ONE, timeout=0.3)
        code = code_of(late)
        eventually(lambda: _in_progress(http) == 1, "the late call has left")
        (gate / "open").touch()
        running.result()
    with _served(gate, "--request-timeout", "0.2") as (_, stub, _http):
        (gate / "open").unlink()
        own = stub.future(ONE, timeout=DEADLINE_S)
        own_code, details = code_of(own), own.details()
        (gate / "open").touch()

    assert code is grpc.StatusCode.DEADLINE_EXCEEDED
    assert (own_code, details) == (grpc.StatusCode.DEADLINE_EXCEEDED, "no answer within 0.2 s; retry later")


def test_cancelled_calls_leave_the_queue(gate: Path) -> None:
    """A client that cancels, or goes away, frees its place, and is counted."""
    with _served(gate, "--max_threads", "1") as (server, stub, http):
        running = stub.future(ONE)
        eventually(lambda: _in_progress(http) == 1, "one call in progress")
        waiting = stub.future(ONE)
        with client(server.grpc, ("grpc.use_local_subchannel_pool", 1)) as other:
            gone = other.future(ONE)
            eventually(lambda: _in_progress(http) == 3, "three calls in progress")
        waiting.cancel()
        eventually(lambda: _in_progress(http) == 1, "both have left")
        (gate / "open").touch()
        answer = running.result()
        counted = 'sidelight_predictor_errors_total{error="ClientGone",model_name="m"} 2.0'
        eventually(lambda: counted in http.get("/metrics").text, "both are counted")

    assert gone.done()
    assert _sum(answer) == [3.0]


@pytest.mark.parametrize(
    ("file", "says"), [("fail", "RuntimeError : the gate fell"), ("crash", "SystemExit : the gate")]
)
def test_failing_models(gate: Path, file: str, says: str) -> None:
    """A model that raises, or exits, is INTERNAL with type and text; the next call finds a whole server."""
    (gate / file).touch()
    with _served(gate) as (_, stub, _http):
        failed = stub.future(ONE)
        code, details = code_of(failed), failed.details()
        (gate / file).unlink()
        (gate / "open").touch()
        after = stub.future(ONE).result()

    assert code is grpc.StatusCode.INTERNAL
    assert details.startswith(says)
    assert _sum(after) == [3.0]


def test_drain(gate: Path) -> None:
    """After SIGTERM nothing is ready, a call in progress is answered, and the process ends with code 0."""
    with _served(gate, "--drain-delay", "0.5") as (server, stub, http):
        running = stub.future(ONE)
        eventually(lambda: _in_progress(http) == 1, "one call in progress")
        server.terminate()
        eventually(lambda: not stub.call("ServerReady").ready, "not ready")
        model = stub.call("ModelReady", name="m").ready
        live = stub.call("ServerLive").live
        (gate / "open").touch()
        answer = running.result()
        code = server.process.wait(60)

    assert (model, live, code) == (False, True, 0)
    assert _sum(answer) == [3.0]


def test_drain_ends_at_its_deadline(gate: Path) -> None:
    """Neither a prediction that never ends nor a client that keeps its stream open keeps the process from ending."""
    messages: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    with _served(gate, "--drain-timeout", "0.3") as (server, stub, http):
        lost = stub.future(ONE)
        stream = stub.stream(iter(messages.get, b"end"))
        messages.put(ONE)
        eventually(lambda: _in_progress(http) == 2, "two calls in progress")
        server.terminate()
        code = server.process.wait(60)
        messages.put(b"end")

        assert code == 0
        assert code_of(lost) is not grpc.StatusCode.OK
        assert code_of(stream) is not grpc.StatusCode.OK


def test_drain_lets_watchers_go(gate: Path) -> None:
    """Who watches the server's health hears that it stops serving, and holds it up no longer."""
    asked = health.MESSAGES.of("HealthCheckRequest")(service="m").SerializeToString()
    with _served(gate, "--drain-timeout", "600") as (server, stub, _http):
        watch = stub.channel.unary_stream(f"/{health.NAME}/Watch")(asked)
        said = [next(watch)]
        server.terminate()
        with pytest.raises(grpc.RpcError):
            said.extend(watch)
        code = server.process.wait(60)

    assert [health.MESSAGES.of("HealthCheckResponse").FromString(data).status for data in said] == [1, 2]
    assert (code_of(watch), code) == (grpc.StatusCode.UNAVAILABLE, 0)


def test_streams_answer_in_order(gate: Path) -> None:
    """Every message of a stream gets its answer, in order; a bad one its error, with its id, and the stream goes on."""
    (gate / "open").touch()
    rows = [np.array([[float(index), 1.0]]) for index in range(100)]
    messages = [encode_request("m", request(row, id=str(index)), raw=True) for index, row in enumerate(rows)]
    messages[40] = ModelInferRequest(model_name="nobody", id="40").SerializeToString()
    messages[41] = b"\xff"
    with _served(gate) as (_, stub, _http):
        answers = list(map(ModelStreamInferResponse.FromString, stub.stream(iter(messages))))
    found = [_sum(answer.infer_response.SerializeToString()) for answer in answers if not answer.error_message]

    assert [answer.infer_response.id for answer in answers] == [str(i) if i != 41 else "" for i in range(100)]
    assert [answers[40].error_message, answers[41].error_message[:30]] == [
        "Request for unknown model: 'nobody' is not found", "message: no ModelInferRequest:",
    ]  # fmt: skip
    assert found == [[index + 1.0] for index in range(100) if index not in {40, 41}]


def test_streams_answer_before_they_end(gate: Path) -> None:
    """An answer is sent as soon as it is there, not when the client has said all; a client that leaves ends it all."""
    (gate / "open").touch()
    messages: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    with _served(gate) as (_, stub, http):
        stream = stub.stream(iter(messages.get, b"end"))
        sums = []
        for _ in range(3):
            messages.put(ONE)
            sums.append(_sum(ModelStreamInferResponse.FromString(next(stream)).infer_response.SerializeToString()))
        (gate / "open").unlink()
        for _ in range(3):
            messages.put(ONE)
        eventually(lambda: _in_progress(http) == 3, "three calls in progress")
        stream.cancel()
        messages.put(b"end")
        (gate / "open").touch()
        eventually(lambda: _in_progress(http) == 0, "all have left")

    assert sums == [[3.0]] * 3


def test_a_port_that_is_taken(gate: Path) -> None:
    """A port that was asked for and is taken ends the start, and says so."""
    with _served(gate) as (server, _stub, _http):
        port = server.grpc.rpartition(":")[2]
        second = predictor(gate, gate, "--runtime", GATED, "--grpc_port", port)
        with pytest.raises(AssertionError, match=f"cannot listen on 127.0.0.1:{port}"), second:
            pass  # the start has failed before


def test_grpc_can_be_off(gate: Path) -> None:
    """`--enable_grpc false` serves REST alone."""
    with predictor(gate, gate.parent, "--runtime", GATED, "--enable_grpc", "false") as server:
        log = server.log.read_text()

    assert "gRPC on" not in log


def test_the_bound_of_messages_can_be_set(gate: Path) -> None:
    """KServe's flags bound messages in both directions."""
    (gate / "open").touch()
    words = ("--grpc_max_receive_message_length", "2000", "--grpc_max_send_message_length", "1000")
    small, fits = np.ones((10, 8)), np.ones((60, 4))
    with _served(gate, *words) as (_, stub, _http):
        calls = [stub.future(encode_request("m", request(rows), raw=True)) for rows in (small, fits, np.ones((50, 8)))]
        codes = [code_of(call).name for call in calls]

    assert codes == ["OK", "RESOURCE_EXHAUSTED", "RESOURCE_EXHAUSTED"]
    assert ModelInferResponse.FromString(calls[0].result()).model_name == "m"
