"""Publishers before a broker in trouble: injected errors, lost brokers and fatal ones. No record is reported twice."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Final

import pytest

from streams.errors import PublishError, Refused, Unavailable
from streams.publishers.confluent import ConfluentPublisher, PublisherSettings
from streams.publishers.kafka_python import KafkaPythonPublisher
from streams.publishing import Sending, publish_all
from streams.reading import Reader
from streams.stage import Output
from tests import mockcluster
from tests.mockcluster import MockCluster

# kafka-python leaves the sockets of failed attempts to connect to the collector.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")

TOPIC: Final = "t"
DEADLINE_S: Final = 30.0
COUNT: Final = 50
Client = ConfluentPublisher | KafkaPythonPublisher
CLIENTS: Final[dict[str, type[Client]]] = {"confluent": ConfluentPublisher, "kafka-python": KafkaPythonPublisher}
SETTINGS: Final = PublisherSettings(bootstrap="", compression="none", delivery_timeout_ms=0)
PASSING: Final = {
    "not-enough-replicas": mockcluster.NOT_ENOUGH_REPLICAS,
    "timed-out": mockcluster.REQUEST_TIMED_OUT,
    "not-leader": mockcluster.NOT_LEADER,
}


@pytest.fixture(name="cluster")
def _cluster() -> Iterator[MockCluster]:
    with MockCluster({TOPIC: 1}) as cluster:
        yield cluster


@pytest.fixture(params=[*CLIENTS, "as the logger's"])
def publisher(request: pytest.FixtureRequest, cluster: MockCluster) -> Iterator[Client]:
    """Give each client's publisher, which has written one record."""
    client = CLIENTS.get(request.param, ConfluentPublisher)
    publisher = client(replace(SETTINGS, bootstrap=cluster.bootstrap, idempotent=request.param in CLIENTS))
    publish_all(publisher, [Output(TOPIC, b"k", b"first")], DEADLINE_S)
    yield publisher
    publisher.close()


class Ledger:
    """Sends numbered records and notes every report."""

    def __init__(self, publisher: Client) -> None:
        self._publisher = publisher
        self.reports: dict[int, list[Exception | None]] = {}

    def send(self, first: int, end: int) -> None:
        """Send the records with these numbers."""
        for number in range(first, end):
            self._publisher.send(Output(TOPIC, b"k", b"%d" % number), self.reports.setdefault(number, []).append)

    def settle(self) -> None:
        """Wait for every report, and for none too many."""
        assert self._publisher.flush(DEADLINE_S) == 0
        self._publisher.poll(0.05)


def arrived(cluster: MockCluster) -> list[bytes | None]:
    """Read the values behind the first record."""
    reader = Reader(cluster.bootstrap)
    return [record.value for record in reader.read(TOPIC, 0, *reader.bounds(TOPIC, 0))][1:]


def numbers(*ranges: range) -> list[bytes]:
    """Give the values of numbered records."""
    return [b"%d" % number for one in ranges for number in one]


@pytest.mark.parametrize("error", PASSING)
def test_what_passes_is_tried_again_by_the_client(cluster: MockCluster, publisher: Client, error: str) -> None:
    """Replicas that lag, timeouts and moving leaders: every record arrives, in order, and is reported once."""
    ledger = Ledger(publisher)
    cluster.fail(mockcluster.PRODUCE, [PASSING[error]] * 3)
    ledger.send(0, COUNT)
    ledger.settle()

    assert ledger.reports == {number: [None] for number in range(COUNT)}
    assert arrived(cluster) == numbers(range(COUNT))


def test_a_broker_that_comes_back_gets_everything(cluster: MockCluster, publisher: Client) -> None:
    """What is sent before, during and after an outage arrives in order; during it nothing is reported."""
    ledger = Ledger(publisher)
    ledger.send(0, COUNT)
    ledger.settle()
    cluster.down()
    ledger.send(COUNT, 2 * COUNT)
    publisher.poll(0.5)
    meanwhile = {number: list(ledger.reports[number]) for number in range(COUNT, 2 * COUNT)}
    cluster.up()
    ledger.send(2 * COUNT, 3 * COUNT)
    ledger.settle()

    assert meanwhile == {number: [] for number in range(COUNT, 2 * COUNT)}
    assert ledger.reports == {number: [None] for number in range(3 * COUNT)}
    assert arrived(cluster) == numbers(range(3 * COUNT))


def test_a_refusal_is_reported_once_and_harms_nothing_later(cluster: MockCluster, publisher: Client) -> None:
    """A record that the broker calls too large is Refused; the publisher goes on."""
    ledger = Ledger(publisher)
    cluster.fail(mockcluster.PRODUCE, [mockcluster.MESSAGE_TOO_LARGE])
    ledger.send(0, 1)
    ledger.settle()
    ledger.send(1, COUNT)
    ledger.settle()
    (refused,) = ledger.reports.pop(0)

    assert isinstance(refused, Refused)
    assert ledger.reports == {number: [None] for number in range(1, COUNT)}
    assert arrived(cluster) == numbers(range(1, COUNT))


def test_a_long_outage_gives_records_back(cluster: MockCluster) -> None:
    """With a delivery timeout, what the broker did not take in time is Unavailable, once, and may be sent again."""
    settings = replace(SETTINGS, bootstrap=cluster.bootstrap, delivery_timeout_ms=1_500)
    publisher = ConfluentPublisher(settings)
    until_done(Sending(publisher, [Output(TOPIC, b"k", b"first")]))
    ledger = Ledger(publisher)
    cluster.down()
    ledger.send(0, COUNT)
    ledger.settle()
    cluster.up()
    again = Sending(publisher, [Output(TOPIC, b"k", value) for value in numbers(range(COUNT))])
    until_done(again)

    assert [type(error) for reports in ledger.reports.values() for error in reports] == [Unavailable] * COUNT
    # What the broker took as its time ran out is sent once more: at least once.
    assert set(arrived(cluster)) - {b"first"} == set(numbers(range(COUNT)))


def test_a_producer_that_failed_for_good_is_replaced(cluster: MockCluster) -> None:
    """Without leave to write the client is dead: its records come back as Unavailable, and the next one takes them."""
    cluster.fail(mockcluster.INIT_PRODUCER_ID, [mockcluster.CLUSTER_AUTHORIZATION_FAILED])
    publisher = ConfluentPublisher(replace(SETTINGS, bootstrap=cluster.bootstrap))
    ledger = Ledger(publisher)
    ledger.send(0, COUNT)
    until = time.monotonic() + DEADLINE_S
    while not all(ledger.reports.values()):
        assert time.monotonic() < until, "the dead client's records were never given back"
        publisher.poll(0.05)
    publish_all(publisher, [Output(TOPIC, b"k", b"first")], DEADLINE_S)
    ledger_again = Ledger(publisher)
    ledger_again.send(0, COUNT)
    ledger_again.settle()

    assert [type(error) for reports in ledger.reports.values() for error in reports] == [Unavailable] * COUNT
    assert ledger_again.reports == {number: [None] for number in range(COUNT)}
    assert arrived(cluster) == numbers(range(COUNT))


@pytest.mark.parametrize("code", [mockcluster.NOT_LEADER, mockcluster.MESSAGE_TOO_LARGE])
def test_sending_survives_every_fault(cluster: MockCluster, publisher: Client, code: int) -> None:
    """What hosts use brings every record to the broker although a request fails, without a second copy."""
    cluster.fail(mockcluster.PRODUCE, [code])
    sending = Sending(publisher, [Output(TOPIC, b"k", value) for value in numbers(range(COUNT))])
    refused = until_done(sending)

    assert refused == ()
    assert sorted(arrived(cluster), key=_number) == numbers(range(COUNT))


def until_done(sending: Sending) -> object:
    """Wait as a host does: again and again."""
    until = time.monotonic() + DEADLINE_S
    while True:
        try:
            return sending.wait(1.0)
        except PublishError:
            assert time.monotonic() < until, "it was never done"


def _number(value: bytes | None) -> int:
    return int(value or b"-1")
