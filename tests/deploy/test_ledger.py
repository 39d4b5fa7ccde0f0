"""The conservation laws: what holds them, and that one event too few or too many on either side breaks them."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploy import ledger
from deploy.kafka.ports import free_port
from deploy.ledger import Ledger
from deploy.runfile import Process, Run
from streams.topics import Topics
from tests.deploy.laying import Laid, create, event, lay
from tests.deploy.serving import answering

_PARTS = ("paired", "expired", "evicted", "deadlettered", "duplicates", "waiting")
_COUNTS = st.integers(0, 1 << 40)


@st.composite
def balanced(draw: st.DrawFn) -> Ledger:
    """Draw numbers of a run in which nothing is on its way or lost."""
    parts = {name: draw(_COUNTS) for name in _PARTS}
    rows, payloads, in_flight = draw(_COUNTS), sum(parts.values()), draw(_COUNTS)
    before, spooled, unwanted = draw(st.integers(0, payloads)), draw(_COUNTS), draw(_COUNTS)
    recovered = draw(st.integers(0, spooled))
    dropped = draw(st.dictionaries(st.sampled_from(["queue-full", "too-large", "refused"]), _COUNTS))
    return Ledger(
        captured=payloads - before + in_flight + spooled + unwanted + sum(dropped.values()) - recovered,
        delivered=payloads - before, payloads_before=before, in_flight=in_flight, recovered=recovered, spooled=spooled,
        unwanted=unwanted,
        dropped=dropped, payloads=payloads, deadletters=draw(_COUNTS),
        assembler=parts | {"in": payloads, "rows": rows, "failed": draw(_COUNTS)},
        detectors={"rows": rows, "released": draw(_COUNTS)},
    )  # fmt: skip


def broken(book: Ledger) -> list[str]:
    """Give the first words of the laws that do not hold."""
    return [law.name for law in book.laws() if not law.holds]


LOGGER, TOPIC, TAKEN, ASSEMBLER, ROWS = (law.name for law in Ledger(
    captured=0, delivered=0, in_flight=0, dropped={}, payloads=0, deadletters=0, assembler={}, detectors={},
).laws())  # fmt: skip


@given(balanced())
def test_a_run_that_lost_nothing_keeps_every_law(book: Ledger) -> None:
    """Whatever was dropped, expired or buried with a number is no loss."""
    assert broken(book) == []


@given(balanced(), st.sampled_from([-1, 1]))
def test_one_event_more_or_less_breaks_its_laws(book: Ledger, off: int) -> None:
    """Each number is in a law; when one counter is off by one, in either direction, exactly its laws say so."""

    def counted(name: str) -> Ledger:
        return replace(book, assembler={**book.assembler, name: book.assembler[name] + off})

    assert broken(replace(book, captured=book.captured + off)) == [LOGGER]
    assert broken(replace(book, in_flight=book.in_flight + off)) == [LOGGER]
    assert broken(replace(book, recovered=book.recovered + off)) == [LOGGER]
    assert broken(replace(book, spooled=book.spooled + off)) == [LOGGER]
    assert broken(replace(book, unwanted=book.unwanted + off)) == [LOGGER]
    assert broken(replace(book, dropped={**book.dropped, "new": off})) == [LOGGER]
    assert broken(replace(book, delivered=book.delivered + off)) == [LOGGER, TOPIC]
    assert broken(replace(book, payloads=book.payloads + off)) == [TOPIC, TAKEN]
    assert broken(counted("in")) == [TAKEN, ASSEMBLER]
    assert [broken(counted(name)) for name in _PARTS] == [[ASSEMBLER]] * len(_PARTS)
    assert broken(counted("rows")) == broken(replace(book, detectors={"rows": book.detectors["rows"] + off})) == [ROWS]


@given(balanced().filter(lambda book: book.payloads > 0 and book.assembler["rows"] > 0))
def test_a_stage_that_is_silent_counts_as_nothing(book: Ledger) -> None:
    """A process that does not answer does not make the sums agree."""
    assert {TAKEN, ROWS} <= set(broken(replace(book, assembler={})))
    assert broken(replace(book, detectors={})) == [ROWS]


def test_nothing_yet_keeps_every_law() -> None:
    """Before the first request, there is nothing to lose."""
    empty = Ledger(
        captured=0, delivered=0, in_flight=0, dropped={}, payloads=0, deadletters=0, assembler={}, detectors={}
    )

    assert broken(empty) == []


LOGGER_PAGE = b"""\
sidelight_logger_captured_total 10
kserve_logger_events_sent_total{topic="t"} 4
kserve_logger_events_sent_total{topic="u"} 2
sidelight_logger_in_flight 1
sidelight_logger_stripped_total 4
sidelight_logger_recovered_total{sink="t"} 5
sidelight_logger_spooled{sink="t"} 3
sidelight_logger_unwanted_total{sink="t"} 1
kserve_logger_events_dropped_total{reason="queue-full"} 2
kserve_logger_events_dropped_total{reason="too-large"} 1
"""
STAGE_PAGE = b"""\
sidelight_stage_total{stage="assembler",counter="in",partition="0"} 2
sidelight_stage_total{stage="assembler",counter="in",partition="1"} 1
sidelight_stage_total{stage="detectors",counter="rows",partition="0"} 5
sidelight_host_total{stage="assembler",counter="in",partition="0"} 90
"""


def a_run(kafka: str, prefix: str, *pages: str) -> Run:
    """Make a run of processes with these pages, and one without."""
    processes = tuple(Process(name=f"p{at}", pid=1, command=(), log="", metrics=url) for at, url in enumerate(pages))
    everyone = (*processes, replace(processes[0], metrics=""))
    return Run(name="r", pid=1, kafka=kafka, prefix=prefix, payloads_before=2, processes=everyone)


@pytest.mark.kafka
def test_the_numbers_come_from_the_processes_and_the_broker(kafka: str, topics: Topics) -> None:
    """Added up over topics, partitions and workers; a process that is down adds nothing."""
    create(kafka, topics.payloads, 2)
    lay(kafka, topics.payloads, [Laid(event(str(at)), at % 2) for at in range(8)])
    with answering(LOGGER_PAGE) as logger, answering(STAGE_PAGE) as one, answering(STAGE_PAGE) as other:
        urls = (logger.url, one.url, f"http://127.0.0.1:{free_port()}", other.url)
        book = ledger.read(a_run(kafka, topics.prefix, *urls))

    assert book == Ledger(
        captured=10, delivered=6, in_flight=1, dropped={"queue-full": 2, "too-large": 1}, stripped=4, payloads=8,
        deadletters=0, payloads_before=2, recovered=5, spooled=3, unwanted=1, assembler={"in": 6},
        detectors={"rows": 10},
    )  # fmt: skip
    assert broken(book) == [LOGGER, TAKEN, ASSEMBLER, ROWS]
