"""The explain server and its callback client, over real sockets, in front of a real model server of the tests' own."""

from __future__ import annotations

import json
import random
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler
from typing import Any, ClassVar

import httpx
import numpy as np
import pytest
import uvicorn

from deploy.kafka.ports import free_port
from explainers import errors
from explainers.base import Background
from explainers.callback import CallbackClient, CallbackSettings
from explainers.server import STATUS, ExplainServer
from explainers.settings import ServerSettings
from tests.httpserver import httpserver

WEIGHTS = np.array([1.0, -2.0, 3.0])


class Model(BaseHTTPRequestHandler):
    """A V1 model: a weighted sum. What it was asked is kept; how it behaves can be set."""

    seen: ClassVar[list[dict[str, str]]] = []
    status: ClassVar[int] = 200
    pause_s: ClassVar[float] = 0.0
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._answer(404, b"{}")

    def do_POST(self) -> None:
        type(self).seen.append({name.lower(): value for name, value in self.headers.items()})
        rows = np.array(json.loads(self.rfile.read(int(self.headers["content-length"])))["instances"], float)
        time.sleep(self.pause_s)
        self._answer(self.status, json.dumps({"predictions": (rows @ WEIGHTS).tolist()}).encode())

    def _answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002, ANN401 - http.server's signature
        """Say nothing."""


@pytest.fixture
def model() -> Iterator[str]:
    """Serve the model; give its URL."""
    Model.seen, Model.status, Model.pause_s = [], 200, 0.0
    with httpserver(Model) as url:
        yield url


@pytest.fixture
def explainer(model: str) -> Iterator[httpx.Client]:
    """Serve the explainer; give a client for it."""
    yield from serve(model)


def serve(url: str) -> Iterator[httpx.Client]:
    """Run an explain server in a thread."""
    rows = np.array([[0.0, 0.0, 0.0], [1.0, 1.0, 1.0]])
    background = Background(rows=rows, weights=np.full(2, 0.5), names=("a", "b", "c"))
    client = CallbackClient(CallbackSettings(url=url, model="m", timeout_s=60.0), random.Random(0))
    app = ExplainServer(ServerSettings(model="m", waiting=64), client, background).app
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_config=None))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    with httpx.Client(base_url=f"http://127.0.0.1:{listener.getsockname()[1]}", timeout=30) as found:
        yield found
    server.should_exit = True
    thread.join()
    listener.close()


def test_every_instance_is_explained(explainer: httpx.Client) -> None:
    """One explanation per instance, with the closed form of a linear model; rows by position or by name."""
    body = {"instances": [[1.0, 2.0, 3.0], {"a": 2, "b": 0, "c": 1}]}
    answer = explainer.post("/v1/models/m:explain", json=body, headers={"x-request-id": "r1"})
    found = answer.json()

    assert answer.status_code == 200
    assert found["predictions"] == pytest.approx([6.0, 5.0])
    assert found["explanations"][0]["values"][0] == pytest.approx((WEIGHTS * np.array([0.5, 1.5, 2.5])).tolist())
    assert found["explanations"][1]["feature_names"] == ["a", "b", "c"]
    assert answer.headers["x-request-id"] == "r1"


def test_callbacks_are_marked(explainer: httpx.Client) -> None:
    """Each callback is marked synthetic and carries what the caller sent; nothing of it is echoed to the caller."""
    headers = {"authorization": "Bearer t", "x-request-id": "r1", "cookie": "c=1"}
    answer = explainer.post("/v1/models/m:explain", json={"instances": [[1, 2, 3]]}, headers=headers)

    assert Model.seen
    assert all(seen["x-sidelight-synthetic"] == "1" for seen in Model.seen)
    assert all(seen["authorization"] == "Bearer t" and "cookie" not in seen for seen in Model.seen)
    assert "authorization" not in answer.headers


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"{broken", "no JSON"),
        (b'{"rows": []}', "'instances' or 'inputs'"),
        (b'{"instances": []}', "expected 1 to 64"),
        (b'{"instances": [[1, 2]]}', "instances[0]: expected 3 values or an object, got 2 values"),
        (b'{"instances": [{"a": 1}]}', "feature 'b' is missing"),
        (b'{"instances": [["x", 2, 3]]}', "expected numbers"),
        (b'{"instances": [[1, 2, 3]], "parameters": {"sede": 1}}', "parameters.sede: unknown; known: seed"),
        (b'{"instances": [[1, 2, 3]], "parameters": {"max_rows": 0}}', "expected a whole number from 1 up"),
    ],
)
def test_bad_requests_are_named(explainer: httpx.Client, body: bytes, message: str) -> None:
    """A caller's mistake is a 400 that says what and where."""
    answer = explainer.post("/v1/models/m:explain", content=body)

    assert answer.status_code == 400
    assert message in answer.json()["error"]


def test_a_predictor_that_is_down_is_503() -> None:
    """Nobody listens: retry later, and the message says where was asked."""
    url = f"http://127.0.0.1:{free_port()}"
    for client in serve(url):
        answer = client.post("/v1/models/m:explain", json={"instances": [[1, 2, 3]]})

        assert answer.status_code == 503
        assert url in answer.json()["error"]
        assert answer.headers["retry-after"] == "1"


def test_what_the_predictor_says_reaches_the_caller(explainer: httpx.Client) -> None:
    """A client error of the model's is the caller's own, with the model's words."""
    Model.status = 400
    answer = explainer.post("/v1/models/m:explain", json={"instances": [[1, 2, 3]]})

    assert answer.status_code == 400
    assert "the predictor answered 400" in answer.json()["error"]


def test_a_slow_predictor_meets_the_deadline(explainer: httpx.Client) -> None:
    """The deadline of the request ends the waiting, with 504 when nothing was found."""
    Model.pause_s = 2.0
    body = {"instances": [[1, 2, 3]], "parameters": {"deadline_ms": 300}}
    answer = explainer.post("/v1/models/m:explain", json=body)

    assert answer.status_code == 504


def test_concurrent_answers_are_the_sequential_ones(explainer: httpx.Client) -> None:
    """Thirty-two explanations at once are byte for byte what they are one after the other."""
    bodies = [{"instances": [[float(at), 1.0, -1.0]], "parameters": {"seed": at}} for at in range(32)]

    def ask(body: dict[str, Any]) -> bytes:
        return explainer.post("/v1/models/m:explain", json=body).content

    alone = [ask(body) for body in bodies]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(ask, bodies))

    assert together == alone


def test_every_error_has_a_status() -> None:
    """An error class without a status would come out as a bare 500."""
    leaves = [
        kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.ExplainError)
    ]

    assert {kind for kind in leaves if kind is not errors.ExplainError} <= set(STATUS)
