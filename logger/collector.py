"""The collector: takes the CloudEvents that an unmodified KServe agent posts and puts them on the payload topic.

A 2xx means that Kafka has acknowledged every event of the request. Anything else says what was wrong, or to come
again. Bodies go through byte for byte; what is no event goes to the dead letters, as it came.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final

import orjson
from prometheus_client import CollectorRegistry, Counter, Histogram
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from streams.bindings import from_http, to_kafka
from streams.deadletter import dead_letter
from streams.errors import InvalidEvent, Refused, Unavailable
from streams.stage import Output, Publisher, Record

log = logging.getLogger(__name__)

_UNSUPPORTED: Final = "unknown-format"


@dataclass(frozen=True, slots=True, kw_only=True)
class CollectorSettings:
    """What the collector accepts."""

    topic: str
    deadletter: str
    max_body: int = 16 << 20
    """Bytes of one request; more is 413."""
    max_events: int = 500
    """Events of one batch; more is 400."""
    concurrency: int = 256
    """Requests in progress; one more is answered 503."""
    delivery_s: float = 20.0
    """How long a request waits for Kafka; then it is answered 503, and the sender should come again."""


class Collector:
    """The application and its publisher's thread."""

    def __init__(self, settings: CollectorSettings, publisher: Publisher) -> None:
        self._settings, self._publisher = settings, publisher
        self._running = 0
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._poll, name="collector-poll", daemon=True)
        self.registry = CollectorRegistry()
        self._received = Counter("sidelight_collector_events", "Events received.", registry=self.registry)
        self._accepted = Counter("sidelight_collector_accepted", "Events that Kafka has.", registry=self.registry)
        self._refused = Counter(
            "sidelight_collector_refused", "Requests refused, by reason.", ("reason",), registry=self.registry
        )
        self._seconds = Histogram("sidelight_collector_delivery_seconds", "Until Kafka had it.", registry=self.registry)
        self.app = self._application()

    def _application(self) -> Starlette:
        @asynccontextmanager
        async def lifespan(_app: Starlette) -> AsyncIterator[None]:
            self._thread.start()
            yield
            await asyncio.to_thread(self._publisher.flush, self._settings.delivery_s)
            self._stopping.set()
            self._thread.join()

        routes = [
            Route("/healthz", _alive),
            Route("/readyz", _alive),
            Route("/{path:path}", self._collect, methods=["POST"]),
        ]
        return Starlette(routes=routes, lifespan=lifespan)

    async def _collect(self, request: Request) -> Response:
        if self._running >= self._settings.concurrency:
            return self._no(503, "overloaded", f"{self._running} requests are in progress")
        self._running += 1
        try:
            return await self._take(request)
        finally:
            self._running -= 1

    async def _take(self, request: Request) -> Response:
        body = await self._body(request)
        if body is None:
            return self._no(413, "too-large", f"expected at most {self._settings.max_body} bytes")
        headers = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in request.headers.raw]
        try:
            events = from_http(headers, body, max_events=self._settings.max_events)
        except InvalidEvent as exc:
            return await self._unreadable(request, body, exc)
        self._received.inc(len(events))
        outputs = []
        for event in events:
            kafka_headers, value = to_kafka(event)
            outputs.append(Output(self._settings.topic, event.correlation().encode(), value, kafka_headers))
        began = time.monotonic()
        failures = [index for index, error in enumerate(await self._publish(outputs)) if error is not None]
        self._seconds.observe(time.monotonic() - began)
        self._accepted.inc(len(events) - len(failures))
        if failures:
            # Sending all of them again is harmless: equal events are known by their ids.
            return self._no(
                503, "kafka", f"events {failures} of {len(events)} did not reach Kafka; send the request again"
            )
        return Response(status_code=202)

    async def _unreadable(self, request: Request, body: bytes, problem: InvalidEvent) -> Response:
        """Keep what is no event, and say why it is none."""
        if problem.reason == _UNSUPPORTED:
            return self._no(415, problem.reason, problem.detail)
        kept = tuple(
            (name.decode("latin-1"), value)
            for name, value in request.headers.raw
            if name in _KEPT or name[:3] == b"ce-"
        )
        record = Record("collector", 0, time.time_ns(), None, body, kept)
        letter = dead_letter(record, problem.reason, problem.detail, "collector", self._settings.deadletter)
        error = (await self._publish([letter]))[0]
        if error is not None:
            return self._no(503, "kafka", "the unreadable event could not be kept; send it again")
        return self._no(400, problem.reason, problem.detail)

    async def _body(self, request: Request) -> bytes | None:
        body = bytearray()
        async for part in request.stream():
            body += part
            if len(body) > self._settings.max_body:
                return None
        return bytes(body)

    async def _publish(self, outputs: Sequence[Output]) -> list[Exception | None]:
        """Send records and wait for each one's answer; an error stands for a record that Kafka does not have."""
        loop = asyncio.get_running_loop()
        answers: list[asyncio.Future[Exception | None]] = [loop.create_future() for _ in outputs]
        for output, answer in zip(outputs, answers, strict=True):
            try:
                self._publisher.send(output, _resolver(loop, answer))
            except (Unavailable, Refused) as exc:
                answer.set_result(exc)
        await asyncio.wait(answers, timeout=self._settings.delivery_s) if answers else None
        late = Unavailable(f"no acknowledgement in {self._settings.delivery_s:g} s")
        return [answer.result() if answer.done() else late for answer in answers]

    def _no(self, status: int, reason: str, detail: str) -> Response:
        self._refused.labels(reason).inc()
        headers = {"retry-after": "2"} if status == 503 else {}  # noqa: PLR2004 - Service Unavailable
        body = orjson.dumps({"error": f"{reason}: {detail}"})
        return Response(body, status, headers, "application/json")

    def _poll(self) -> None:
        while not self._stopping.is_set():
            self._publisher.poll(0.05)


_KEPT: Final = frozenset({b"content-type", b"content-encoding", b"user-agent"})


def _resolver(loop: asyncio.AbstractEventLoop, answer: asyncio.Future[Exception | None]) -> Any:  # noqa: ANN401 - a Done
    def settle(error: Exception | None) -> None:
        if not answer.done():
            answer.set_result(error)

    return lambda error: loop.call_soon_threadsafe(settle, error)


async def _alive(_request: Request) -> Response:
    return Response(b"ok", media_type="text/plain")
