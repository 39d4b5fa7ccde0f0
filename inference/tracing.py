"""OpenTelemetry traces: each call as a span that continues its caller's trace, with its wait and its computation below.

Spans are made when a call is over, from the times that it carries anyway, so that a predictor without traces pays
nothing and one with them little. Where they go is said by OpenTelemetry's own environment variables, which its SDK
reads; `deploy/environment.py` decides by them whether there are traces. Used by `inference/dataplane.py`.
"""

from __future__ import annotations

import time
from typing import Any, Final

from inference.batching.call import Call
from streams.traces import end, library, provider

_SERVICE: Final = "sidelight-predictor"
_TOPIC: Final = "kafka"


class Tracing:
    """Records calls and exports them over OTLP/HTTP in the background. Thread-safe."""

    def __init__(self) -> None:
        """Begin to export.

        Raises:
            MissingExtra: the SDK is not installed.
        """
        self._api, self._context = library("trace"), library("context").Context
        self._propagator = library("trace.propagation.tracecontext").TraceContextTextMapPropagator()
        self._provider = provider(_SERVICE)
        self._tracer = self._provider.get_tracer("sidelight.inference")

    def record(self, call: Call, error: BaseException | None = None) -> None:
        """Make the spans of a call that is over; `error` is what its caller was told."""
        now = time.monotonic()
        # The wall clock is asked once: it may be set back between two looks.
        offset = time.time_ns() - round(now * 1e9)
        context = self._continued(call.terms.traceparent)
        span = self._span(call, context, offset)
        below = self._api.set_span_in_context(span, context)
        queue = self._tracer.start_span("queue", context=below, start_time=_at(call.arrived, offset))
        queue.end(_at(call.started or now, offset))
        if call.computed:
            compute = self._tracer.start_span(
                "compute",
                context=below,
                start_time=_at(call.computed - call.compute_s, offset),
                attributes={"sidelight.rows": call.rows, "sidelight.batch.calls": call.together},
            )
            compute.end(_at(call.computed, offset))
        self._end(span, error, _at(now, offset))
        for trace in call.terms.others:
            # Computed once: the link says where.
            link = self._api.Link(span.get_span_context())
            self._end(self._span(call, self._continued(trace), offset, link), error, _at(now, offset))

    def _continued(self, trace: str) -> Any:  # noqa: ANN401 - a context, of a library that may be missing
        return self._propagator.extract({"traceparent": trace} if trace else {}, self._context())

    def _span(self, call: Call, context: Any, offset: int, *links: Any) -> Any:  # noqa: ANN401 - as above
        return self._tracer.start_span(
            f"infer {call.model}",
            context=context,
            kind=self._api.SpanKind.CONSUMER if call.terms.protocol == _TOPIC else self._api.SpanKind.SERVER,
            start_time=_at(call.arrived, offset),
            attributes={
                "sidelight.model": call.model,
                "sidelight.protocol": call.terms.protocol,
                "sidelight.yielding": call.terms.yielding,
            },
            links=links,
        )

    def _end(self, span: Any, error: BaseException | None, at: int) -> None:  # noqa: ANN401 - as above
        if error is not None:
            span.set_attribute("error.type", type(error).__name__)
            span.set_status(self._api.StatusCode.ERROR, str(error))
        span.end(at)

    def close(self) -> None:
        """Send what is left, or give it up after a while."""
        end(self._provider)


def _at(moment: float, offset: int) -> int:
    return round(moment * 1e9) + offset
