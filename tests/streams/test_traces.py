"""The exporter of spans, and a receiver that is no help."""

from __future__ import annotations

import socket
import threading

import pytest

from streams.tracecontext import Place, below
from streams.traces import Traces
from tests.streams.test_tracecontext import SPAN, TRACE


def test_a_receiver_that_keeps_silent_holds_up_no_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """The last spans are waited for a while: whoever ends may have less time than OpenTelemetry would take."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent.settimeout(60)
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "600")
        traces, parent = Traces("t", closing_s=0.1), Place(TRACE, SPAN, "01")
        traces.record("n", "SERVER", below(parent, 1), parent, 1, 2, {})
        closing = threading.Thread(target=traces.close)
        closing.start()
        connection, _ = silent.accept()
        with connection:
            # Without a bound of ours it would be thirty.
            closing.join(20)
            ended = not closing.is_alive()
            connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
            closing.join(60)

    assert ended
