"""Texts from predictors that misbehave: pieces without end, no end after the last, nothing that is a text."""

from __future__ import annotations

import random
import re
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from typing import Any, BinaryIO

import numpy as np
import orjson
import pytest

from inference.errors import PredictorFailed
from inference.protocol import grpc_texts
from inference.protocol.errors import BadTensor
from inference.protocol.v2 import InferResponse
from inference.upstream.link import Link
from inference.upstream.settings import UpstreamSettings

_HEAD = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
_END = b"0\r\n\r\n"


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def _event(text: str, *, done: bool = False) -> bytes:
    return b"data: " + orjson.dumps({"text_output": text, "done": done}) + b"\n\n"


def _request(coming: BinaryIO) -> bool:
    """Read a request; False at the end of the connection."""
    head = b"".join(iter(coming.readline, b"\r\n")) if coming.peek(1) else b""  # type: ignore[attr-defined] # it is buffered
    found = re.search(rb"(?i)content-length: (\d+)", head)
    if found is not None:
        coming.read(int(found[1]))
    return found is not None


@contextmanager
def _answering(*answers: bytes, again: bytes = b"") -> Iterator[tuple[Link, ThreadPoolExecutor, list[int]]]:
    """Serve each answer on the one connection, or on new ones; then say `again` until the client has left."""
    taken: list[int] = []

    def serve(server: socket.socket) -> int:
        left = list(answers)
        while left:
            connection, _ = server.accept()
            taken.append(0)
            with connection, connection.makefile("rb") as coming:
                while left and _request(coming):
                    taken[-1] += 1
                    connection.sendall(left.pop(0))
                try:
                    while again and not left:
                        connection.sendall(again)
                    while connection.recv(65_536):
                        pass
                except OSError:
                    pass
        return len(taken)

    with (
        closing(socket.create_server(("127.0.0.1", 0))) as server,
        ThreadPoolExecutor(1) as threads,
        closing(Link(_settings(server), random.Random(0))) as link,
    ):
        serving = threads.submit(serve, server)
        yield link, threads, taken
        link.close()
        serving.result(60)


def _settings(server: socket.socket) -> UpstreamSettings:
    return UpstreamSettings(host="127.0.0.1", port=server.getsockname()[1], max_piece=10_000, timeout_s=20)


def _text(link: Link) -> list[str]:
    return list(link.generate("m", "a", {}))


def test_the_text_ends_with_its_last_event() -> None:
    """What a server says after `done`, for ever, is not waited for, and no part of the text."""
    begun = _HEAD + _chunk(_event("a")) + _chunk(_event("b", done=True))
    with _answering(begun, begun, again=_chunk(b": more\n\n")) as (link, _, taken):
        found = [_text(link), _text(link)]

    assert found == [["a", "b"], ["a", "b"]]
    assert taken == [1, 1]


def test_a_silent_end_is_not_waited_for() -> None:
    """A server that says `done` and then neither more nor the end of the body."""
    with _answering(_HEAD + _chunk(_event("a", done=True))) as (link, _, _taken):
        assert _text(link) == ["a"]


def test_a_text_that_ends_leaves_its_connection() -> None:
    """Where the body's end comes with the last event, the next text needs no new connection."""
    whole = _HEAD + _chunk(_event("a", done=True)) + _END
    with _answering(whole, whole) as (link, _, taken):
        found = [_text(link), _text(link)]

    assert found == [["a"], ["a"]]
    assert taken == [2]


@pytest.mark.parametrize(
    "piece",
    [b"x" * 1_000, b"data: x\n", b"data:\n" * 1_000, b"data: " + b"x" * 20_000 + b"\n\n"],
    ids=["line", "event", "empty lines", "at once"],
)
def test_pieces_without_end_are_refused(piece: bytes) -> None:
    """A line, or an event of many lines, that does not end is the predictor's failure, long before memory is short."""
    with _answering(_HEAD + _chunk(_event("a")), again=_chunk(piece)) as (link, _, _taken):
        text = link.generate("m", "a", {})

        assert next(text) == "a"
        with pytest.raises(PredictorFailed, match="more than 10000 bytes: --predictor_max_piece_bytes"):
            next(text)


@pytest.mark.parametrize(
    ("parameters", "inputs", "tensors", "left"),
    [
        ({}, {}, [("text_input", "BYTES", (1,), b"p")], {}),
        ({"n": 3}, {}, [("text_input", "BYTES", (1,), b"p")], {"n": 3}),
        (
            {"n": 3, "stop": "s", "list": [1]},
            {
                "text_input": ("BYTES", (-1, 1)),
                "n": ("INT32", (-1, 1)),
                "stop": ("BYTES", (1,)),
                "list": ("INT32", (1,)),
            },
            [("text_input", "BYTES", (1, 1), b"p"), ("n", "INT32", (1, 1), 3), ("stop", "BYTES", (1,), b"s")],
            {"list": [1]},
        ),
        ({"n": 1}, {"n": ("BYTES", (4,))}, [("text_input", "BYTES", (1,), b"p"), ("n", "BYTES", (1,), b"1")], {}),
    ],
)
def test_prompts_go_as_the_model_takes_them(
    parameters: dict[str, Any], inputs: dict[str, Any], tensors: list[Any], left: dict[str, Any]
) -> None:
    """What the model has an input for is a tensor of its datatype and shape, all else a parameter."""
    request = grpc_texts.encode("p", parameters, inputs)

    assert [(each.name, each.datatype, each.shape, each.data.ravel()[0]) for each in request.inputs] == tensors
    assert request.parameters == left


@pytest.mark.parametrize("value", ["x", 1e99, 300, 1.0])
def test_values_that_do_not_fit(value: Any) -> None:  # noqa: ANN401 - whatever JSON holds
    """Text for a number, or a number that is too large, is the caller's mistake."""
    with pytest.raises(BadTensor, match="'n'"):
        grpc_texts.encode("p", {"n": value}, {"n": ("INT8", (1,))})


def test_answers_without_a_text() -> None:
    """Other outputs than `text_output` are no piece; none at all is an empty one."""
    numbers = grpc_texts.encode("p", {"n": 1}, {"n": ("INT8", (1,))}).inputs

    assert grpc_texts.piece_in(InferResponse(model_name="m", outputs=())) == ""
    with pytest.raises(BadTensor, match="got text_input, n"):
        grpc_texts.piece_in(InferResponse(model_name="m", outputs=numbers))
    assert np.all(numbers[1].data == 1)
