"""The embedded broker: real Kafka processes, killed and started again."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from confluent_kafka import Consumer, Producer, TopicPartition

from deploy import environment
from deploy.errors import ProcessFailed, UserError
from deploy.kafka import broker, ports
from deploy.kafka.broker import BrokerSettings, Running
from deploy.kafka.topics import ensure_topics
from streams.topics import Topic

TOPIC = "kept"


def start(settings: BrokerSettings) -> Running:
    """Start a broker with this process's environment."""
    return broker.start(settings, environment.inherited())


def until(condition: Callable[[], bool]) -> None:
    """Wait for something that will come."""
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.02)


def write(bootstrap: str, values: list[bytes]) -> None:
    """Put records into the topic and wait until the broker has them."""
    ensure_topics(bootstrap, [Topic(TOPIC, 1, {})])
    producer = Producer({"bootstrap.servers": bootstrap, "acks": "all"})
    for value in values:
        producer.produce(TOPIC, value, partition=0)
    assert producer.flush(30) == 0


def read(bootstrap: str, count: int) -> list[bytes | None]:
    """Read the topic's first records."""
    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": "g", "enable.auto.commit": False})
    consumer.assign([TopicPartition(TOPIC, 0, 0)])
    found = [message.value() for message in consumer.consume(count, timeout=30)]
    consumer.commit(offsets=[TopicPartition(TOPIC, 0, count)], asynchronous=False)
    consumer.close()
    return found


def committed(bootstrap: str) -> int:
    """Give the offset that the group noted."""
    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": "g"})
    found = consumer.committed([TopicPartition(TOPIC, 0)], timeout=30)[0].offset
    consumer.close()
    return found


@pytest.mark.kafka
@pytest.mark.parametrize("end", ["stop", "kill"])
def test_data_outlive_the_broker(settings: BrokerSettings, end: str) -> None:
    """Records, group offsets, cluster id and address are the same after a stop, and after kill -9."""
    first = start(settings)
    cluster = broker.cluster_id(settings.folder)
    values = [b"%d" % number for number in range(100)]
    write(first.bootstrap, values)
    assert read(first.bootstrap, 100) == values
    if end == "stop":
        assert broker.stop(settings.folder)
    else:
        os.kill(first.pid, signal.SIGKILL)
        until(lambda: broker.running(settings.folder) is None)
    assert broker.running(settings.folder) is None
    second = start(settings)

    assert second.pid != first.pid
    assert second.bootstrap == first.bootstrap
    assert broker.cluster_id(settings.folder) == cluster == broker.answers(second.bootstrap)
    assert committed(second.bootstrap) == 100
    assert read(second.bootstrap, 100) == values


@pytest.mark.kafka
def test_a_second_broker_on_the_same_data_is_refused(settings: BrokerSettings) -> None:
    """Two brokers would ruin the data: the second start says who has them, and how to stop him. The first goes on."""
    first = start(settings)
    with pytest.raises(UserError) as refused:
        start(settings)
    # Even when the note about the first one is lost, the lock that it inherited holds.
    (settings.folder / "broker.json").unlink()
    with pytest.raises(UserError, match="another process is starting or using a broker on this data"):
        start(settings)
    (settings.folder / "broker.json").write_text(
        json.dumps({"pid": first.pid, "started": first.started, "bootstrap": first.bootstrap}), encoding="utf-8"
    )

    assert f"Kafka at {first.bootstrap} (pid {first.pid}) serves this data already" in str(refused.value)
    assert f"sidelight kafka stop --data {settings.folder}" in str(refused.value)
    assert broker.answers(first.bootstrap) == broker.cluster_id(settings.folder)


@pytest.mark.kafka
def test_of_parallel_starts_one_wins(settings: BrokerSettings) -> None:
    """Starts at the same moment give one broker, and a refusal for the others."""

    def attempt(_: int) -> Running | UserError:
        try:
            return start(settings)
        except UserError as exc:
            return exc

    with ThreadPoolExecutor(3) as pool:
        # The kernel ends a child with the thread that made it, so these brokers must not be tied to theirs.
        settings = replace(settings, with_parent=False)
        outcomes = list(pool.map(attempt, range(3)))
    won = [outcome for outcome in outcomes if isinstance(outcome, Running)]

    assert len(won) == 1
    assert broker.running(settings.folder) == won[0]


@pytest.mark.kafka
def test_both_kept_ports_may_be_gone(settings: BrokerSettings) -> None:
    """Data come up on other ports when others took theirs, the quorum's included."""
    first = start(settings)
    write(first.bootstrap, [b"here"])
    broker.stop(settings.folder)
    client, controller = json.loads((settings.folder / "ports.json").read_text(encoding="utf-8"))
    with socket.create_server(("127.0.0.1", client)), socket.create_server(("127.0.0.1", controller)):
        second = start(settings)

        assert second.bootstrap != first.bootstrap
        assert read(second.bootstrap, 1) == [b"here"]


@pytest.mark.kafka
def test_a_port_lost_during_the_start_is_replaced(settings: BrokerSettings) -> None:
    """Between the choice of a port and Kafka's own bind, another program may take it: then another is tried."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        pairs = iter([(taken.getsockname()[1], ports.free_port()), (ports.free_port(), ports.free_port())])
        found = broker.start(settings, environment.inherited(), lambda _folder, _named: next(pairs))

    assert next(pairs, None) is None
    assert broker.answers(found.bootstrap) == broker.cluster_id(settings.folder)


@pytest.mark.kafka
def test_a_failed_start_shows_the_end_of_kafkas_log(settings: BrokerSettings) -> None:
    """The reason stands in Kafka's own words in the error; nothing is left running, and the data are as they were."""
    data = settings.folder / "data"
    data.mkdir(parents=True)
    meta = "version=1\ncluster.id=tzOTK-nFQpGF621QQniLcg\nnode.id=7\ndirectory.id=1KNiWVzBRU-ISCSDYZDHPw\n"
    (data / "meta.properties").write_text(meta, encoding="utf-8")
    with pytest.raises(ProcessFailed, match=r"ended with code 1\n(.|\n)*Stored node id 7 doesn't match"):
        start(settings)

    assert broker.running(settings.folder) is None
    assert (data / "meta.properties").read_text(encoding="utf-8") == meta


@pytest.mark.kafka
def test_a_format_that_was_killed_is_done_again(settings: BrokerSettings) -> None:
    """A folder that was half formatted when the machine died is no obstacle: it never was in its place."""
    (settings.folder / "data.new").mkdir(parents=True)
    (settings.folder / "data.new" / "bootstrap.checkpoint").write_bytes(b"half")
    found = start(settings)

    assert broker.answers(found.bootstrap)
    assert not (settings.folder / "data.new").exists()


def test_files_of_others_are_not_formatted_over(settings: BrokerSettings) -> None:
    """A folder that is no Kafka's stays untouched."""
    (settings.folder / "data").mkdir(parents=True)
    (settings.folder / "data" / "thesis.txt").write_text("years", encoding="utf-8")
    with pytest.raises(UserError, match=r"/data: has files but no meta\.properties"):
        start(settings)

    assert (settings.folder / "data" / "thesis.txt").read_text(encoding="utf-8") == "years"


def test_a_folder_that_cannot_be_used_is_refused(settings: BrokerSettings) -> None:
    """A file in the folder's place gives one sentence."""
    settings.folder.write_text("", encoding="utf-8")

    with pytest.raises(UserError, match=r"a broker cannot be started there"):
        start(settings)
    settings.folder.unlink()


def test_a_broker_that_never_answers_is_ended(settings: BrokerSettings, tmp_path: Path) -> None:
    """The wait is bounded, and a broker that failed it does not stay behind with the lock."""
    deaf = tmp_path / "java"
    deaf.write_text(
        "#!/bin/sh\n"
        'case "$*" in\n'
        '*StorageTool*) mkdir data.new && echo "cluster.id=x" > data.new/meta.properties;;\n'
        "*) echo $$ > pid; echo still reading; exec sleep 600;;\n"
        "esac\n",
        encoding="utf-8",
    )
    deaf.chmod(0o755)
    for _ in range(2):
        with pytest.raises(ProcessFailed, match=r"did not answer in 1 s\n\s+still reading"):
            start(replace(settings, java=deaf, ready_s=1.0))
        pid = int((settings.folder / "pid").read_text(encoding="utf-8"))

        assert not Path(f"/proc/{pid}").exists()
        assert broker.running(settings.folder) is None


def test_a_java_that_cannot_format_is_told(settings: BrokerSettings) -> None:
    """A runtime that fails at the first step gives its output, and leaves no data folder."""
    with pytest.raises(ProcessFailed, match="could not be formatted"):
        start(replace(settings, java=Path("/bin/false")))

    assert not (settings.folder / "data").exists()


def test_a_pid_that_another_program_has_is_left_alone(settings: BrokerSettings) -> None:
    """After a crash, the pid in the note may be anyone's: it is not taken for the broker, and gets no signal."""
    settings.folder.mkdir()
    note = settings.folder / "broker.json"
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as other:
        note.write_text(json.dumps({"pid": other.pid, "started": 1, "bootstrap": "127.0.0.1:1"}), encoding="utf-8")

        assert broker.running(settings.folder) is None
        assert not broker.stop(settings.folder)
        assert other.poll() is None
        assert not note.exists()
        other.communicate(b"\n")


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "{}", '{"pid": 1}', '{"pid": 1, "started": 1, "bootstrap": "x", "y": 2}']
)
def test_a_broken_note_means_not_running(settings: BrokerSettings, text: str) -> None:
    """Half a note, or another version's, is no reason to fail."""
    settings.folder.mkdir()
    (settings.folder / "broker.json").write_text(text, encoding="utf-8")

    assert broker.running(settings.folder) is None
    assert not broker.stop(settings.folder)


def test_a_gone_process_means_not_running(settings: BrokerSettings) -> None:
    """A note that a crash left behind does not count."""
    settings.folder.mkdir()
    with subprocess.Popen([sys.executable, "-c", ""]) as gone:
        gone.wait()
    note = {"pid": gone.pid, "started": 1, "bootstrap": "127.0.0.1:1"}
    (settings.folder / "broker.json").write_text(json.dumps(note), encoding="utf-8")

    assert broker.running(settings.folder) is None


@pytest.mark.kafka
def test_a_broker_that_ignores_the_signal_is_killed(settings: BrokerSettings) -> None:
    """The wait for a clean stop is bounded."""
    found = start(settings)
    os.kill(found.pid, signal.SIGSTOP)

    assert broker.stop(settings.folder, grace_s=0.2)
    assert broker.running(settings.folder) is None
    assert not broker.answers(found.bootstrap, 0.5)


def test_nobody_answering_is_no_cluster() -> None:
    """A port without a broker gives no id, and no exception."""
    assert not broker.answers(f"127.0.0.1:{ports.free_port()}", 0.3)
