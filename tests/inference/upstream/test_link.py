"""The way to a predictor: whose errors are whose, what is repeated and what never, and within whose time."""

from __future__ import annotations

import asyncio
import random
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from typing import Any

import numpy as np
import orjson
import pytest

from deploy.kafka.ports import free_port
from inference.batching.caller import Caller, caller, together
from inference.batching.terms import USUAL, Terms
from inference.errors import DeadlineExceeded, InferenceError, PredictorFailed, PredictorRefused, PredictorUnavailable
from inference.upstream.link import Link, head_of
from inference.upstream.settings import Protocol, UpstreamSettings
from tests.inference.serving import eventually
from tests.inference.upstream.scripted import CLOSE, HANG, V1_ANSWER, Scripted, scripted

_ROWS = {"instances": np.array([[1.0, 2.0]])}


@contextmanager
def _link(port: int, **changes: Any) -> Iterator[Link]:  # noqa: ANN401 - whatever settings take
    with closing(Link(UpstreamSettings(host="127.0.0.1", port=port, **changes), random.Random(0))) as link:
        yield link


def _error(status: int, text: str = "no", **head: str) -> Scripted:
    return status, {name.replace("_", "-"): value for name, value in head.items()}, orjson.dumps({"error": text})


@pytest.mark.parametrize(
    ("answer", "kind", "status"),
    [
        (_error(400), PredictorRefused, 400),
        (_error(401), PredictorRefused, 401),
        (_error(404), PredictorRefused, 404),
        (_error(422), PredictorRefused, 422),
        (_error(429, retry_after="7"), PredictorRefused, 429),
        (_error(500), PredictorFailed, None),
        (_error(504), PredictorFailed, None),
        (_error(503, retry_after="7"), PredictorUnavailable, None),
        ((200, {}, b"{}"), PredictorFailed, None),
        ((200, {}, b"not JSON"), PredictorFailed, None),
        ((302, {"location": "/elsewhere"}, b""), PredictorFailed, None),
        (CLOSE, PredictorFailed, None),
    ],
)
def test_errors_are_the_callers_or_the_predictors(
    answer: Scripted, kind: type[InferenceError], status: int | None
) -> None:
    """What the predictor refuses keeps its status and text; what it fails at is told apart from what may pass."""
    with scripted(answer) as script, _link(script.port) as link, pytest.raises(kind) as caught:
        link.infer("m", _ROWS, {})

    assert getattr(caught.value, "status", None) == status
    assert len(script.asked) == 1
    if isinstance(caught.value, PredictorRefused):
        assert str(caught.value) == "no"
    if answer[1].get("retry-after"):
        assert getattr(caught.value, "retry_after_s", None) == 7


def test_nobody_there() -> None:
    """A predictor that cannot be reached is unavailable: come again later."""
    port = free_port()
    for protocol in Protocol:
        with _link(port, protocol=protocol) as link, pytest.raises(PredictorUnavailable) as caught:
            link.infer("m", _ROWS, {})

        assert f"127.0.0.1:{port}" in str(caught.value)
        assert caught.value.retry_after_s >= 1


@pytest.mark.parametrize(
    ("first", "calls"),
    [(_error(503), 3), (_error(429), 3), (_error(500), 1), (_error(400), 1), (CLOSE, 1)],
)
def test_only_what_is_safe_is_repeated(first: Scripted, calls: int) -> None:
    """Busy twice, then well: two retries get through. What the predictor began to work on is never sent again."""
    with scripted(first, first, V1_ANSWER) as script, _link(script.port, retries=2) as link:
        try:
            outputs = link.infer("m", _ROWS, {}).outputs["output-0"].tolist()
        except InferenceError:
            outputs = []

    assert len(script.asked) == calls
    assert outputs == ([1.5] if calls == 3 else [])


def test_retries_end_with_the_time() -> None:
    """A pause that the caller's time does not hold is not made: the error is told at once."""
    busy = _error(503, retry_after="30")
    with scripted(busy) as script, _link(script.port, retries=5, timeout_s=20) as link:
        with pytest.raises(PredictorUnavailable):
            link.infer("m", _ROWS, {})

        assert len(script.asked) == 1


def test_a_silent_predictor_is_given_up() -> None:
    """No answer within the caller's time, or the link's: the deadline is exceeded, and nothing is sent again."""
    with scripted(HANG) as script, _link(script.port, retries=3, timeout_s=0.5) as link:
        with pytest.raises(DeadlineExceeded):
            link.infer("m", _ROWS, {})
        with pytest.raises(DeadlineExceeded):
            asyncio.run(link.infer_async("m", _ROWS, {}))
        eventually(lambda: len(script.asked) >= 2, "the predictor has read both")

        assert len(script.asked) == 2


def test_connections_are_kept_and_replaced() -> None:
    """Calls one after another share a connection; one that the server has ended meanwhile costs a new one, no error."""
    with scripted(V1_ANSWER, V1_ANSWER, CLOSE, V1_ANSWER) as script, _link(script.port) as link:
        for _ in range(3):
            assert link.infer("m", _ROWS, {}).outputs["output-0"].tolist() == [1.5]

    assert len(script.asked) == 4
    assert len(script.connections) == 2


def test_threads_share_the_connections() -> None:
    """Forty calls over eight threads open eight connections at most."""
    with scripted(V1_ANSWER) as script, _link(script.port) as link, ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda _: link.infer("m", _ROWS, {}), range(40)))

    assert len(script.asked) == 40
    assert len(script.connections) <= 8


def test_health_is_asked_in_the_background() -> None:
    """Looks never wait: not ready until the predictor was, and again when it is not."""
    ready: Scripted = (200, {}, b'{"name": "m", "ready": true}')
    busy = _error(503)
    with scripted(busy) as script:
        with _link(script.port, check_health=True, check_every_s=0.01) as link:
            assert not link.ready("m")
            script.answers = [ready]
            eventually(lambda: link.ready("m"), "the predictor is ready")
            script.answers = [busy]
            eventually(lambda: not link.ready("m"), "the predictor is not ready any more")
        with _link(script.port) as unasked:
            assert unasked.ready("m")

    assert {path for path, _, _ in script.asked} == {"/v1/models/m"}


def test_headers_name_the_caller() -> None:
    """Identity, trace, authorization and the mark of calls that no user made go on; the caller's own affairs do not."""
    given = {
        "x-request-id": "r1", "authorization": "Bearer t", "tracestate": "a=b", "cookie": "no", "content-length": "3",
        "x-sidelight-synthetic": "true", "host": "me",
    }  # fmt: skip
    head = head_of(Terms(headers=given, traceparent="00-1-2-01"), {}, 1.5)

    assert head == {
        "x-request-id": "r1", "authorization": "Bearer t", "tracestate": "a=b", "x-sidelight-synthetic": "true",
        "traceparent": "00-1-2-01", "x-sidelight-timeout-ms": "1500",
    }  # fmt: skip
    assert head_of(Terms(headers={"ce-id": "e1"}), {"sidelight_synthetic": True}, 1) == {
        "x-request-id": "e1", "x-sidelight-synthetic": "1", "x-sidelight-timeout-ms": "1000",
    }  # fmt: skip


def test_joined_calls_name_what_they_share() -> None:
    """Where several callers' rows go as one call, it is nobody's in particular, and in time for the most urgent."""
    one = Terms(headers={"authorization": "a", "x-request-id": "1"}, deadline=5.0, yielding=True)
    other = Terms(headers={"authorization": "a", "x-request-id": "2"}, deadline=3.0)

    assert dict(together([one, other]).headers) == {"authorization": "a"}
    assert together([one, other]).deadline == 3.0
    assert not together([one, other]).yielding
    assert together([one]) is one


def test_outside_of_a_call_there_is_no_caller() -> None:
    """The link then asks on the usual terms."""
    assert caller() is None
    assert Caller("m", USUAL).terms.deadline is None
    with scripted(V1_ANSWER) as script, _link(script.port) as link:
        link.infer("m", {"a": np.array([1, 2]), "b": np.array(["x", None], object)}, {})

    assert orjson.loads(script.asked[0][2]) == {"instances": [{"a": 1, "b": "x"}, {"a": 2, "b": None}]}
    assert int(script.asked[0][1]["x-sidelight-timeout-ms"]) <= 600_000


def test_a_drip_does_not_stretch_the_time() -> None:
    """A body that comes too slowly ends with the deadline, however often a byte arrives."""
    with closing(socket.create_server(("127.0.0.1", 0))) as server, ThreadPoolExecutor(1) as threads:
        dripped = threads.submit(_drip, server)
        with _link(server.getsockname()[1], timeout_s=1.0) as link, pytest.raises(DeadlineExceeded):
            link.infer("m", _ROWS, {})

        assert dripped.result() > 0


def _drip(server: socket.socket) -> int:
    connection, _ = server.accept()
    with connection:
        connection.recv(65536)
        connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 100000\r\n\r\n")
        sent = 0
        try:
            while sent < 100_000:
                connection.sendall(b" ")
                sent += 1
                time.sleep(0.01)
        except OSError:
            pass
        return sent
