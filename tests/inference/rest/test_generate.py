"""generate and generate_stream over a real socket: texts whole and in pieces, failures, clients that leave."""

from __future__ import annotations

import gzip
import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from tests.inference.serving import ECHO, Server, eventually, predictor

ENDLESS = {"text_input": "a", "parameters": {"max_tokens": 10**9}}
WHOLE, STREAM = "/v2/models/m/generate", "/v2/models/m/generate_stream"


@pytest.fixture(name="model")
def _model(tmp_path: Path) -> Path:
    model = tmp_path / "model"
    model.mkdir()
    return model


@pytest.fixture(name="server")
def _server(model: Path) -> Iterator[Server]:
    with predictor(model, model.parent, "--runtime", ECHO, "--max_threads", "1") as server:
        yield server


@pytest.fixture(name="client")
def _client(server: Server) -> Iterator[httpx.Client]:
    with server.client() as client:
        yield client


def _events(answer: httpx.Response) -> Iterator[dict[str, Any]]:
    for line in answer.iter_lines():
        if line:
            assert line.startswith("data: ")
            yield json.loads(line.removeprefix("data: "))


def test_whole_texts(client: httpx.Client) -> None:
    """The text comes whole, with model, version and the request's id; parameters may also stand at the top."""
    asked = {"id": "q", "text_input": "never say no ", "parameters": {"max_tokens": 4}}
    answer = client.post(WHOLE, json=asked)
    versioned = client.post("/v2/models/m/versions/1/generate", json={"text_input": "a b", "max_tokens": 1})

    assert answer.status_code == 200
    assert answer.json() == {"id": "q", "model_name": "m", "model_version": "1", "text_output": "neversaynonever"}
    assert answer.headers["x-sidelight-model-version"] == "1"
    assert versioned.json() == {"model_name": "m", "model_version": "1", "text_output": "a"}


def test_texts_in_pieces(client: httpx.Client) -> None:
    """Each piece is an event, the last event says that it is done, and pieces are counted."""
    with client.stream("POST", STREAM, json={"text_input": "a b c"}) as answer:
        events = list(_events(answer))
    metrics = client.get("/metrics").text

    assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert events == [
        {"model_name": "m", "model_version": "1", "text_output": piece, "done": done}
        for piece, done in (("a", False), ("b", False), ("c", False), ("", True))
    ]
    assert 'sidelight_predictor_text_pieces_total{model_name="m"} 3.0' in metrics
    assert (
        'sidelight_predictor_requests_total{model_name="m",protocol="generate",status="200",synthetic="false"} 1.0'
        in metrics
    )


def test_pieces_come_as_they_are_made(client: httpx.Client, model: Path) -> None:
    """The first piece is there before the second is made."""
    with client.stream("POST", STREAM, json={"text_input": "a b", "parameters": {"wait": True}}) as answer:
        events = _events(answer)
        first = next(events)
        made = (model / "made").read_text()
        (model / "open").touch()
        rest = list(events)

    assert (first["text_output"], made) == ("a", "1")
    assert [event["text_output"] for event in rest] == ["b", ""]


def _stopped(client: httpx.Client, model: Path) -> httpx.Response:
    """Wait until the model has stopped and the client that left is counted; then ask for another text."""
    eventually((model / "closed").exists, "the model has stopped")
    counted = 'sidelight_predictor_errors_total{error="ClientGone",model_name="m"} 1.0'
    eventually(lambda: counted in client.get("/metrics").text, "the client that left is counted")
    return client.post(WHOLE, json={"text_input": "after"})


def test_clients_that_leave_a_stream(client: httpx.Client, server: Server, model: Path) -> None:
    """When the client goes away in mid-text the model stops, its thread is free, and the server serves on."""
    with server.client() as leaving, leaving.stream("POST", STREAM, json=ENDLESS) as answer:
        next(_events(answer))
    after = _stopped(client, model)

    assert after.json()["text_output"] == "after"
    assert "Traceback" not in server.log.read_text()


def test_clients_that_do_not_wait_for_the_whole(client: httpx.Client, server: Server, model: Path) -> None:
    """The same for a text that nobody waits for any more."""
    address, body = urlsplit(server.url), json.dumps(ENDLESS).encode()
    with socket.create_connection((address.hostname, address.port), timeout=60) as leaving:
        leaving.sendall(
            b"POST %b HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % (WHOLE.encode(), len(body)) + body
        )
        # One that leaves before anything is made is never asked for it.
        eventually((model / "made").exists, "the first word")
    after = _stopped(client, model)

    assert after.json()["text_output"] == "after"
    assert "Traceback" not in server.log.read_text()


def test_failures_in_mid_text(client: httpx.Client) -> None:
    """A model that fails after some pieces ends the stream with an error; a whole text fails as a whole."""
    with client.stream("POST", STREAM, json={"text_input": "a fail b"}) as answer:
        events = list(_events(answer))
    whole = client.post(WHOLE, json={"text_input": "a fail b"})

    assert [event.get("text_output") for event in events] == ["a", None]
    assert events[-1] == {"error": "RuntimeError : the word was fail"}
    assert (whole.status_code, whole.json()) == (500, {"error": "RuntimeError : the word was fail"})


@pytest.mark.parametrize("path", [WHOLE, STREAM])
@pytest.mark.parametrize(
    ("body", "status", "says"),
    [
        (b"{", 400, "no JSON"),
        (b"[]", 400, "expected a JSON object, got list"),
        (b'{"text_input": 1}', 400, "text_input: expected text, got int"),
        (b'{"text_input": "a", "parameters": [1]}', 400, "parameters: expected a JSON object, got list"),
        (b'{"text_input": "a", "id": 1}', 400, "id: expected text, got int"),
        (b'{"text_input": " "}', 400, "text_input: expected a word"),
    ],
)
def test_refusals(client: httpx.Client, path: str, body: bytes, status: int, says: str) -> None:
    """What is wrong before the first piece is a status and an error, for streams, too."""
    answer = client.post(path, content=body)

    assert answer.status_code == status
    assert says in answer.json()["error"]


def test_models_without_texts(tmp_path: Path, model: Path) -> None:
    """A model that makes no text says so; an unknown one is not found."""
    with predictor(model, tmp_path, "--runtime", "tests.inference.halves:Halves") as server, server.client() as client:
        answers = [
            client.post(path, json={"text_input": "a"})
            for path in (WHOLE, STREAM, "/v2/models/n/generate", "/v2/models/m/versions/9/generate_stream")
        ]

    assert [answer.status_code for answer in answers] == [501, 501, 404, 404]
    assert answers[0].json() == {"error": "this model generates no text"}


def test_texts_by_events(client: httpx.Client) -> None:
    """A CloudEvent may ask for a text, and gets it in an event; a stream stays a stream."""
    headers = {"ce-specversion": "1.0", "ce-id": "1", "ce-source": "s", "ce-type": "t"}
    whole, stream = (client.post(path, json={"text_input": "a b"}, headers=headers) for path in (WHOLE, STREAM))

    assert (whole.headers["ce-type"], whole.json()["text_output"]) == ("io.kserve.inference.response", "ab")
    assert [event["text_output"] for event in _events(stream)] == ["a", "b", ""]


def test_compressed_bodies(client: httpx.Client) -> None:
    """A compressed request is read."""
    body = gzip.compress(json.dumps({"text_input": "a b"}).encode())

    assert client.post(WHOLE, content=body, headers={"content-encoding": "gzip"}).json()["text_output"] == "ab"
