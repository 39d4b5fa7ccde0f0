"""gRPC through the logger's own process, over a real Kafka, to the assembler's rows."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import grpc
import pytest
from confluent_kafka import Consumer, TopicPartition

from deploy.kafka.ports import free_port
from deploy.kafka.topics import ensure_topics
from inference.observations import ArrowCodec, decode_rows
from logger.grpc.methods import INFER, SERVICE
from streams.assembler import Assembler
from streams.bindings import from_kafka
from streams.events import Event
from streams.settings import AssemblerSettings
from streams.stage import Batch, Record
from streams.topics import Topics
from tests.inference.serving import ROOT, eventually
from tests.logger.grpc import oip
from tests.logger.grpc.serving import BIG, model, unary

CALLS = 60


def records(kafka: str, topic: str) -> list[Record]:
    """Read a topic of one partition from its beginning."""
    consumer = Consumer({"bootstrap.servers": kafka, "group.id": "t", "enable.auto.commit": False})
    end = consumer.get_watermark_offsets(TopicPartition(topic, 0), timeout=60)[1]
    consumer.assign([TopicPartition(topic, 0, 0)])
    found: list[Record] = []
    while len(found) < end:
        for message in consumer.consume(500, timeout=1.0):
            assert message.error() is None
            headers = tuple(message.headers() or [])
            found.append(Record(topic, 0, message.offset() or 0, message.key(), message.value(), headers))  # type: ignore[arg-type] # bytes, by us
    consumer.close()
    return found


def infer(request: bytes, context: grpc.ServicerContext) -> bytes:
    """Answer like a model: one number for each row, and no answer without rows."""
    found = oip.Request.FromString(request)
    if not found.inputs:
        context.abort(grpc.StatusCode.INVALID_ARGUMENT, "no inputs")
    return oip.response(found.inputs[0].shape[0])


@pytest.mark.kafka
@pytest.mark.e2e
def test_grpc_calls_become_observations(kafka: str, topics: Topics, tmp_path: Path) -> None:
    """Raw and typed, plain and gzip, good and failed: each call is answered and logged once, good ones have rows."""
    ensure_topics(kafka, topics.declared(1))
    port, log = free_port(), tmp_path / "logger.log"
    with model({"ModelInfer": unary(infer), "Other": unary(lambda request, _: request)}) as upstream:
        command = [
            sys.executable, "-m", "deploy.cli", "logger", "--log-url", f"kafka://{kafka}/{topics.payloads}", "--host",
            "127.0.0.1", "--port", str(port), "--component-port", "1", "--grpc-component-port", str(upstream),
            "--grpc-log-other", "--inference-service", "s", "--namespace", "n",
        ]  # fmt: skip
        with log.open("wb") as output:
            process = subprocess.Popen(command, cwd=ROOT, stdout=output, stderr=output)
        try:
            eventually(lambda: "logger ready" in log.read_text() or process.poll() is not None, "the ready line")
            with grpc.insecure_channel(f"127.0.0.1:{port}", options=BIG) as channel:
                call = channel.unary_unary(INFER)
                for number in range(CALLS):
                    packed = grpc.Compression.Gzip if number % 3 == 0 else grpc.Compression.NoCompression
                    call(oip.request(1 + number % 4, raw=number % 2 == 0), compression=packed, timeout=30)
                with pytest.raises(grpc.RpcError, match="no inputs"):
                    call(b"", timeout=30)
                channel.unary_unary(SERVICE + "Other")(b"bytes", timeout=30)
        finally:
            process.send_signal(signal.SIGTERM)
            code = process.wait(60)
    payloads = records(kafka, topics.payloads)
    settings = AssemblerSettings(
        payloads=topics.payloads, observations=topics.observations, deadletter=topics.deadletter,
        payload_partitions=1, observation_partitions=1,
    )  # fmt: skip
    assembler = Assembler(0, settings, ArrowCodec())
    outputs = assembler.process(Batch(0, tuple(payloads))).outputs
    tables = [decode_rows(item.value) for item in outputs if item.key == b"n/s" and item.value is not None]
    counts = assembler.counters()

    assert code == 0, log.read_text()
    assert len(payloads) == 2 * (CALLS + 2)
    assert (counts["exchanges"], counts["observed"], counts["failed"], counts["rowless"]) == (
        CALLS + 2, CALLS, 1, 1,
    )  # fmt: skip
    assert sum(table.num_rows for table in tables) == counts["rows"] == sum(1 + n % 4 for n in range(CALLS))
    assert {value for table in tables for value in table.column("in.x").to_pylist()} == {1.0}
    assert {value for table in tables for value in table.column("_model").to_pylist()} == {"m"}
    assert _statuses([from_kafka(item.headers, item.value) for item in payloads]) == {
        ("200", "0"): CALLS + 1, ("400", "3"): 1,
    }  # fmt: skip


def _statuses(events: list[Event]) -> Counter[tuple[str, str]]:
    return Counter(
        (event.text("statuscode"), event.text("grpcstatus")) for event in events if event.type.endswith("response")
    )
