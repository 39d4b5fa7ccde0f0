"""Publishers before a Kafka that asks for passwords and certificates, which change while records are on their way."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Final

import pytest

from deploy.kafka.topics import ensure_topics, partitions_of
from streams.credentials import KafkaSecurity
from streams.errors import BadCredentials, Unavailable
from streams.publishers.confluent import ConfluentPublisher, PublisherSettings
from streams.publishers.kafka_python import KafkaPythonPublisher
from streams.publishing import Sending, publish_all
from streams.reading import Reader
from streams.stage import Output, Record
from streams.topics import Topic, Topics
from tests import secured
from tests.secured import PASSWORDS, Authority, Secured

pytestmark = pytest.mark.kafka
DEADLINE_S: Final = 60.0


@pytest.fixture(scope="module", name="broker")
def _broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    with secured.kafka(tmp_path_factory.mktemp("secured")) as found:
        yield found


@pytest.fixture
def topic(broker: Secured, topics: Topics) -> str:
    """Give a topic of one partition that no other test uses."""
    ensure_topics(broker.open, (Topic(topics.payloads, 1, {}),))
    return topics.payloads


def write(path: Path, content: str | bytes) -> Path:
    """Put a file in place at once, as a mounted secret is."""
    draft = path.with_suffix(".new")
    draft.write_bytes(content if isinstance(content, bytes) else content.encode())
    draft.replace(path)
    return path


def user(folder: Path, name: str, authority: Authority, password: str = "") -> KafkaSecurity:
    """Give the files of a user."""
    return KafkaSecurity(
        ca_file=authority.file,
        sasl_mechanism="PLAIN",
        username_file=write(folder / "username", name + "\n"),
        password_file=write(folder / "password", password or PASSWORDS[name]),
    )


def publisher_for(bootstrap: str, security: KafkaSecurity) -> ConfluentPublisher:
    """Make a publisher."""
    return ConfluentPublisher(PublisherSettings(bootstrap=bootstrap, compression="none", security=security))


def arrived(broker: Secured, topic: str) -> list[Record]:
    """Read the topic through the open listener."""
    reader = Reader(broker.open)
    return reader.read(topic, 0, *reader.bounds(topic, 0))


def until_sent(publisher: ConfluentPublisher, output: Output) -> None:
    """Send as a courier does: what is given back as Unavailable is sent again."""
    for _ in range(int(DEADLINE_S)):
        try:
            publish_all(publisher, [output], 1.0)
        except Unavailable:
            continue
        return
    raise AssertionError("it never arrived")


def test_a_password_over_tls(broker: Secured, topic: str, tmp_path: Path) -> None:
    """Producer, reader and administration get in with certificate authority, user name and password from files."""
    security = user(tmp_path, "alice", broker.authority)
    publisher = publisher_for(broker.sasl, security)
    publish_all(publisher, [Output(topic, b"k", b"v")], DEADLINE_S)
    reader = Reader(broker.sasl, extra=security.properties())

    assert [record.value for record in reader.read(topic, 0, *reader.bounds(topic, 0))] == [b"v"]
    assert partitions_of(broker.sasl, topic, extra=security.properties()) == 1
    publisher.close()


def test_a_client_certificate(broker: Secured, topic: str) -> None:
    """A certificate of the right authority opens the door that has no password."""
    certificate, key = broker.authority.issue("client")
    security = KafkaSecurity(ca_file=broker.authority.file, cert_file=certificate, key_file=key)
    publisher = publisher_for(broker.mutual, security)
    publish_all(publisher, [Output(topic, b"k", b"v")], DEADLINE_S)

    assert [record.value for record in arrived(broker, topic)] == [b"v"]
    publisher.close()


def test_a_broker_of_another_authority_is_not_trusted(broker: Secured, topic: str, tmp_path: Path) -> None:
    """The CA file is the whole of what is trusted: one signed by somebody else gets neither record nor password."""
    stranger = Authority(tmp_path, "stranger")
    publisher = publisher_for(broker.sasl, user(tmp_path, "alice", stranger))
    with pytest.raises(Unavailable):
        publish_all(publisher, [Output(topic, b"k", b"v")], 3.0)

    assert arrived(broker, topic) == []
    publisher.close(0)


@pytest.mark.parametrize("what", ["password", "certificate"])
def test_what_is_put_right_on_disk_is_taken_up(broker: Secured, topic: str, tmp_path: Path, what: str) -> None:
    """A wrong password, or a certificate that nobody signed: the record waits, and goes when the file is right."""
    good, bad = broker.authority.issue("good"), Authority(tmp_path, "stranger").issue("bad")
    files = write(tmp_path / "c", bad[0].read_bytes()), write(tmp_path / "k", bad[1].read_bytes())
    if what == "password":
        publisher = publisher_for(broker.sasl, user(tmp_path, "alice", broker.authority, "wrong"))
    else:
        security = KafkaSecurity(ca_file=broker.authority.file, cert_file=files[0], key_file=files[1])
        publisher = publisher_for(broker.mutual, security)
    with pytest.raises(Unavailable):
        publish_all(publisher, [Output(topic, b"k", b"too early")], 2.0)
    write(tmp_path / "password", PASSWORDS["alice"])
    for path, content in zip(files, good, strict=True):
        write(path, content.read_bytes())
    until_sent(publisher, Output(topic, b"k", b"v"))

    assert arrived(broker, topic)[-1].value == b"v"
    publisher.close()


def test_rotation_under_load_loses_and_reorders_nothing(broker: Secured, topic: str, tmp_path: Path) -> None:
    """The user changes again and again while records flow: each is acknowledged once, and all lie in their order."""
    publisher = publisher_for(broker.sasl, user(tmp_path, "alice", broker.authority))
    acknowledged: list[tuple[int, Exception | None]] = []
    first = publisher._producer
    producers = {id(first): first}

    def look() -> bool:
        producers.setdefault(id(publisher._producer), publisher._producer)
        return len(producers) > 3

    number = 0
    for name in ("bob", "alice", "bob"):
        seen = len(producers)
        # The password first, as it may be: a pair that does not fit must not do harm.
        write(tmp_path / "password", PASSWORDS[name])
        write(tmp_path / "username", name)
        while len(producers) == seen or number % 500:
            note = _noting(acknowledged, number)
            try:
                publisher.send(Output(topic, b"k", b"%d" % number), note)
            except Unavailable:
                publisher.poll(0.01)
                continue
            number += 1
            publisher.poll(0.001)
            look()
    left = publisher.flush(DEADLINE_S)

    assert left == 0
    assert look()
    assert [error for _, error in acknowledged if error is not None] == []
    assert sorted(index for index, _ in acknowledged) == list(range(number))
    assert [record.value for record in arrived(broker, topic)] == [b"%d" % index for index in range(number)]
    publisher.close()


def test_files_that_cannot_be_used_change_nothing(
    broker: Secured, topic: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A CA file that goes away while we run, or turns into rubbish, is named in the log; records go on as before."""
    ca_file = write(tmp_path / "ca.pem", broker.authority.file.read_bytes())
    security = replace(user(tmp_path, "alice", broker.authority), ca_file=ca_file)
    publisher = publisher_for(broker.sasl, security)
    publish_all(publisher, [Output(topic, b"k", b"1")], DEADLINE_S)
    with caplog.at_level(logging.ERROR):
        for spoil in (lambda: write(ca_file, "rubbish"), ca_file.unlink):
            caplog.clear()
            spoil()
            _poll_until(publisher, lambda: "the old ones stay" in caplog.text)
            publish_all(publisher, [Output(topic, b"k", b"2")], DEADLINE_S)

    assert [record.value for record in arrived(broker, topic)] == [b"1", b"2", b"2"]
    publisher.close()


def test_a_producer_that_cannot_finish_gives_its_records_back(broker: Secured, topic: str, tmp_path: Path) -> None:
    """What waits in a producer whose password is wrong comes back as Unavailable, and its sender sends it again."""
    publisher = publisher_for(broker.sasl, user(tmp_path, "bob", broker.authority, "wrong"))
    sending = Sending(publisher, [Output(topic, b"k", b"%d" % number) for number in range(50)])
    with pytest.raises(Unavailable):
        sending.wait(1.0)
    write(tmp_path / "password", PASSWORDS["bob"])
    with pytest.raises(Unavailable, match="PURGE"):
        sending.wait(DEADLINE_S)
    assert sending.wait(DEADLINE_S) == ()

    assert [record.value for record in arrived(broker, topic)] == [b"%d" % number for number in range(50)]
    publisher.close()


def test_an_absent_ca_file_ends_the_start(broker: Secured, tmp_path: Path) -> None:
    """There is no way to a publisher that trusts the system's authorities instead."""
    with pytest.raises(BadCredentials, match=r"gone\.pem: no such file"):
        publisher_for(broker.sasl, KafkaSecurity(ca_file=tmp_path / "gone.pem"))


def test_a_client_that_knows_no_files_refuses_them(broker: Secured) -> None:
    """Another publisher does not go on without TLS as if nothing had been asked."""
    security = KafkaSecurity(ca_file=broker.authority.file)

    with pytest.raises(BadCredentials, match="kafka-python"):
        KafkaPythonPublisher(PublisherSettings(bootstrap=broker.sasl, security=security))


def _noting(notes: list[tuple[int, Exception | None]], number: int) -> Callable[[Exception | None], None]:
    return lambda error: notes.append((number, error))


def _poll_until(publisher: ConfluentPublisher, condition: Callable[[], bool]) -> None:
    for _ in range(int(DEADLINE_S) * 20):
        if condition():
            return
        publisher.poll(0.05)
    raise AssertionError("it never came")
