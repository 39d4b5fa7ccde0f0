"""Predictions over real Kafka against the bare model's forward rate, at the same batch size, on the CPU.

The requests lie in the topic before `sidelight stream` starts. Measured is from 15 % to 85 % of the answers, but not
before every process answers.
The bare model is the same runtime in this process, on one thread, called with whole batches and nothing around it.

    python benchmarks/bench_stream_inference.py
    python benchmarks/bench_stream_inference.py --seconds 30 --partitions 4 --threads 2
    python benchmarks/bench_stream_inference.py --seconds 20 --partitions 4 --processes 2
"""

from __future__ import annotations

import argparse
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from urllib.request import urlopen

import joblib
import numpy as np
import rig
import threadpoolctl
from confluent_kafka import Consumer, TopicPartition
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.neural_network import MLPClassifier

from deploy.kafka.broker import running
from deploy.kafka.ports import free_port
from deploy.kafka.topics import ensure_topics
from inference.directory import open_model
from inference.protocol import v1, v2
from inference.protocol.tensors import Tensor
from inference.protocol.v2 import InferRequest
from inference.runtime import Runtime
from inference.settings import Trust
from streams.publishers.confluent import ConfluentPublisher, PublisherSettings
from streams.publishing import publish_all
from streams.stage import Output
from streams.topics import Topics, request_topics

BATCH = 64
"""Rows of a prediction, bare and through Kafka."""
BEGIN, END = 0.15, 0.85
START_S = 120.0
LEAST = 400
"""Fewest requests of a measurement."""


@dataclass(frozen=True, slots=True)
class Model:
    """A model, and how fast it is by itself."""

    name: str
    folder: Path
    width: int
    rate: float
    """Rows per second."""
    cpu: float
    """CPU seconds of a row."""


@dataclass(frozen=True, slots=True)
class Measured:
    """One line of the table."""

    rate: float
    """Rows per second through Kafka."""
    stream: float
    """CPU seconds per second of the predictor, all of its threads."""
    broker: float
    rows_per_call: float


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=12.0, help="of each measurement, about (default: %(default)s)")
    parser.add_argument("--partitions", type=int, default=2, help="of the topics (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=1, help="that the model computes on (default: %(default)s)")
    parser.add_argument(
        "--processes", type=int, default=1, help="of the stream, which share the partitions (default: %(default)s)"
    )
    parser.add_argument("--rounds", type=int, default=3, help="of each line; the median counts (default: %(default)s)")
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=list(MODELS), help="default: all")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with rig.kafka("", folder / "kafka") as kafka:
            print(
                f"| model | forward, CPU ms per {BATCH} rows | bare, rows/s | requests | Kafka, rows/s | of bare |"
                " predictor, CPU µs per row | of it the model | predictor, CPUs | broker, CPUs | rows per call |\n"
                + "| --- " * 11
                + "|"
            )
            for kind in arguments.models:
                model = trained(kind, folder)
                for rows, body in ((1, "V1 JSON"), (1, "V2 binary"), (32, "V2 binary")):
                    print(line(model, body, rows, kafka, folder, arguments), flush=True)
    return 0


def line(model: Model, body: str, rows: int, kafka: str, folder: Path, arguments: argparse.Namespace) -> str:
    """Measure one line of the table."""
    # No more than a predictor could do with nothing to compute, or the preparation takes longer than the run.
    requests = int(min(model.rate / rows, 20_000 if rows == 1 else 6_000) * arguments.seconds)
    # Fewer are answered between two looks, on a machine that gives the predictor no time.
    requests = max(requests, LEAST)
    found = [through_kafka(model, body, rows, requests, kafka, folder, arguments) for _ in range(arguments.rounds)]
    middle = sorted(found, key=lambda one: one.rate)[len(found) // 2]
    return (
        f"| {model.name} | {BATCH * model.cpu * 1000:.2f} | {model.rate:,.0f} | {rows} row{'s' * (rows > 1)}, {body} |"
        f" {middle.rate:,.0f} | {middle.rate / model.rate:.0%} | {middle.stream / middle.rate * 1e6:.1f} |"
        f" {model.cpu * middle.rate / middle.stream:.0%} | {middle.stream:.2f} | {middle.broker:.2f} |"
        f" {middle.rows_per_call:.0f} |"
    )


def trained(kind: str, folder: Path) -> Model:
    """Train a model, and measure what it does by itself."""
    width, estimator = MODELS[kind]
    draw = np.random.default_rng(0)
    table, labels = draw.normal(size=(512, width)), draw.integers(0, 2, 512)
    place = folder / kind
    place.mkdir()
    joblib.dump(estimator().fit(table, labels), place / "model.joblib")
    runtime = open_model(place, Trust(code=True))
    return Model(kind, place, width, *bare(runtime, width))


def bare(runtime: Runtime, width: int) -> tuple[float, float]:
    """Give rows per second of the runtime alone, on one thread, and CPU seconds per row, which hold amid other load."""
    inputs = {"x": np.random.default_rng(1).normal(size=(BATCH, width))}
    rates, costs = [], []
    with threadpoolctl.threadpool_limits(limits=1):
        for _ in range(5):
            began, used, calls = time.perf_counter(), time.thread_time(), 0
            while time.perf_counter() - began < 1:
                runtime.predict(inputs)
                calls += 1
            rates.append(calls * BATCH / (time.perf_counter() - began))
            costs.append((time.thread_time() - used) / (calls * BATCH))
    return median(rates), median(costs)


def through_kafka(
    model: Model, body: str, rows: int, requests: int, kafka: str, folder: Path, arguments: argparse.Namespace
) -> Measured:
    """Have requests answered, and measure in the middle of it."""
    topics = Topics(f"b{time.monotonic_ns()}")
    names = (topics.requests, topics.responses, topics.deadletter)
    ensure_topics(kafka, request_topics(names, arguments.partitions))
    fill(topics, body, rows, requests, model.width, kafka)
    ports = [free_port() for _ in range(arguments.processes)]
    command = [
        sys.executable, "-m", "deploy.cli", "stream", "--model_name", "m", "--model_dir", str(model.folder),
        "--trusted", "--kafka", kafka, "--prefix", topics.prefix, "--max_threads", str(arguments.threads),
        "--max_batch_rows", str(BATCH), "--metrics-port",
    ]  # fmt: skip
    found = running(folder / "kafka")
    if found is None:
        raise SystemExit("the broker has gone")
    with (folder / "stream.log").open("ab") as output:
        processes = [
            subprocess.Popen([*command, str(port)], cwd=rig.ROOT, stdout=output, stderr=output) for port in ports
        ]
    pids = [process.pid for process in processes]
    try:
        answers = Answers(kafka, topics, arguments.partitions)
        answers.reach(int(requests * BEGIN), processes)
        await_all(ports)
        marks = [mark(answers, pids, found.pid)]
        if marks[0][1] > requests / 2:
            raise SystemExit("the processes joined too late; see --seconds")
        answers.reach(int(requests * END), processes)
        marks.append(mark(answers, pids, found.pid))
        pages = [stage_counters(port) for port in ports]
        counted = {name: sum(page.get(name, 0.0) for page in pages) for name in ("rows", "calls")}
    finally:
        for process in processes:
            process.send_signal(signal.SIGTERM)
        for process in processes:
            process.wait(60)
    took, count, own, broker = (after - before for before, after in zip(*marks, strict=True))
    return Measured(count * rows / took, own / took, broker / took, counted["rows"] / max(1.0, counted["calls"]))


def fill(topics: Topics, body: str, rows: int, requests: int, width: int, kafka: str) -> None:
    """Write the requests: a hundred different ones, again and again, each with an id of its own."""
    bodies = [written(body, table) for table in np.random.default_rng(2).normal(size=(100, rows, width))]
    publisher = ConfluentPublisher(PublisherSettings(bootstrap=kafka, message_max_bytes=16 << 20, linger_ms=20))

    def outputs() -> Iterator[Output]:
        for number in range(requests):
            content, headers = bodies[number % len(bodies)]
            identity = b"%036d" % number
            yield Output(topics.requests, identity, content, (("x-request-id", identity), *headers))

    waiting = list(outputs())
    for start in range(0, len(waiting), 5_000):
        publish_all(publisher, waiting[start : start + 5_000], 120.0)
    publisher.close()


def written(body: str, table: NDArray[np.float64]) -> tuple[bytes, tuple[tuple[str, bytes], ...]]:
    """Write one request's body and what its headers say of it."""
    if body == "V1 JSON":
        return v1.encode_request(table.round(6).tolist()), (("content-type", b"application/json"),)
    content, length = v2.encode_request(InferRequest(inputs=(Tensor.of("x", table),)), binary=True)
    return content, (
        ("content-type", b"application/octet-stream"), ("inference-header-content-length", b"%d" % (length or 0)),
    )  # fmt: skip


class Answers:
    """Counts the answers by the ends of their topic."""

    def __init__(self, kafka: str, topics: Topics, partitions: int) -> None:
        self._consumer = Consumer({"bootstrap.servers": kafka, "group.id": "bench", "log_level": 2})
        self._places = [TopicPartition(topics.responses, place) for place in range(partitions)]

    def count(self) -> int:
        """Give how many there are."""
        return sum(self._consumer.get_watermark_offsets(place, timeout=10)[1] for place in self._places)

    def reach(self, wanted: int, processes: Sequence[subprocess.Popen[bytes]]) -> None:
        """Wait for so many."""
        deadline = time.monotonic() + START_S
        last = 0
        while (now := self.count()) < wanted:
            if now > last:
                last, deadline = now, time.monotonic() + START_S
            ended = any(process.poll() is not None for process in processes)
            if ended or time.monotonic() > deadline:
                raise SystemExit(f"{now} of {wanted} answers, and no more; see the stream's log")
            time.sleep(0.05)


def await_all(ports: Sequence[int]) -> None:
    """Wait until every process answers requests."""
    deadline = time.monotonic() + START_S
    while not all(map(answers_any, ports)):
        if time.monotonic() > deadline:
            raise SystemExit("a process answers nothing; see the stream's log")
        time.sleep(0.05)


def answers_any(port: int) -> bool:
    """Tell whether a process has answered any."""
    try:
        return bool(stage_counters(port))
    except OSError:
        return False


def mark(answers: Answers, streams: Sequence[int], broker: int) -> tuple[float, float, float, float]:
    """Give the time, the number of answers, and the CPU seconds of the streams and of the broker."""
    return time.perf_counter(), answers.count(), rig.cpu_seconds(streams), rig.cpu_seconds([broker])


def stage_counters(port: int) -> dict[str, float]:
    """Give the stage's counters over all partitions."""
    with urlopen(f"http://127.0.0.1:{port}/metrics", timeout=30) as page:
        lines: Sequence[str] = page.read().decode().splitlines()
    found: dict[str, float] = {}
    for text in lines:
        if text.startswith("sidelight_stage_total{"):
            name = text.partition('counter="')[2].partition('"')[0]
            found[name] = found.get(name, 0.0) + float(text.rpartition(" ")[2])
    return found


MODELS = {
    "logistic regression, 16 features": (16, LogisticRegression),
    "MLP 2 x 1,024, 64 features": (64, lambda: MLPClassifier((1_024, 1_024), max_iter=2)),
    "MLP 3 x 2,048, 64 features": (64, lambda: MLPClassifier((2_048, 2_048, 2_048), max_iter=1)),
}

if __name__ == "__main__":
    sys.exit(main())
