"""Stages in traces: a span for each trace in a batch, as an OTLP receiver gets them, and outputs as without."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import pytest

from inference.observations import ArrowCodec
from streams.assembler import Assembler
from streams.settings import AssemblerSettings
from streams.stage import Batch, Output, Record
from streams.traced import TracedStage
from streams.traces import Traces
from tests.receiver import Receiver, receiving
from tests.streams.payloads import event, record
from tests.streams.test_tracecontext import SPAN

SETTINGS = AssemblerSettings(
    payloads="p", observations="o", deadletter="d", payload_partitions=1, observation_partitions=1
)


def _traced(number: int, flags: str = "01") -> str:
    return f"00-{number:032x}-{SPAN}-{flags}"


def _records(*calls: str) -> tuple[Record, ...]:
    """Make pairs, each of a call with such a `traceparent`, or none."""
    return tuple(
        record(event(f"c{place}", kind, place, extensions={"traceparent": named} if named else {}), 2 * place + at)
        for place, named in enumerate(calls)
        for at, kind in enumerate(("request", "response"))
    )


@pytest.fixture(name="receiver")
def _receiver(monkeypatch: pytest.MonkeyPatch) -> Iterator[Receiver]:
    with receiving() as receiver:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.url)
        yield receiver


@contextmanager
def _stage() -> Iterator[TracedStage]:
    """Give an assembler whose spans have been sent at the end of the block."""
    traces = Traces("sidelight-assembler")
    yield TracedStage(Assembler(0, SETTINGS, ArrowCodec()), "assembler", traces)
    traces.close()


def _named(outputs: tuple[Output, ...]) -> list[dict[str, bytes | None]]:
    """Give what observation records say of traces."""
    return [
        {name: value for name, value in output.headers if "traceparent" in name} for output in outputs if output.value
    ]


def test_each_trace_of_a_batch_has_a_span(receiver: Receiver) -> None:
    """Below the one that its events name; a trace that nobody records, and none at all, have none."""
    records = _records(_traced(1), _traced(2), _traced(3, "00"), "", "nonsense")
    with _stage() as stage:
        outputs = stage.process(Batch(0, records)).outputs
    plain = Assembler(0, SETTINGS, ArrowCodec()).process(Batch(0, records)).outputs

    assert sorted((int(span.trace_id.hex(), 16), span.parent_span_id.hex()) for span in receiver.spans) == [
        (1, SPAN), (2, SPAN),
    ]  # fmt: skip
    assert {span.name for span in receiver.spans} == {"assembler p"}
    assert {each.key: each.value.int_value for each in receiver.spans[0].attributes}[
        "messaging.batch.message_count"
    ] == 2
    assert receiver.services == {"sidelight-assembler"}
    assert outputs == plain
    assert _named(outputs) == [{"ce_traceparents": f"{_traced(1)} {_traced(2)}".encode()}]


def test_what_is_done_again_is_the_same_span(receiver: Receiver) -> None:
    """A batch that comes again after a crash has the ids that it had; of one call, the record names its trace alone."""
    found = []
    for _ in range(2):
        with _stage() as stage:
            found += _named(stage.process(Batch(0, _records(_traced(1)))).outputs)

    assert len(receiver.spans) == 2
    assert len({span.span_id for span in receiver.spans}) == 1
    assert found == [{"ce_traceparent": _traced(1).encode()}] * 2


def test_a_record_names_so_many_traces_and_no_more(receiver: Receiver) -> None:
    """Of thousands of calls in one record, the first sixteen; the header stays below a kilobyte."""
    with _stage() as stage:
        (named,) = _named(stage.process(Batch(0, _records(*map(_traced, range(1, 41))))).outputs)

    assert named == {"ce_traceparents": " ".join(map(_traced, range(1, 17))).encode()}
    assert len(receiver.spans) == 40


def test_what_a_client_wrote_behind_its_trace_goes_nowhere(receiver: Receiver) -> None:
    """A later version's `traceparent` may have more: it makes no record longer, and names no further trace."""
    later = f"01-{1:032x}-{SPAN}-01-{'x' * 60_000} {_traced(2)} {_traced(3)}"
    with _stage() as stage:
        (named,) = _named(stage.process(Batch(0, _records(later, _traced(4)))).outputs)
        stage.process(Batch(0, (Record("p", 0, 9, None, None, (("ce_traceparents", _many(range(1, 41))),)),)))

    assert named == {"ce_traceparents": f"{_traced(1)} {_traced(4)}".encode()}
    assert len([span for span in receiver.spans if span.trace_id.hex() in {f"{2:032x}", f"{3:032x}"}]) == 2
    assert len(receiver.spans) == 18


def _many(numbers: Iterable[int]) -> bytes:
    return " ".join(map(_traced, numbers)).encode()


def test_state_passes_through(receiver: Receiver) -> None:
    """Snapshot, restore and counters are the inner stage's."""
    request, response = _records(_traced(1))
    with _stage() as first:
        first.process(Batch(0, (request,)))
    with _stage() as second:
        second.restore(first.snapshot())
        outputs = second.process(Batch(0, (response,))).outputs

    assert len(_named(outputs)) == 1
    assert second.counters()["paired"] == 2
    assert len(receiver.spans) == 2
