"""The batcher over real sockets, between clients and a model that is a function of the request."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deploy.kafka.ports import free_port
from logger.batcher import Batcher
from logger.batching.settings import BatchSettings
from logger.batching.tally import WAITING, BatchTally
from logger.settings import ProxySettings

PREDICT, INFER = "/v1/models/m:predict", "/v2/models/m/infer"
BAD, WORSE, BUSY = -1, -2, -3
"""Rows for which the model answers 400, 500 and 503."""


@dataclass(frozen=True)
class Heard:
    """A request as the model had it, or an answer as a client had it; header names are lower case."""

    line: str
    fields: dict[str, str]
    body: bytes

    @property
    def status(self) -> int:
        """Give an answer's status."""
        return int(self.line.split()[1])

    @property
    def target(self) -> str:
        """Give a request's target."""
        return self.line.split()[1]


Handler = Callable[["Stage", Heard, asyncio.StreamWriter], Awaitable[None]]


def predicted(request: Heard) -> tuple[int, dict[str, Any]]:
    """Be the model: one answer for each row, and an error for the first bad one."""
    fields = json.loads(request.body)
    v2 = request.target.startswith(INFER)
    rows = fields["inputs"][0]["data"] if v2 else [row[0] for row in fields["instances"]]
    for status, bad in ((400, BAD), (500, WORSE), (503, BUSY)):
        if bad in rows:
            return status, {"error": f"row {bad} of {request.fields.get('x-kind', '')}"}
    answers = [row * 2 for row in rows]
    if not v2:
        return 200, {"predictions": answers}
    output = {"name": "y", "shape": [len(rows)], "datatype": "FP64", "data": answers}
    identity = {"id": fields["id"]} if "id" in fields else {}
    return 200, {"model_name": "m", **identity, "outputs": [output]}


async def read(reader: asyncio.StreamReader) -> Heard:
    """Read a message with a length, or in chunks."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode()
    line, *rest = head.split("\r\n")
    fields = {name.lower(): value.strip() for name, _, value in (item.partition(":") for item in rest if item)}
    if "content-length" in fields:
        return Heard(line, fields, await reader.readexactly(int(fields["content-length"])))
    body = b""
    while size := int(await reader.readline(), 16):
        body += await reader.readexactly(size)
        await reader.readline()
    await reader.readline()
    return Heard(line, fields, body)


def answer(status: int, content: object, **fields: str) -> bytes:
    """Write an answer."""
    body = content if isinstance(content, bytes) else json.dumps(content).encode()
    lines = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in fields.items())
    return (
        f"HTTP/1.1 {status} X\r\ncontent-type: application/json\r\n{lines}content-length: {len(body)}\r\n\r\n".encode()
        + body
    )


async def plain(stage: Stage, request: Heard, writer: asyncio.StreamWriter) -> None:
    """Answer at once."""
    status, content = predicted(request)
    writer.write(answer(status, content, x_seen=str(len(stage.requests))))


@dataclass
class Stage:
    """A batcher with its model."""

    port: int
    batcher: Batcher
    requests: list[Heard] = field(default_factory=list)
    """What the model has seen, in order."""
    closed: int = 0
    """Connections to the model that are over."""
    stopping: asyncio.Event = field(default_factory=asyncio.Event)

    async def call(self, content: object, target: str = PREDICT, **fields: str) -> Heard:
        """Make one call on a connection of its own."""
        reader, writer = await self.send(content, target, **fields)
        found = await asyncio.wait_for(read(reader), 60)
        writer.close()
        return found

    async def send(
        self, content: object, target: str = PREDICT, **fields: str
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Send a call and do not wait for its answer."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        writer.write(written(content, target, **fields))
        await writer.drain()
        return reader, writer

    def rows(self) -> list[list[int]]:
        """Give the rows of each request that the model has seen, in V1."""
        return [[row[0] for row in json.loads(request.body)["instances"]] for request in self.requests]


def written(content: object, target: str = PREDICT, **fields: str) -> bytes:
    """Write a call as a proxy does."""
    body = content if isinstance(content, bytes) else json.dumps(content).encode()
    named = {"host": "h", "content-type": "application/json"} | {
        name.replace("_", "-"): value for name, value in fields.items()
    }
    lines = "".join(f"{name}: {value}\r\n" for name, value in named.items())
    return f"POST {target} HTTP/1.1\r\n{lines}content-length: {len(body)}\r\n\r\n".encode() + body


@contextlib.asynccontextmanager
async def staged(handler: Handler | None, **chosen: float) -> AsyncIterator[Stage]:
    """Run a batcher before a model that answers by `handler`; None is a model that is not there."""

    async def model(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while handler is not None:
                request = await read(reader)
                stage.requests.append(request)
                await handler(stage, request, writer)
                await writer.drain()
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            stage.closed += 1
            writer.close()

    server = await asyncio.start_server(model, "127.0.0.1", 0)
    # The server's own would be anybody's once it is closed.
    port: int = free_port() if handler is None else server.sockets[0].getsockname()[1]
    proxy = ProxySettings(upstream_port=port, answer_s=chosen.pop("answer_s", 60.0))
    listening = socket.create_server(("127.0.0.1", 0))
    settings = BatchSettings(**{"max_rows": 8, "max_latency_ms": 5_000, **chosen})  # type: ignore[arg-type] # by name
    batcher = Batcher(settings, proxy, BatchTally())
    stage = Stage(listening.getsockname()[1], batcher)
    serving = asyncio.create_task(batcher.serve(listening, stage.stopping))
    try:
        yield stage
    finally:
        stage.stopping.set()
        await asyncio.wait_for(serving, 60)
        server.close()


def run(handler: Handler | None, test: Callable[[Stage], Awaitable[None]], **chosen: float) -> None:
    """Run a test against a staged batcher."""

    async def main() -> None:
        async with staged(handler, **chosen) as stage:
            await asyncio.wait_for(test(stage), 150)

    asyncio.run(main())


async def until(condition: Callable[[], bool]) -> None:
    """Wait for what has to come."""
    for _ in range(12_000):
        if condition():
            return
        await asyncio.sleep(0.005)
    raise AssertionError("it never came")


def rows(*values: int, **more: object) -> dict[str, object]:
    """Give a V1 call's content."""
    return {"instances": [[value] for value in values], **more}


def tensor(*values: int, **more: object) -> dict[str, object]:
    """Give a V2 call's content."""
    return {"inputs": [{"name": "x", "shape": [len(values)], "datatype": "FP64", "data": list(values)}], **more}


def test_calls_become_one_and_answers_are_split() -> None:
    """Eight rows of four clients: the model is asked once, and each client has its own rows' answers."""

    async def test(stage: Stage) -> None:
        answers = await asyncio.gather(*(stage.call(rows(index, 10 * index)) for index in range(4)))

        assert [json.loads(found.body) for found in answers] == [
            {"predictions": [2 * index, 20 * index]} for index in range(4)
        ]
        assert [found.status for found in answers] == [200] * 4
        assert len(stage.requests) == 1

    run(plain, test)


def test_v2_calls_become_one_and_keep_their_ids() -> None:
    """As in V1; each answer has its own call's id, and none where none was given."""

    async def test(stage: Stage) -> None:
        calls = [tensor(1, 2, 3, id="a"), tensor(4, 5, 6), tensor(7, 8, id="c")]
        answers = await asyncio.gather(*(stage.call(call, INFER) for call in calls))

        contents = [json.loads(found.body) for found in answers]
        assert [content.get("id") for content in contents] == ["a", None, "c"]
        assert [content["outputs"][0]["data"] for content in contents] == [[2, 4, 6], [8, 10, 12], [14, 16]]
        assert len(stage.requests) == 1

    run(plain, test)


VALUES = st.sampled_from([1, 2, 3, 4, 5, BAD, WORSE, BUSY, 6, 7, 8, 9])
CALLS = st.lists(
    st.tuples(
        st.sampled_from([PREDICT, PREDICT + "?a=b", INFER, "/v1/models/other:predict"]),
        st.lists(VALUES.filter(lambda value: value != BUSY), min_size=1, max_size=5),
        st.sampled_from(["", "blue"]),
        st.sampled_from([None, "id-1", "id-2"]),
        st.integers(0, 3),
    ),
    min_size=1, max_size=12,
)  # fmt: skip


@settings(max_examples=60)
@given(CALLS, st.integers(1, 9), st.booleans(), st.integers(0, 3))
def test_any_interleaving_answers_each_client_as_if_alone(
    calls: list[tuple[str, list[int], str, str | None, int]],
    most: int,
    early: bool,  # noqa: FBT001 - drawn
    slow: int,
) -> None:
    """Paths, headers, ids, bad rows and pauses as they come: each gets what the model gives it alone."""

    async def handler(_stage: Stage, request: Heard, writer: asyncio.StreamWriter) -> None:
        status, content = predicted(request)
        for _ in range(slow):
            await asyncio.sleep(0)
        writer.write(answer(status, content))

    async def one(stage: Stage, call: tuple[str, list[int], str, str | None, int]) -> tuple[Heard, Heard]:
        target, values, kind, identity, pause = call
        content = tensor(*values) if target == INFER else rows(*values)
        if identity is not None and target == INFER:
            content["id"] = identity
        for _ in range(pause):
            await asyncio.sleep(0.001)
        fields = {"x_kind": kind} if kind else {}
        found = await stage.call(content, target, x_request_id=str(id(call)), **fields)
        alone = Heard(f"POST {target}", {"x-kind": kind} if kind else {}, json.dumps(content).encode())
        return found, alone

    async def test(stage: Stage) -> None:
        for found, alone in await asyncio.gather(*(one(stage, call) for call in calls)):
            assert (found.status, json.loads(found.body)) == predicted(alone)
        # Nobody is asked more often than once in company and once alone.
        assert len(stage.requests) <= 2 * len(calls)

    run(handler, test, max_rows=most, early=early, max_latency_ms=4)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({}, {"authorization": "Bearer b"}),
        ({"x_tenant": "a"}, {"x_tenant": "b"}),
        ({"accept": "application/json"}, {}),
        ({}, {"x_sidelight_synthetic": "1"}),
        ({"target": PREDICT}, {"target": PREDICT + "?explain=1"}),
    ],
)
def test_relevant_headers_keep_calls_apart(one: dict[str, str], other: dict[str, str]) -> None:
    """What may change an answer has to be equal; the model sees each header with its own rows."""

    async def test(stage: Stage) -> None:
        await asyncio.gather(stage.call(rows(1), **one), stage.call(rows(2), **other))

        assert sorted(stage.rows()) == [[1], [2]]

    run(plain, test, max_latency_ms=20)


def test_personal_headers_do_not() -> None:
    """Request ids, traces and user agents differ always; a batch has none of them, and an id of its own."""

    async def test(stage: Stage) -> None:
        await asyncio.gather(
            *(
                stage.call(
                    rows(*range(4)),
                    x_request_id=f"r{index}",
                    traceparent=f"t{index}",
                    user_agent=f"u{index}",
                    x_kind="k",
                )
                for index in range(2)
            )
        )
        (seen,) = stage.requests

        assert seen.fields["x-request-id"].startswith("batch-")
        assert seen.fields["x-kind"] == "k"
        assert {"traceparent", "user-agent"}.isdisjoint(seen.fields)

    run(plain, test)


def test_a_lone_call_arrives_as_it_was() -> None:
    """Nobody came in time: the model has the client's own bytes and headers, and the answer its headers."""

    async def test(stage: Stage) -> None:
        body = b'{ "instances" : [[1]] }'
        found = await stage.call(body, x_request_id="r", traceparent="t", user_agent="u")
        (seen,) = stage.requests

        assert seen.body == body
        assert (seen.fields["x-request-id"], seen.fields["traceparent"], seen.fields["user-agent"]) == ("r", "t", "u")
        assert found.fields["x-seen"] == "1"

    run(plain, test, max_latency_ms=1)


@pytest.mark.parametrize(("bad", "status"), [(BAD, 400), (WORSE, 500)])
def test_bad_rows_fail_their_own_call_only(bad: int, status: int) -> None:
    """The batch is refused; then each call is made by itself, once, and only the bad one's client hears of it."""

    async def test(stage: Stage) -> None:
        answers = await asyncio.gather(*(stage.call(rows(value, value)) for value in (1, bad, 3, 4)))

        assert [found.status for found in answers] == [200, status, 200, 200]
        assert json.loads(answers[2].body) == {"predictions": [6, 6]}
        assert len(stage.requests) == 5

    run(plain, test)


def test_an_overloaded_model_is_not_asked_again() -> None:
    """503 is the model's word to all: each client hears it, with the model's own text and headers, after one call."""

    async def busy(_stage: Stage, _request: Heard, writer: asyncio.StreamWriter) -> None:
        writer.write(answer(503, {"error": "busy"}, retry_after="7"))

    async def test(stage: Stage) -> None:
        answers = await asyncio.gather(*(stage.call(rows(value, value)) for value in range(4)))

        assert {(found.status, found.body, found.fields["retry-after"]) for found in answers} == {
            (503, b'{"error": "busy"}', "7")
        }
        assert len(stage.requests) == 1

    run(busy, test)


def test_after_a_failed_batch_few_calls_run_at_a_time() -> None:
    """A model that fails with 500 has at most `singles` calls at once, and each client's own answer in the end."""
    at_once: list[int] = []
    running = 0

    async def failing(_stage: Stage, request: Heard, writer: asyncio.StreamWriter) -> None:
        nonlocal running
        running += 1
        at_once.append(running)
        await asyncio.sleep(0.01)
        running -= 1
        writer.write(answer(500, {"error": request.body.decode()}))

    async def test(stage: Stage) -> None:
        answers = await asyncio.gather(*(stage.call(rows(value)) for value in range(8)))

        assert {found.status for found in answers} == {500}
        assert len({found.body for found in answers}) == 8
        assert len(stage.requests) == 9
        assert max(at_once) <= 2

    run(failing, test, singles=2)


def test_a_model_that_dies_of_a_batch_is_asked_for_each() -> None:
    """The connection breaks with the batch: one client's rows may be the cause, so the others get another chance."""

    async def dying(stage: Stage, request: Heard, writer: asyncio.StreamWriter) -> None:
        if BAD in stage.rows()[-1]:
            raise ConnectionResetError
        await plain(stage, request, writer)

    async def test(stage: Stage) -> None:
        answers = await asyncio.gather(*(stage.call(rows(value, value)) for value in (1, BAD, 3, 4)))

        assert [found.status for found in answers] == [200, 502, 200, 200]

    run(dying, test)


def test_a_model_that_is_not_there() -> None:
    """503 for every member, at once."""

    async def test(stage: Stage) -> None:
        answers = await asyncio.gather(*(stage.call(rows(value, value)) for value in range(4)))

        assert {found.status for found in answers} == {503}
        assert all(b"cannot be reached" in found.body for found in answers)

    run(None, test)


def test_a_model_that_is_silent() -> None:
    """504 for every member when the time is up."""

    async def silent(_stage: Stage, _request: Heard, _writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(5)

    async def test(stage: Stage) -> None:
        answers = await asyncio.gather(*(stage.call(rows(value, value)) for value in range(4)))

        assert {found.status for found in answers} == {504}

    run(silent, test, answer_s=0.1)


def test_answers_that_cannot_be_split_end_the_joining() -> None:
    """A model with one answer for all rows: each call is made again by itself, and such calls are joined no more."""

    async def summing(stage: Stage, _request: Heard, writer: asyncio.StreamWriter) -> None:
        writer.write(answer(200, {"predictions": [sum(stage.rows()[-1])]}))

    async def test(stage: Stage) -> None:
        for _ in range(2):
            answers = await asyncio.gather(*(stage.call(rows(value, value)) for value in range(4)))

            assert [json.loads(found.body)["predictions"] for found in answers] == [[0], [2], [4], [6]]
        assert sorted(map(len, stage.rows())) == [2] * 8 + [8]

    run(summing, test)


def test_a_client_that_leaves_while_it_waits_takes_its_rows_along() -> None:
    """What nobody waits for is not computed."""

    async def test(stage: Stage) -> None:
        _, writer = await stage.send(rows(1))
        await until(lambda: stage.batcher.tally.get(WAITING) == 1)
        writer.transport.abort()
        await until(lambda: not stage.batcher.doors)
        await stage.call(rows(2, 3, 4, 5, 6, 7, 8, 9))
        found = await asyncio.gather(stage.call(rows(1, 2, 3, 4)), stage.call(rows(5, 6, 7, 8)))

        assert [item.status for item in found] == [200, 200]
        assert sorted(map(len, stage.rows())) == [8, 8]

    run(plain, test)


def test_the_models_work_ends_when_the_last_client_has_gone() -> None:
    """One of two leaves: the other has its answer. Both leave: the model's connection is closed."""
    go_on = asyncio.Event()

    async def waiting(stage: Stage, request: Heard, writer: asyncio.StreamWriter) -> None:
        await go_on.wait()
        await plain(stage, request, writer)

    async def test(stage: Stage) -> None:
        _, leaving = await stage.send(rows(1, 2, 3, 4))
        reader, staying = await stage.send(rows(5, 6, 7, 8))
        await until(lambda: len(stage.requests) == 1)
        leaving.transport.abort()
        await until(lambda: len(stage.batcher.doors) == 1)
        go_on.set()
        assert json.loads((await read(reader)).body) == {"predictions": [10, 12, 14, 16]}
        staying.close()

        go_on.clear()
        both = [await stage.send(rows(1, 2, 3, 4)), await stage.send(rows(5, 6, 7, 8))]
        await until(lambda: len(stage.requests) == 2)
        for _, writer in both:
            writer.transport.abort()
        await until(lambda: not stage.batcher._alive)
        go_on.set()
        await until(lambda: stage.closed == 1)

    run(waiting, test)


def test_a_deadline_halves_the_wait() -> None:
    """A client whose gateway gives up after 400 ms is not kept waiting for 5 s; who waits with it goes, too."""

    async def test(stage: Stage) -> None:
        found = await asyncio.gather(
            stage.call(rows(1)), stage.call(rows(2), x_envoy_expected_rq_timeout_ms="400")
        )  # fmt: skip

        assert [item.status for item in found] == [200, 200]
        assert stage.rows() == [[1, 2]] or stage.rows() == [[2, 1]]

    run(plain, test)


def test_a_stop_sends_what_waits() -> None:
    """Calls that wait for company when the stop comes go at once, and are answered."""

    async def test(stage: Stage) -> None:
        call = asyncio.create_task(stage.call(rows(1)))
        await until(lambda: stage.batcher.tally.get(WAITING) == 1)
        stage.stopping.set()

        assert json.loads((await call).body) == {"predictions": [2]}

    run(plain, test)


def test_connections_are_used_again() -> None:
    """A proxy keeps its connection: one call after the other, joined or not, large or strange."""

    async def test(stage: Stage) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", stage.port)
        for content in (rows(1), rows(*range(20)), rows(BAD), rows(3)):
            writer.write(written(content))
            assert (await read(reader)).status in {200, 400}
        writer.close()

        assert stage.closed == 0

    run(plain, test, max_latency_ms=1)


def test_a_connection_that_the_model_closed_costs_nothing() -> None:
    """The model closes idle connections: the next call goes on a new one, and no client notices."""

    async def closing(stage: Stage, request: Heard, writer: asyncio.StreamWriter) -> None:
        await plain(stage, request, writer)
        await writer.drain()
        writer.close()

    async def test(stage: Stage) -> None:
        for value in range(20):
            assert (await stage.call(rows(value))).status == 200

    run(closing, test, max_latency_ms=1)


def test_a_stream_passes_as_it_comes() -> None:
    """An answer in pieces to a call that is not joined: the client has the first before the model sends the second."""
    go_on = asyncio.Event()

    async def streaming(_stage: Stage, _request: Heard, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\none\r\n")
        await go_on.wait()
        writer.write(b"3\r\ntwo\r\n0\r\n\r\n")

    async def test(stage: Stage) -> None:
        reader, writer = await stage.send({"prompt": "?"})
        assert (await reader.readuntil(b"one\r\n")).startswith(b"HTTP/1.1 200")
        go_on.set()
        assert await reader.readuntil(b"0\r\n\r\n") == b"3\r\ntwo\r\n0\r\n\r\n"
        writer.close()

    run(streaming, test)


def test_strangers_are_refused() -> None:
    """What no proxy sends: bodies above the limit, no HTTP, a second request before the first one's answer."""

    async def test(stage: Stage) -> None:
        assert (await stage.call(b"x" * 2_000)).status == 413
        reader, writer = await asyncio.open_connection("127.0.0.1", stage.port)
        writer.write(b"nonsense\r\n\r\n")
        assert (await read(reader)).status == 400
        assert await reader.read() == b""
        writer.close()
        reader, writer = await asyncio.open_connection("127.0.0.1", stage.port)
        writer.write(written(rows(1)) + written(rows(2)))
        with contextlib.suppress(ConnectionError):
            assert await reader.read() == b""
        writer.close()

        assert stage.requests == []

    run(plain, test, max_body=1_000)
