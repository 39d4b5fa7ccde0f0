"""Texts and versions that come through a transformer from the predictor behind it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, TypeAlias

import grpc
import httpx
import numpy as np
import orjson
import pytest

from inference.protocol import grpc_streams, grpc_texts, v2
from inference.protocol.grpc_codec import encode_request
from inference.protocol.tensors import Tensor
from inference.settings import SETTINGS_FILE
from tests.inference.grpc.calling import client as grpc_client
from tests.inference.grpc.calling import code_of
from tests.inference.serving import ECHO, Server, eventually, predictor
from tests.inference.upstream.scripted import CLOSE, Scripted, scripted

_PLAIN = "class Transformer:\n    def postprocess(self, outputs):\n        return outputs"
Chain: TypeAlias = tuple[httpx.Client, Server, Path]
_VERSION = "x-sidelight-model-version"


@contextmanager
def _transformer(folder: Path, host: str, *words: str) -> Iterator[Server]:
    code = folder / "code"
    code.mkdir()
    (code / "transformer.py").write_text(_PLAIN)
    (code / SETTINGS_FILE).write_text('{"version": "own"}')
    with predictor(code, folder, "--trusted", "--predictor_host", host, *words) as server:
        yield server


@contextmanager
def _chain(folder: Path, protocol: str = "v2") -> Iterator[Chain]:
    """Serve an echo of version 7 behind a transformer; give a client, the transformer, and the echo's folder."""
    echo = folder / "echo"
    (echo / "logs").mkdir(parents=True)
    (echo / SETTINGS_FILE).write_text('{"version": "7"}')
    with predictor(echo, echo / "logs", "--runtime", ECHO) as behind:
        host = behind.grpc if protocol == "grpc-v2" else behind.url.removeprefix("http://")
        with _transformer(folder, host, "--predictor_protocol", protocol) as server, server.client() as client:
            yield client, server, echo


@pytest.fixture(scope="module", name="chain")
def _served(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chain]:
    """Serve an echo and a transformer that asks it in the test's protocol."""
    with _chain(tmp_path_factory.mktemp("chain"), request.param) as served:
        yield served


def _events(lines: Iterator[str]) -> list[Any]:
    return [json.loads(line.removeprefix("data: ")) for line in lines if line]


def _sse(*events: object) -> Scripted:
    return 200, {}, b"".join(b"data: " + orjson.dumps(event) + b"\r\n\r\n" for event in events)


@pytest.mark.parametrize("chain", ["v1", "v2", "grpc-v2"], indirect=True)
def test_texts_come_through_piece_by_piece(chain: Chain) -> None:
    """Whole and as a stream, with the version of the model that makes them; what ends one ends the other."""
    client, _, _ = chain
    whole = client.post("/v2/models/m/generate", json={"text_input": "to be", "max_tokens": 3, "id": "a"})
    with client.stream("POST", "/v2/models/m/generate_stream", json={"text_input": "to be"}) as answer:
        pieces, version = _events(answer.iter_lines()), answer.headers[_VERSION]
    refused = client.post("/v2/models/m/generate", json={"text_input": ""})
    with client.stream("POST", "/v2/models/m/generate_stream", json={"text_input": "to fail now"}) as answer:
        broken = _events(answer.iter_lines())

    assert whole.json() == {"id": "a", "model_name": "m", "model_version": "7", "text_output": "tobeto"}
    assert whole.headers[_VERSION] == version == "7"
    assert [(piece["text_output"], piece["done"], piece["model_version"]) for piece in pieces] == [
        ("to", False, "7"), ("be", False, "7"), ("", True, "7"),
    ]  # fmt: skip
    assert (refused.status_code, refused.json()) == (400, {"error": "text_input: expected a word"})
    assert broken[0]["text_output"] == "to"
    assert "the word was fail" in broken[-1]["error"]


@pytest.mark.parametrize("chain", ["v2", "grpc-v2"], indirect=True)
def test_a_client_that_leaves_stops_the_model_behind(chain: Chain) -> None:
    """Pieces come when they are made, and nobody makes more for a client that has gone."""
    client, _, echo = chain
    (echo / "closed").unlink(missing_ok=True)
    asked = {"text_input": "on and", "max_tokens": 10**9}
    with client.stream("POST", "/v2/models/m/generate_stream", json=asked) as answer:
        first = next(answer.iter_lines())
    eventually((echo / "closed").exists, "the model behind stops")

    assert json.loads(first.removeprefix("data: "))["text_output"] == "on"


@pytest.mark.parametrize("chain", ["v2", "grpc-v2"], indirect=True)
def test_streams_of_texts_pass_both_ways(chain: Chain) -> None:
    """A client over gRPC has an answer for each piece, though only the predictor behind knows that it makes text."""
    _, server, _ = chain
    with grpc_client(server.grpc) as stub:
        answers = [
            grpc_streams.decode(data)
            for data in stub.stream(iter([_message("to be"), _message("or fail", max_tokens=3)]))
        ]

    assert [grpc_texts.piece_in(answer) for answer, _ in answers] == ["to", "be", "or", ""]
    assert {answer.model_version for answer, wrong in answers if not wrong} == {"7"}
    assert "the word was fail" in answers[-1][1]


@pytest.mark.parametrize("chain", ["v2", "grpc-v2"], indirect=True)
def test_who_asked_for_it_gets_the_status(chain: Chain) -> None:
    """With Triton's word for that, what is wrong ends the stream, and whose mistake it is comes through."""
    _, server, _ = chain
    found = []
    with grpc_client(server.grpc) as stub:
        for text in ("", "fail"):
            call = stub.stream(iter([_message(text)]), [("triton_grpc_error", "true")])
            found.append((code_of(call), call.details()))

    assert found[0] == (grpc.StatusCode.INVALID_ARGUMENT, "text_input: expected a word")
    assert found[1][0] is grpc.StatusCode.INTERNAL
    assert "the word was fail" in found[1][1]


def _message(text: str, **parameters: Any) -> bytes:  # noqa: ANN401 - as V2 has them
    prompt = Tensor.of("text_input", np.array([text], object))
    return encode_request("m", v2.InferRequest(inputs=(prompt,), parameters=parameters), raw=True)


@pytest.mark.parametrize(("first", "second"), [("grpc-v2", "grpc-v2"), ("v2", "v1")])
def test_texts_come_through_two_transformers(tmp_path: Path, first: str, second: str) -> None:
    """Each knows by the next one's metadata that it makes text, though both stand before a third."""
    folders = [tmp_path / name for name in ("before", "between", "behind")]
    for folder in folders:
        folder.mkdir()
    with ExitStack() as stack:
        behind = stack.enter_context(predictor(folders[2], folders[2], "--runtime", ECHO))
        host = behind.grpc if second == "grpc-v2" else behind.url.removeprefix("http://")
        between = stack.enter_context(_transformer(folders[1], host, "--predictor_protocol", second))
        host = between.grpc if first == "grpc-v2" else between.url.removeprefix("http://")
        before = stack.enter_context(_transformer(folders[0], host, "--predictor_protocol", first))
        client, stub = stack.enter_context(before.client()), stack.enter_context(grpc_client(before.grpc))
        streamed = [grpc_streams.decode(data)[0] for data in stub.stream(iter([_message("to be")]))]
        described = client.get("/v2/models/m").json()
        whole = client.post("/v2/models/m/generate", json={"text_input": "to be"}).json()

    assert [grpc_texts.piece_in(answer) for answer in streamed] == ["to", "be"]
    assert whole["text_output"] == "tobe"
    assert [described[kind][0]["name"] for kind in ("inputs", "outputs")] == ["text_input", "text_output"]


_FAILURES: tuple[tuple[Scripted, int, str], ...] = (
    # On a connection of its own: one that ends while it is kept says nothing of the call.
    (CLOSE, 502, "broke the connection off"),
    ((404, {}, b'{"error": "no texts"}'), 404, "no texts"),
    ((503, {}, b"{}"), 503, "answered 503"),
    ((500, {}, b"{}"), 502, "answered 500"),
    ((200, {}, b"data: so\n\n"), 502, "no JSON"),
    (_sse({"odd": 1}), 502, "without text_output"),
    (_sse({"error": "no mood"}), 502, "no mood"),
    (_sse({"text_output": "a"}, {"error": "no mood"}), 502, "no mood"),
    (_sse({"text_output": "a" * 600}), 502, "more than 500 bytes"),
)


def test_failures_keep_whose_they_are(tmp_path: Path) -> None:
    """What the predictor refuses is the caller's, what it fails at is a bad gateway, with its own words."""
    with ExitStack() as stack:
        script = stack.enter_context(scripted(*(told for told, _, _ in _FAILURES)))
        words = ("--predictor_max_piece_bytes", "500")
        server = stack.enter_context(_transformer(tmp_path, f"127.0.0.1:{script.port}", *words))
        client = stack.enter_context(server.client())
        answers = [client.post("/v2/models/m/generate", json={"text_input": "a"}) for _ in _FAILURES]

    assert [answer.status_code for answer in answers] == [status for _, status, _ in _FAILURES]
    for answer, (_, _, says) in zip(answers, _FAILURES, strict=True):
        assert says in answer.json()["error"]
    assert {path for path, _, _ in script.asked} == {"/v2/models/m/generate_stream"}


def test_texts_without_a_last_event_are_texts(tmp_path: Path) -> None:
    """Triton's streams just end; comments, other fields and empty pieces are no text."""
    body = b': hello\nevent: x\ndata: {"text_output": "a"}\n\ndata:{"text_output": ""}\n\n'
    body += b'data: {"text_output":\ndata: "b"}\n\n'
    with ExitStack() as stack:
        script = stack.enter_context(scripted((200, {_VERSION: "3"}, body)))
        server = stack.enter_context(_transformer(tmp_path, f"127.0.0.1:{script.port}"))
        client = stack.enter_context(server.client())
        answers = [client.post("/v2/models/m/generate", json={"text_input": "a"}).json() for _ in range(2)]

    assert answers == [{"model_name": "m", "model_version": "3", "text_output": "ab"}] * 2
    assert len(script.connections) == 1


@pytest.mark.parametrize("chain", ["v1", "v2", "grpc-v2"], indirect=True)
def test_the_version_is_the_predictors(chain: Chain) -> None:
    """In V2's body, over gRPC and in the header of V1 and V2, whatever the transformer asks in."""
    rows = v2.InferRequest(inputs=(Tensor.of("x", np.ones((1, 2))),))
    client, server, _ = chain
    over_v1 = client.post("/v1/models/m:predict", json={"instances": [[1, 2]]})
    over_v2 = client.post("/v2/models/m/infer", content=v2.encode_request(rows)[0])
    with grpc_client(server.grpc) as stub:
        over_grpc = stub.infer(rows)

    assert [answer.headers[_VERSION] for answer in (over_v1, over_v2)] == ["7", "7"]
    assert [over_v2.json()["model_version"], over_grpc.model_version] == ["7", "7"]


def test_another_name_and_no_version(tmp_path: Path) -> None:
    """A predictor's answer in another name keeps it as a parameter; without a version, it is the transformer's."""
    told = {"model_name": "n", "outputs": [{"name": "y", "shape": [1], "datatype": "FP64", "data": [1.5]}]}
    body = v2.encode_request(v2.InferRequest(inputs=(Tensor.of("x", np.ones((1, 2))),)))[0]
    with scripted((200, {}, orjson.dumps(told))) as script:
        asked = _transformer(tmp_path, f"127.0.0.1:{script.port}", "--predictor_protocol", "v2")
        with asked as server, server.client() as client:
            answer = client.post("/v2/models/m/infer", content=body)

    assert answer.json()["model_name"] == "m"
    assert answer.json()["parameters"] == {"predictor_model_name": "n"}
    assert answer.json()["model_version"] == answer.headers[_VERSION] == "own"
