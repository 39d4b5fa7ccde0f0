"""The logger's span: what the model gets, what the events name, what is recorded, and what is left alone."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest
from hpack.struct import NeverIndexedHeaderTuple

from inference.http2.fields import Reader, block_of
from logger.record import decode, encode
from logger.settings import TapSettings
from logger.tap import Seen, Tap
from logger.tracing import TracedTap, carried
from streams.traces import Traces
from tests.logger.bench import PREDICT, Bench, Handler, head_of, request, run
from tests.receiver import Receiver, receiving
from tests.streams.test_tracecontext import SPAN, TRACE

_GIVEN = f"00-{TRACE}-{SPAN}-01".encode()
_ERROR = 2


def _seen(traceparent: bytes = _GIVEN, started_us: int = 1_000_000, status: int = 200) -> Seen:
    fields = [(b"host", b"h"), (b"traceparent", traceparent)] if traceparent else [(b"host", b"h")]
    return Seen("c", "POST", "/v1/models/m:predict", fields, started_us, status=status, latency_us=1_500)


@pytest.fixture(name="receiver")
def _receiver(monkeypatch: pytest.MonkeyPatch) -> Iterator[Receiver]:
    with receiving() as receiver:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.url)
        yield receiver


def _named(seen: Seen, traces: Traces) -> set[bytes]:
    """Give the traces that the events of an exchange name, which has come through shared memory."""
    pieces, _ = encode(seen)
    letters = TracedTap(Tap(TapSettings()), traces).letters(decode(b"".join(pieces)), 0)
    return {value for letter in letters for name, value in letter.headers if name == "ce_traceparent"}


def test_model_events_and_collector_hear_of_one_span(receiver: Receiver) -> None:
    """Two processes name it without a word between them: below the caller's, from the call's beginning to its end."""
    traces = Traces("sidelight-logger")
    (forwarded,) = [value for name, value in carried(_seen().request_fields, _seen()) if name == b"traceparent"]
    named = _named(_seen(), traces)
    failed = _named(_seen(started_us=2_000_000, status=503), traces)
    traces.close()
    first, second = sorted(receiver.spans, key=lambda span: int(span.start_time_unix_nano))

    assert named == {forwarded}
    assert forwarded == f"00-{TRACE}-{first.span_id.hex()}-01".encode()
    assert failed != named
    assert (first.trace_id.hex(), first.parent_span_id.hex(), first.name) == (TRACE, SPAN, "POST /v1/models/m:predict")
    assert (first.start_time_unix_nano, first.end_time_unix_nano) == (1_000_000_000, 1_001_500_000)
    assert (first.status.code, second.status.code) == (0, _ERROR)


def test_secrets_stay_marked_as_such() -> None:
    """RFC 7541 section 6.2.3: what its sender wants never to be indexed is written so again, beside a new trace."""
    fields = [NeverIndexedHeaderTuple(b"authorization", b"secret"), (b"traceparent", _GIVEN), (b"x", b"y")]
    block = block_of(carried(fields, _seen()))

    assert [field.indexable for field in Reader().decode(block)] == [False, True, True]


@pytest.mark.parametrize("given", [b"", b"nonsense", _GIVEN[:-1] + b"0", b"00-\xff"])
def test_a_call_outside_of_recorded_traces_is_left_alone(receiver: Receiver, given: bytes) -> None:
    """The model and the events get what came, and nothing is recorded."""
    traces = Traces("sidelight-logger")
    seen = _seen(given)
    named = _named(seen, traces)
    traces.close()

    assert carried(seen.request_fields, seen) == seen.request_fields
    assert named == ({given.decode("latin-1").encode()} if given else set())
    assert receiver.spans == []


@pytest.mark.parametrize("traced", [False, True], ids=["off", "on"])
def test_the_proxy_puts_its_span_between(*, traced: bool) -> None:
    """Into calls that are logged, and no others; what is kept for the log is what came."""
    got: list[bytes] = []

    async def test(bench: Bench) -> None:
        bench.proxy.traced = traced
        await bench.exchange(request(b"{}", b"traceparent: " + _GIVEN, b"connection: close"))
        await bench.exchange(
            b"GET /metrics HTTP/1.1\r\nhost: h\r\nconnection: close\r\ntraceparent: %b\r\n\r\n" % _GIVEN
        )

        (logged,) = bench.seen
        (own,) = [value for name, value in carried(logged.request_fields, logged) if name == b"traceparent"]
        assert dict(logged.request_fields)[b"traceparent"] == _GIVEN
        assert got == [own if traced else _GIVEN, _GIVEN]
        assert own != _GIVEN

    run(_noting(got), test)


def _noting(got: list[bytes]) -> Handler:
    async def model(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            head = await head_of(reader)
            await reader.readexactly(2 if head.startswith(PREDICT[:4]) else 0)
            got.extend(line[len(b"traceparent: ") :] for line in head.split(b"\r\n") if line.startswith(b"traceparent"))
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}")
            await writer.drain()

    return model
