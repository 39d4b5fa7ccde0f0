"""Triton's parameter `timeout`, over REST and gRPC: how long a caller waits."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import httpx
import numpy as np
import pytest

from inference import timeouts
from inference.batching.terms import Terms
from inference.protocol import v2
from inference.protocol.errors import MalformedBody
from inference.protocol.grpc_codec import decode_response, encode_request
from inference.protocol.grpc_messages import SERVICE
from inference.protocol.tensors import Tensor
from inference.protocol.v2 import InferRequest
from tests.inference.serving import GATED, Server, eventually, predictor

SHORT_US = 50_000
LONG_US = 60_000_000
_LATE = re.compile(r"no answer within 0(\.0\d+)? s; retry later")
"""The short one, less what passed between the reading of the limit and the beginning of the call."""
_LARGE = 20_000
"""Rows whose JSON no event loop looks into."""


@pytest.fixture(name="gate")
def _gate(tmp_path: Path) -> Path:
    directory = tmp_path / "gate"
    directory.mkdir()
    return directory


@pytest.fixture(name="server")
def _server(tmp_path: Path, gate: Path) -> Iterator[Server]:
    """Serve a model that one thread computes."""
    with predictor(gate, tmp_path, "--runtime", GATED, "--max_threads", "1", "--grpc_port", "0") as server:
        yield server


def _request(timeout: object, rows: int = 1) -> InferRequest:
    return InferRequest(inputs=(Tensor.of("x", np.ones((rows, 2))),), parameters={"timeout": timeout})


def _rest(server: Server, timeout: object, rows: int = 1, *, binary: bool = False) -> httpx.Response:
    body, length = v2.encode_request(_request(timeout, rows), binary=binary)
    headers: Mapping[str, str] = {} if length is None else {"inference-header-content-length": str(length)}
    with server.client() as client:
        return client.post("/v2/models/m/infer", content=body, headers=headers)


def _grpc(server: Server, timeout: object) -> list[float]:
    with grpc.insecure_channel(server.grpc) as channel:
        call = channel.unary_unary(f"/{SERVICE}/ModelInfer")
        answer: Any = call(encode_request("m", _request(timeout), raw=True), timeout=30)
    return [float(each) for each in decode_response(answer).outputs[0].data.flat]


def _status(call: Callable[[], object]) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.RpcError) as caught:
        call()
    found: Any = caught.value
    return found.code(), found.details()


@pytest.mark.parametrize("binary", [True, False])
def test_a_caller_waits_as_long_as_it_says(server: Server, gate: Path, binary: bool) -> None:  # noqa: FBT001 - a parameter
    """Beyond its own limit it hears 503 and DEADLINE_EXCEEDED; within it, and with 0, the answer."""
    late = _rest(server, SHORT_US, binary=binary)
    over_grpc = _status(lambda: _grpc(server, SHORT_US))
    (gate / "open").touch()
    answers = [_rest(server, timeout, binary=binary).status_code for timeout in (LONG_US, 0)]
    answered = _grpc(server, LONG_US)

    assert (late.status_code, over_grpc[0]) == (503, grpc.StatusCode.DEADLINE_EXCEEDED)
    assert all(_LATE.fullmatch(said) for said in (late.json()["error"], over_grpc[1]))
    assert answers == [200, 200]
    assert answered == [2.0]


def test_a_long_request_that_is_late_never_runs(server: Server, gate: Path) -> None:
    """One that is read only when its turn comes is too late then; the model does not see it."""
    with ThreadPoolExecutor(2) as threads, server.client() as client:

        def counted(name: str) -> float:
            lines = client.get("/metrics").text.splitlines()
            return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(name))

        running = threads.submit(_rest, server, LONG_US)
        eventually(lambda: counted("sidelight_predictor_in_progress ") == 1, "a call in progress")
        waiting = threads.submit(_rest, server, 1, _LARGE)
        eventually(lambda: counted("sidelight_predictor_in_progress ") == 2, "another waits")
        (gate / "open").touch()
        late, first = waiting.result(), running.result()
        rows = counted("sidelight_predictor_rows_total")

    assert first.status_code == 200
    assert (late.status_code, late.json()) == (503, {"error": "no answer within 1e-06 s; retry later"})
    assert rows == 1


@pytest.mark.parametrize("timeout", ["soon", -1, True])
def test_what_is_no_time_is_the_callers_mistake(server: Server, gate: Path, timeout: object) -> None:
    """400 and INVALID_ARGUMENT name the field, for short requests and long ones."""
    (gate / "open").touch()
    says = f"request: parameters: timeout: expected microseconds from 0 up, got {timeout!r}"
    short, long = _rest(server, timeout), _rest(server, timeout, _LARGE)
    over_grpc = _status(lambda: _grpc(server, timeout))

    assert [(answer.status_code, answer.json()) for answer in (short, long)] == [(400, {"error": says})] * 2
    assert over_grpc == (grpc.StatusCode.INVALID_ARGUMENT, says)


def test_the_shorter_limit_holds() -> None:
    """The transport's deadline or the parameter's, whichever comes first."""
    soon, late = Terms(deadline=0.0), Terms(deadline=float("inf"))
    limited = timeouts.heeded(late, {"timeout": LONG_US}).deadline

    assert timeouts.heeded(soon, {"timeout": LONG_US}) is soon
    assert limited is not None
    assert limited < float("inf")
    assert timeouts.heeded(late, {}) is late


@pytest.mark.parametrize("given", [1.5, [1]])
def test_only_whole_numbers_are_times(given: object) -> None:
    """Whatever JSON has besides is refused."""
    with pytest.raises(MalformedBody, match="request: parameters: timeout"):
        timeouts.asked({"timeout": given})
