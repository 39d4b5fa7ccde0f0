"""Records spans and exports them over OTLP/HTTP in the background, as OpenTelemetry's own variables say.

`Traces` is for processes that learn of a thing when it is over: the logger's shipper, and stages. The ids of their
spans come in (`streams/tracecontext.py`). The predictor's are recorded in `inference/tracing.py`.
"""

from __future__ import annotations

import importlib
import logging
import threading
from collections.abc import Callable, Mapping
from typing import Any, Final, TypeVar

from streams.errors import MissingExtra
from streams.tracecontext import Place

log = logging.getLogger(__name__)

T = TypeVar("T")

_UNNAMED: Final = "unknown_service"
_CLOSING_S: Final = 5.0


def available() -> None:
    """Look whether there is an SDK.

    Raises:
        MissingExtra: there is none.
    """
    for module in ("sdk.trace", "exporter.otlp.proto.http.trace_exporter"):
        library(module)


def begun(make: Callable[[], T]) -> T | None:
    """Begin to record; None, which the log says, where OpenTelemetry cannot work with its variables, or is missing."""
    try:
        return make()
    except Exception as exc:  # noqa: BLE001 - whatever the SDK makes of them: nobody is to lose more by it
        log.error("no spans are recorded: %s", exc)  # noqa: TRY400 - a mistake of the user, not ours
        return None


def provider(service: str, ids: Any = None) -> Any:  # noqa: ANN401 - the SDK is imported when it is wanted
    """Give OpenTelemetry's provider of tracers, which exports in the background, and sends what is left at the end.

    Args:
        service: what the process is called where OpenTelemetry's variables do not name it.
        ids: gives the ids of spans; None: they are random.

    Raises:
        MissingExtra: the SDK is not installed.
    """
    resources = library("sdk.resources")
    resource = resources.Resource.create()
    if str(resource.attributes["service.name"]).startswith(_UNNAMED):
        resource = resource.merge(resources.Resource({"service.name": service}))
    made = library("sdk.trace").TracerProvider(resource=resource, id_generator=ids)
    exporter = library("exporter.otlp.proto.http.trace_exporter").OTLPSpanExporter()
    made.add_span_processor(library("sdk.trace.export").BatchSpanProcessor(exporter))
    return made


def end(provider: Any, within_s: float = _CLOSING_S) -> None:  # noqa: ANN401 - as above
    """Send what is left, or give it up."""
    # The SDK would wait for half a minute for a receiver that is away: longer than a process may take to end.
    closing = threading.Thread(target=provider.shutdown, name="last spans", daemon=True)
    closing.start()
    closing.join(within_s)


def library(module: str) -> Any:  # noqa: ANN401 - a module has no narrower type
    """Import a part of OpenTelemetry's.

    Raises:
        MissingExtra: it is not installed.
    """
    try:
        return importlib.import_module(f"opentelemetry.{module}")
    except ModuleNotFoundError as exc:
        raise MissingExtra("traces", "otel", "opentelemetry") from exc


class Traces:
    """One exporter. Thread-safe.

    Args:
        service: what the process is called where OpenTelemetry's variables do not name it.
        closing_s: how long `close` waits for what is left to be sent.

    Raises:
        MissingExtra: OpenTelemetry's SDK is not installed.
    """

    def __init__(self, service: str, closing_s: float = _CLOSING_S) -> None:
        self._closing_s = closing_s
        self._api, self._context = library("trace"), library("context").Context
        self._ids = _Ids(library("sdk.trace.id_generator").RandomIdGenerator())
        self._provider = provider(service, self._ids)
        self._tracer = self._provider.get_tracer("sidelight")
        self._lock = threading.Lock()

    def record(
        self, name: str, kind: str, place: Place, parent: Place, began_us: int, ended_us: int,
        attributes: Mapping[str, str | int], error: str = "",
    ) -> None:  # fmt: skip
        """Record a span that is over.

        Args:
            name: of the span.
            kind: one of OpenTelemetry's: SERVER, CONSUMER.
            place: its own.
            parent: that of the span above it, in the same trace.
            began_us: microseconds since the epoch.
            ended_us: the same.
            attributes: what is known of it.
            error: what went wrong, if something did.
        """
        context = self._api.set_span_in_context(self._api.NonRecordingSpan(self._spanned(parent)), self._context())
        with self._lock:
            self._ids.next = int(place.span, 16)
            span = self._tracer.start_span(
                name, context=context, kind=self._api.SpanKind[kind], start_time=began_us * 1_000,
                attributes=dict(attributes),
            )  # fmt: skip
        if error:
            span.set_status(self._api.StatusCode.ERROR, error)
        span.end(ended_us * 1_000)

    def close(self) -> None:
        """Send what is left, or give it up after a while."""
        end(self._provider, self._closing_s)

    def _spanned(self, place: Place) -> Any:  # noqa: ANN401 - the SDK is imported when it is wanted
        flags = self._api.TraceFlags(int(place.flags, 16))
        return self._api.SpanContext(int(place.trace, 16), int(place.span, 16), is_remote=True, trace_flags=flags)


class _Ids:
    """What the SDK takes ids from: the one that is set, once; else the SDK's own."""

    def __init__(self, own: Any) -> None:  # noqa: ANN401 - the SDK is imported when it is wanted
        self._own, self.next = own, 0

    def generate_span_id(self) -> int:
        chosen, self.next = self.next, 0
        return chosen or int(self._own.generate_span_id())

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - as the SDK has it
        return getattr(self._own, name)
