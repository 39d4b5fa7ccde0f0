"""The explain server: `POST /v1/models/{m}:explain`, one explanation per instance. KServe's V1 shapes.

The searches run in threads; each has its own object, its own seeded generator and its own count of callbacks, so
answers do not depend on what else is being explained.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from typing import Any, Final

import numpy as np
import orjson
from fastapi import FastAPI, Request, Response
from prometheus_client import CollectorRegistry, Counter, Histogram

from explainers.base import Array, Background, Budget, Explainer, OutOfTime
from explainers.callback import CallbackClient, Calls
from explainers.errors import (
    ExplainError,
    InvalidRequest,
    Overloaded,
    PredictorMisbehaved,
    PredictorRefused,
    PredictorUnavailable,
)  # fmt: skip
from explainers.registry import LIBRARY
from explainers.settings import ServerSettings
from inference.protocol import v1
from inference.protocol.errors import ProtocolError

STATUS: Final[Mapping[type[Exception], int]] = {
    InvalidRequest: 400, ProtocolError: 400, PredictorRefused: 400, Overloaded: 503, PredictorUnavailable: 503,
    PredictorMisbehaved: 502, OutOfTime: 504,
}  # fmt: skip
_PARAMETERS: Final = ("seed", "deadline_ms", "max_rows", "background")
_PASSED_ON: Final = ("authorization", "traceparent", "tracestate")


class ExplainServer:
    """The application and what it needs."""

    def __init__(self, settings: ServerSettings, client: CallbackClient, background: Background) -> None:
        self._settings, self._client, self._background = settings, client, background
        self._explainer: type[Explainer] = LIBRARY.find(settings.explainer)
        self._threads = ThreadPoolExecutor(settings.concurrency, thread_name_prefix="explain")
        self._running = 0
        self.registry = CollectorRegistry()
        self._requests = Counter(
            "sidelight_explanations", "Explanations by outcome.", ("outcome",), registry=self.registry
        )
        self._seconds = Histogram(
            "request_explain_seconds", "Time per request.", ("model_name",), registry=self.registry
        )
        self._calls = Counter("sidelight_explainer_calls", "Calls of the predictor.", registry=self.registry)
        self._rows = Counter(
            "sidelight_explainer_rows", "Rows that the predictor was asked for.", registry=self.registry
        )
        self.app = self._application()

    def _application(self) -> FastAPI:
        @asynccontextmanager
        async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
            yield
            self._threads.shutdown(wait=True, cancel_futures=True)
            self._client.close()

        app = FastAPI(title="Sidelight explainer", docs_url=None, redoc_url=None, lifespan=lifespan)
        model = self._settings.model
        app.add_api_route("/", _answer({"status": "alive"}))
        app.add_api_route("/v2/health/live", _answer({"live": True}))
        app.add_api_route("/v2/health/ready", _answer({"ready": True}))
        app.add_api_route(f"/v1/models/{model}", _answer({"name": model, "ready": True}))
        app.add_api_route("/v1/models/{verb:path}", self._explain, methods=["POST"])
        return app

    async def _explain(self, request: Request, verb: str) -> Response:
        identity = request.headers.get("x-request-id", "")
        headers = {"x-request-id": identity} if identity else {}
        if verb != f"{self._settings.model}:explain":
            return _json({"error": f"expected POST /v1/models/{self._settings.model}:explain"}, 404, headers)
        began = time.monotonic()
        try:
            body = await self._answer(request, began)
        except (ExplainError, ProtocolError, OutOfTime) as exc:
            self._requests.labels(type(exc).__name__).inc()
            status = next(code for kind, code in STATUS.items() if isinstance(exc, kind))
            text = str(exc) or "the deadline passed before anything was found"
            return _json({"error": text}, status, headers | ({"retry-after": "1"} if status == 503 else {}))  # noqa: PLR2004
        self._seconds.labels(self._settings.model).observe(time.monotonic() - began)
        return _json(body, 200, headers)

    async def _answer(self, request: Request, began: float) -> dict[str, Any]:
        asked = v1.decode_request(await self._body(request))
        options = self._options(asked.extra)
        rows = _table(asked.instances, self._background, self._settings.max_instances)
        if self._running >= self._settings.concurrency + self._settings.waiting:
            raise Overloaded(f"{self._running} explanations are running or waiting")
        passed = {name: request.headers[name] for name in _PASSED_ON if name in request.headers}
        parent = request.headers.get("x-request-id")
        if parent:
            passed["x-request-id"] = parent
        calls = Calls(deadline=began + options["deadline_ms"] / 1000, headers=passed)
        self._running += 1
        try:
            return await self._in_thread(request, rows, options, calls)
        finally:
            self._running -= 1

    async def _in_thread(
        self, request: Request, rows: Array, options: Mapping[str, int], calls: Calls
    ) -> dict[str, Any]:
        """Search in a thread, and cancel the search when the client goes away."""
        loop = asyncio.get_running_loop()
        work = loop.run_in_executor(self._threads, self._search, rows, options, calls)
        gone = loop.create_task(_disconnected(request))
        try:
            await asyncio.wait([asyncio.ensure_future(work), gone], return_when=asyncio.FIRST_COMPLETED)
            if not work.done():
                calls.cancelled.set()
            return await work
        finally:
            gone.cancel()
            with suppress(asyncio.CancelledError):
                await gone

    def _search(self, rows: Array, options: Mapping[str, int], calls: Calls) -> dict[str, Any]:
        explanations = []
        for instance in rows:
            generator = np.random.default_rng(options["seed"])
            background = self._background.sample(options["background"], generator)
            budget = Budget(max_rows=options["max_rows"], expired=lambda: calls.left_s() <= 0)
            explanation = self._explainer().explain(
                instance, background, lambda table: self._client.predict(table, calls), budget, generator
            )
            self._requests.labels("partial" if explanation.partial else "whole").inc()
            explanations.append(explanation)
        self._calls.inc(calls.calls)
        self._rows.inc(calls.rows)
        predictions = [found.prediction.tolist() for found in explanations]
        return {
            "predictions": [row[0] if len(row) == 1 else row for row in predictions],
            "explanations": [found.as_json() for found in explanations],
            "stats": {"calls": calls.calls, "rows": calls.rows},
        }

    async def _body(self, request: Request) -> bytes:
        body = bytearray()
        async for part in request.stream():
            body += part
            if len(body) > self._settings.max_body:
                raise InvalidRequest("body", f"expected at most {self._settings.max_body} bytes")
        return bytes(body)

    def _options(self, extra: Mapping[str, Any]) -> dict[str, int]:
        """Read a request's parameters; what the server's settings allow is the upper bound."""
        given = extra.get("parameters", {})
        if not isinstance(given, dict):
            raise InvalidRequest("parameters", f"expected an object, got {type(given).__name__}")
        unknown = [name for name in given if name not in _PARAMETERS]
        if unknown:
            raise InvalidRequest(f"parameters.{unknown[0]}", f"unknown; known: {', '.join(_PARAMETERS)}")
        options = {"seed": 0}
        for name in _PARAMETERS[1:]:
            options[name] = getattr(self._settings, name)
        for name, value in given.items():
            low = 0 if name == "seed" else 1
            if isinstance(value, bool) or not isinstance(value, int) or value < low:
                raise InvalidRequest(f"parameters.{name}", f"expected a whole number from {low} up, got {value!r}")
            options[name] = value if name == "seed" else min(value, options[name])
        return options


def _table(instances: list[Any], background: Background, most: int) -> Array:
    """Give instances as rows in the background's order; objects are read by feature name."""
    if not instances or len(instances) > most:
        raise InvalidRequest("instances", f"expected 1 to {most}, got {len(instances)}")
    width = len(background.names)
    rows = []
    for index, instance in enumerate(instances):
        where = f"instances[{index}]"
        if isinstance(instance, dict):
            missing = [name for name in background.names if name not in instance]
            if missing:
                raise InvalidRequest(where, f"feature {missing[0]!r} is missing")
            row = [instance[name] for name in background.names]
        elif isinstance(instance, list) and len(instance) == width:
            row = instance
        else:
            got = f"{len(instance)} values" if isinstance(instance, list) else type(instance).__name__
            raise InvalidRequest(where, f"expected {width} values or an object, got {got}")
        rows.append(row)
    if background.rows.dtype == object:
        return np.array(rows, dtype=object)
    try:
        return np.array(rows, dtype=np.float64)
    except (TypeError, ValueError) as exc:
        raise InvalidRequest("instances", f"expected numbers: {exc}") from exc


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _answer(body: Mapping[str, Any]) -> Any:  # noqa: ANN401 - fastapi takes any callable
    async def route() -> Response:
        return _json(body, 200, {})

    return route


def _json(body: Mapping[str, Any], status: int, headers: Mapping[str, str]) -> Response:
    return Response(orjson.dumps(dict(body)), status, dict(headers), "application/json")
