"""Events per second and CPU per event of each host on the same stage, on real Kafka; memory is the floor.

python benchmarks/bench_hosts.py [EVENTS]
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from deploy import environment
from deploy.commands import kafka as kafka_command
from deploy.kafka import broker
from deploy.kafka.topics import ensure_topics
from deploy.lag import Lag
from streams.hosts.memory import MemoryHost
from streams.hosts.runner import RunnerSettings
from streams.publishers.confluent import ConfluentPublisher, PublisherSettings
from streams.publishers.memory import MemoryLog, MemoryPublisher
from streams.publishing import publish_all
from streams.state import MemoryStateStore
from streams.topics import Topics

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from streams.assembler import Assembler
from streams.settings import AssemblerSettings
from tests.e2e.traffic import payloads

PARTITIONS = 2


def main() -> int:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("events", nargs="?", type=int, default=40_000, help="how many (default: %(default)s)")
    events = parser.parse_args().events
    rows = [("memory", *memory(events))]
    with tempfile.TemporaryDirectory() as folder:
        kafka = kafka_command.start(Path(folder), 0, "").bootstrap
        try:
            rows += [(host, *on_kafka(host, kafka, events)) for host in ("native", "faust")]
        finally:
            broker.stop(Path(folder))
    base = next(cpu for name, _, cpu in rows if name == "native")
    print(
        f"assembler stage, {events} payload events\n{'host':<10}{'events/s':>12}{'CPU us/event':>15}{'vs native':>12}"
    )
    for name, rate, cpu in rows:
        print(f"{name:<10}{rate:>12,.0f}{cpu:>15.1f}{cpu / base:>11.2f}x")
    return 0


def memory(events: int) -> tuple[float, float]:
    """Run the stage in this process, without a broker."""
    from inference.observations import ArrowCodec  # noqa: PLC0415 - only here

    topics = Topics("bench")
    log = MemoryLog({topics.payloads: PARTITIONS, topics.observations: PARTITIONS, topics.deadletter: PARTITIONS})
    for output in payloads(topics.payloads, events // 2):
        log.append(output)
    settings = AssemblerSettings(
        payloads=topics.payloads, observations=topics.observations, deadletter=topics.deadletter,
        payload_partitions=PARTITIONS, observation_partitions=PARTITIONS,
    )  # fmt: skip
    host = MemoryHost(
        log, topics.payloads, lambda p: Assembler(p, settings, ArrowCodec()), MemoryPublisher(log), MemoryStateStore(),
        RunnerSettings(stage="assembler", deadletter=topics.deadletter), batch=2_000,
    )  # fmt: skip
    wall, cpu = time.perf_counter(), time.process_time()
    host.run()
    return events / (time.perf_counter() - wall), (time.process_time() - cpu) / events * 1e6


def on_kafka(host: str, kafka: str, events: int) -> tuple[float, float]:
    """Run the stage as a worker over a full topic; its start-up is measured without events and taken off."""
    start_cpu, start_wall = _worker(host, kafka, 0, f"empty{host}")
    cpu, wall = _worker(host, kafka, events, f"full{host}")
    return events / max(wall - start_wall, 1e-9), (cpu - start_cpu) / events * 1e6


def _worker(host: str, kafka: str, events: int, prefix: str) -> tuple[float, float]:
    topics = Topics(prefix)
    ensure_topics(kafka, topics.declared(PARTITIONS))
    publisher = ConfluentPublisher(PublisherSettings(bootstrap=kafka))
    # One pair more than measured, so that an empty run, too, has something to wait for.
    publish_all(publisher, tuple(payloads(topics.payloads, events // 2 + 1)), 60.0)
    before, wall = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    command = (sys.executable, "-m", "deploy.cli", "assembler", "--kafka", kafka, "--prefix", prefix, "--host", host)
    worker = subprocess.Popen(command, env=environment.inherited(), stderr=subprocess.DEVNULL)
    lag = Lag(kafka, f"{prefix}.assembler")
    while lag.records(topics.payloads) != 0:
        time.sleep(0.02)
    wall = time.perf_counter() - wall
    lag.close()
    worker.terminate()
    worker.wait(60)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, wall


if __name__ == "__main__":
    sys.exit(main())
