"""The assembler command on real Kafka: our events and an agent's in, rows out, every bad event kept with its reason."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa
import pytest
from confluent_kafka import Consumer, Message, TopicPartition

from deploy import scrape
from deploy.kafka.ports import free_port
from deploy.kafka.topics import ensure_topics
from inference.observations import decode_rows
from inference.protocol import v2
from inference.protocol.tensors import Tensor
from streams.bindings import to_kafka
from streams.events import NAMESPACE, REQUEST_TYPE, RESPONSE_TYPE, SERVICE, Event, Value, format_time
from streams.publishers.confluent import ConfluentPublisher, PublisherSettings
from streams.publishing import publish_all
from streams.stage import Output
from streams.topics import Topics

DEADLINE_S: Final = 60.0
LARGE: Final = 25_000
"""Rows of a small body whose record is beyond Kafka's default limit of 1 MiB; four times as many are beyond ours."""
PARTITIONS: Final = 2
NOW_US: Final = 1_760_000_000_000_000
V1_IN, V1_OUT = b'{"instances":[[1,2],[3,4]]}', b'{"predictions":[0.1,0.9]}'
TENSOR: Final = v2.encode_request(v2.InferRequest(inputs=(Tensor.of("age", np.array([[41.0], [25.5]])),)), binary=True)
SCORES: Final = v2.encode_response(
    v2.InferResponse(model_name="m", outputs=(Tensor.of("score", np.array([0.5, 0.25])),)), lambda _name: True
)
# What is wrong with the request → its body, protocol and header length; and what the dead letter has to say.
BROKEN: Final[dict[str, tuple[bytes, str, int | None, str]]] = {
    "malformed-json": (b'{"instances":[[1,', "v1", None, "request: body: no JSON"),
    "ragged": (b'{"instances":[[1,2],[3]]}', "v1", None, "request: instances: expected rows of one length"),
    "other-rows": (b'{"instances":[[1,2]]}', "v1", None, "response: expected 1 rows as in the request, got 2"),
    "truncated-tensor": (TENSOR[0][:-1], "v2", TENSOR[1], "request: tensor 'age': binary_data_size is 16, only 15"),
    "unknown-datatype": (
        b'{"inputs":[{"name":"a","shape":[1],"datatype":"FP99","data":[1]}]}', "v2", None, "datatype 'FP99': expected",
    ),
    "wrong-shape": (
        b'{"inputs":[{"name":"a","shape":[2,3],"datatype":"FP32","data":[1]}]}', "v2", None, "needs 6 values, got 1",
    ),
}  # fmt: skip
_ORDER: Final = to_kafka(Event(id="1", source="/", type="com.example.order"))
FOREIGN: Final = {
    "not-a-cloudevent": Output("", b"x", b"plain text", (("trace", b"7"),)),
    "specversion": Output("", b"x", b"{}", (("ce_id", b"1"), ("ce_source", b"/"), ("ce_type", b"t"))),
    "unexpected-type": Output("", b"x", _ORDER[1], _ORDER[0]),
}


@dataclass(frozen=True)
class Running:
    """An assembler at work."""

    process: subprocess.Popen[bytes]
    log: Path
    metrics: str

    def counters(self) -> dict[str, int]:
        """Add its counters up over the partitions."""
        page = scrape.read(self.metrics, 60.0) or scrape.Samples()
        return {name: int(value) for name, value in page.by("sidelight_stage_total", "counter").items()}


def our(name: str, kind: str, body: bytes, at_us: int = NOW_US, about: Mapping[str, Value] | None = None) -> Output:
    """Make an event as our logger does."""
    own: dict[str, Value] = {
        NAMESPACE: "shop", SERVICE: "credit", "component": "predictor", "correlationid": name, "protocol": "v1",
        "modelname": "credit",
    }  # fmt: skip
    if kind == "response":
        own |= {"statuscode": 200, "latencyus": 2_000}
        at_us += 2_000
    return _event(f"{name}-{kind[0]}", kind, body, at_us, name, own | dict(about or {}))


def agents(name: str, kind: str, body: bytes, at_us: int = NOW_US) -> Output:
    """Make an event as an unmodified KServe agent does: one id, no protocol, path, status or header length."""
    own: dict[str, Value] = {
        NAMESPACE: "shop", SERVICE: "iris", "component": "predictor", "endpoint": "", "metadata": "{}",
    }  # fmt: skip
    return _event(name, kind, body, at_us, name, own)


def _event(identity: str, kind: str, body: bytes, at_us: int, key: str, extensions: dict[str, Value]) -> Output:
    event = Event(
        id=identity, source="http://localhost:9081/", type=REQUEST_TYPE if kind == "request" else RESPONSE_TYPE,
        time=format_time(at_us), datacontenttype="application/json", extensions=extensions, data=body,
    )  # fmt: skip
    headers, value = to_kafka(event)
    return Output("", key.encode(), value, headers)


def traffic() -> Iterator[Output]:
    """Give everything that the test writes; a lonely request expires when the rest, a day later, moves the time on."""
    yield our("lonely", "request", V1_IN, NOW_US - 86_400_000_000)
    for number in range(20):
        yield our(f"good-{number}", "request", V1_IN)
        yield our(f"good-{number}", "response", V1_OUT)
        yield agents(f"agent-{number}", "request", TENSOR[0])
        yield agents(f"agent-{number}", "response", SCORES[0])
    yield our("good-0", "request", V1_IN)
    yield our("failed", "request", V1_IN)
    yield our("failed", "response", b"{}", about={"statuscode": 500})
    for name, (body, protocol, length, _) in BROKEN.items():
        about: dict[str, Value] = {"protocol": protocol}
        if length is not None:
            about["inferenceheaderlength"] = length
        yield our(name, "request", body, about=about)
        yield our(name, "response", V1_OUT if protocol == "v1" else SCORES[0], about=about)
    for name, rows in (("large", LARGE), ("too-large", 4 * LARGE)):
        yield our(name, "request", b'{"instances":[%s]}' % b",".join([b"1"] * rows), about={SERVICE: "bulk"})
        yield our(name, "response", b'{"predictions":[%s]}' % b",".join([b"0"] * rows), about={SERVICE: "bulk"})
    yield from FOREIGN.values()
    # Every partition gets something at the end of the time, so that the lonely one expires wherever it lies.
    for number in range(20):
        yield our(f"last-{number}", "request", V1_IN, NOW_US + 1_000_000)
        yield our(f"last-{number}", "response", V1_OUT, NOW_US + 1_000_000)


@pytest.fixture(name="running")
def _running(kafka: str, topics: Topics, tmp_path: Path) -> Iterator[Running]:
    ensure_topics(kafka, topics.declared(PARTITIONS))
    port = free_port()
    words = ["--kafka", kafka, "--prefix", topics.prefix, "--metrics-port", str(port), "--expiry", "60"]
    log = tmp_path / "assembler.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "deploy.cli", "assembler", *words], stdout=output, stderr=output
        )
    yield Running(process, log, f"http://127.0.0.1:{port}/metrics")
    if process.poll() is None:
        process.kill()
        process.wait()


def eventually(condition: Callable[[], bool], running: Running) -> None:
    """Wait until a condition holds; fail with the log."""
    until = time.monotonic() + DEADLINE_S
    while not condition():
        assert running.process.poll() is None, running.log.read_text()
        assert time.monotonic() < until, f"{running.counters()}\n{running.log.read_text()}"
        time.sleep(0.1)


def read(kafka: str, topic: str) -> list[Message]:
    """Read what is in a topic now."""
    consumer = Consumer({"bootstrap.servers": kafka, "group.id": "reader", "enable.auto.commit": False})
    found: list[Message] = []
    for partition in range(PARTITIONS):
        low, high = consumer.get_watermark_offsets(TopicPartition(topic, partition), timeout=60)
        consumer.assign([TopicPartition(topic, partition, low)])
        for _ in range(low, high):
            message = consumer.poll(60)
            assert message is not None
            assert message.error() is None
            found.append(message)
    consumer.close()
    return found


def header(message: Message, name: str) -> str:
    """Give a header as text."""
    value = dict(message.headers() or [])[name]
    assert isinstance(value, bytes)
    return value.decode()


@pytest.mark.kafka
@pytest.mark.e2e
def test_payloads_become_rows_and_nothing_is_lost(kafka: str, topics: Topics, running: Running) -> None:
    """Ours and an agent's, JSON and binary: rows. What cannot be read: dead letters, as they were. The law holds."""
    written = [Output(topics.payloads, item.key, item.value, item.headers) for item in traffic()]
    publisher = ConfluentPublisher(PublisherSettings(bootstrap=kafka))
    publish_all(publisher, written, DEADLINE_S)
    publisher.close()
    eventually(lambda: running.counters().get("in") == len(written) and running.counters().get("waiting") == 0, running)
    counters = running.counters()
    running.process.send_signal(signal.SIGTERM)
    code = running.process.wait(DEADLINE_S)
    observations = read(kafka, topics.observations)
    letters = read(kafka, topics.deadletter)

    assert code == 0
    assert "assembler ready" in running.log.read_text()
    _check_counters(counters, len(written), len(letters))
    _check_rows(observations)
    _check_letters(letters, {(item.key, item.value) for item in written})


def _check_counters(counters: dict[str, int], written: int, letters: int) -> None:
    events = ("paired", "expired", "evicted", "deadlettered", "duplicates", "waiting")
    assert counters["in"] == written == sum(counters[name] for name in events)
    assert letters == counters["expired"] + counters["evicted"] + counters["deadlettered"]
    assert {name: counters[name] for name in ("expired", "evicted", "duplicates", "failed", "undecodable")} == {
        "expired": 1, "evicted": 0, "duplicates": 1, "failed": 1, "undecodable": len(BROKEN),
    }  # fmt: skip
    assert counters["oversized"] == 1
    assert counters["deadlettered"] == 2 * len(BROKEN) + 2 + len(FOREIGN)
    assert (counters["observed"], counters["rows"]) == (61, 120 + LARGE)


def _check_rows(observations: list[Message]) -> None:
    tables: dict[bytes | None, list[pa.Table]] = {}
    for message in observations:
        value = message.value()
        if value is not None:
            tables.setdefault(message.key(), []).append(decode_rows(value))
    credit, iris, bulk = (pa.concat_tables(tables.pop(key)) for key in (b"shop/credit", b"shop/iris", b"shop/bulk"))

    assert not tables
    assert max(len(message.value() or b"") for message in observations) > 1 << 20
    assert bulk["_row"].to_pylist() == list(range(LARGE))
    ids = Counter(credit["_id"].to_pylist())
    assert ids == {f"{name}-{number}": 2 for name in ("good", "last") for number in range(20)}
    assert credit["in.instances"].to_pylist() == [[1.0, 2.0], [3.0, 4.0]] * 40
    assert set(credit["_latency_us"].to_pylist()) == {2_000}
    assert Counter(iris["_id"].to_pylist()) == {f"agent-{number}": 2 for number in range(20)}
    assert iris["in.age"].to_pylist() == [41.0, 25.5] * 20
    assert iris["out.score"].to_pylist() == [0.5, 0.25] * 20
    told = {message.partition() for message in observations if message.value() is None}
    assert told == set(range(PARTITIONS))


def _check_letters(letters: list[Message], written: set[tuple[bytes | None, bytes | None]]) -> None:
    reasons = Counter(header(letter, "sl_reason") for letter in letters)
    assert reasons == {"undecodable": 2 * len(BROKEN), "too-large": 2, "unpaired": 1} | dict.fromkeys(FOREIGN, 1)
    assert {(letter.key(), letter.value()) for letter in letters} <= written
    details = {
        (letter.key() or b"").decode(): header(letter, "sl_detail")
        for letter in letters
        if header(letter, "sl_reason") == "undecodable"
    }
    assert {name: BROKEN[name][3] in detail for name, detail in details.items()} == dict.fromkeys(BROKEN, True)
    plain = next(letter for letter in letters if header(letter, "sl_reason") == "not-a-cloudevent")
    assert header(plain, "trace") == "7"


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ((), "the following arguments are required: --kafka"),
        (("--kafka", "x:1", "--expiry", "0"), "expected seconds above 0, got '0'"),
        (("--kafka", "x:1", "--expiry", "soon"), "expected seconds above 0, got 'soon'"),
        (("--kafka", "x:1", "--max-pending", "0"), "expected a whole number from 1 to 10000000, got '0'"),
        (("--kafka", "x:1", "--max-pending-mib", "64"), "expected a whole number from 1 to 60, got '64'"),
    ],
)
def test_mistakes_are_one_line(words: tuple[str, ...], says: str) -> None:
    """A mistake ends with code 2, what was expected and got, and no traceback."""
    command = [sys.executable, "-m", "deploy.cli", "assembler", *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)

    assert done.returncode == 2
    assert says in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.kafka
@pytest.mark.e2e
def test_a_topic_that_is_not_there_is_named(kafka: str, topics: Topics) -> None:
    """Without a payload topic there is nothing to do; the message says which one is missing."""
    command = [sys.executable, "-m", "deploy.cli", "assembler", "--kafka", kafka, "--prefix", topics.prefix]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)

    assert done.returncode == 2
    assert f"topic '{topics.payloads}' does not exist" in done.stderr
