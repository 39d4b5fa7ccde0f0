"""CPU per unary gRPC call of the logger, unlogged and fully logged to real Kafka, against nginx as a plain proxy.

One model (grpcio, answers with the request), one load (grpcio, 16 calls at a time on one connection), messages of the
same size both ways. CPU time of the proxy's processes is what is compared. Cases take turns; the median of the rounds
is shown. Needs nginx with its gRPC module (Debian: nginx-light), and Kafka: --kafka, or the embedded one is started.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import secrets
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import grpc
from bench_logger import Case, children, cpu_seconds, kafka, nginx, settle, started

from deploy.kafka.ports import free_port
from deploy.kafka.topics import ensure_topics
from streams.topics import Topic

SERVICE = "inference.GRPCInferenceService"
UNLOGGED, LOGGED = f"/{SERVICE}/Other", f"/{SERVICE}/ModelInfer"
AT_ONCE = 16
SIZES = (150, 32 * 1024)


def serve(port: int, ready: Connection) -> None:
    """Be the model."""
    server = grpc.server(ThreadPoolExecutor(4))
    handlers = {
        name: grpc.unary_unary_rpc_method_handler(lambda request, _: request) for name in ("Other", "ModelInfer")
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
    server.add_insecure_port(f"127.0.0.1:{port}")
    server.start()
    ready.send(port)
    server.wait_for_termination()


@contextmanager
def model(port: int) -> Iterator[None]:
    """Run the model in a process of its own."""
    here, there = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=serve, args=(port, there), daemon=True)
    process.start()
    here.recv()
    yield
    process.terminate()
    process.join(10)


def message(size: int) -> bytes:
    """Write a ModelInferRequest of one raw FP32 tensor, about as long as asked; it answers for itself, too."""
    raw = b"\x00" * (size // 4 * 4)
    shape = _varint(len(raw) // 4)
    tensor = b"\x0a\x01x\x12\x04FP32\x1a" + _varint(len(shape)) + shape
    return b"\x0a\x01m\x2a" + _varint(len(tensor)) + tensor + b"\x3a" + _varint(len(raw)) + raw


def _varint(value: int) -> bytes:
    found = b""
    while value > 0x7F:
        found += bytes([value & 0x7F | 0x80])
        value >>= 7
    return found + bytes([value])


def measure(case: Case, body: bytes, calls: int) -> tuple[float, float, float, float]:
    """Load one proxy; give calls a second, CPU and the first process' CPU per call, and p50, times in microseconds."""
    times: list[float] = []
    options: list[tuple[str, Any]] = [("grpc.use_local_subchannel_pool", 1)]
    with grpc.insecure_channel(f"127.0.0.1:{case.port}", options=options) as channel:
        call = channel.unary_unary(case.path)
        call(body, timeout=30)

        def some(_: int) -> None:
            for _number in range(calls // AT_ONCE):
                begun = time.perf_counter()
                call(body, timeout=30)
                times.append(time.perf_counter() - begun)

        before, first, begun = cpu_seconds(case.pids), cpu_seconds(case.pids[:1]), time.perf_counter()
        with ThreadPoolExecutor(AT_ONCE) as pool:
            list(pool.map(some, range(AT_ONCE)))
        took = time.perf_counter() - begun
        cpu, first = cpu_seconds(case.pids) - before, cpu_seconds(case.pids[:1]) - first
    return len(times) / took, cpu / len(times) * 1e6, first / len(times) * 1e6, statistics.median(times) * 1e6


def grpc_server(port: int, upstream: int) -> str:
    """Configure a plain gRPC proxy with kept-alive connections."""
    return (
        f"upstream u {{ server 127.0.0.1:{upstream}; keepalive 64; keepalive_requests 1000000000; }}\n"
        f"server {{ listen 127.0.0.1:{port} http2 backlog=1024; location / {{ grpc_pass grpc://u; }} }}"
    )


def cases(stack: ExitStack, arguments: argparse.Namespace, folder: Path) -> tuple[list[Case], int]:
    """Start everything; give the cases and the logger's metrics port."""
    behind, plain, ours, page = (free_port() for _ in range(4))
    stack.enter_context(model(behind))
    workers = stack.enter_context(nginx(arguments.nginx, folder, "plain", grpc_server(plain, behind), plain))
    bootstrap = stack.enter_context(kafka(arguments.kafka, folder / "kafka"))
    topic = Topic(f"bench{secrets.token_hex(4)}.payloads", 4, {"compression.type": "lz4"})
    ensure_topics(bootstrap, (topic,))
    command = [
        sys.executable, "-m", "deploy.cli", "logger", "--log-url", f"kafka://{bootstrap}/{topic.name}", "--host",
        "127.0.0.1", "--port", str(ours), "--grpc-component-port", str(behind), "--metrics-port", str(page),
        "--inference-service", "bench", "--namespace", "default",
    ]  # fmt: skip
    # A parent that only waits, then one proxy, then the shipper: all three count.
    proxy = tuple(children(stack.enter_context(started(command, ours, folder, "logger"))))
    found = [
        Case("nginx", plain, workers, UNLOGGED),
        Case("ours, unlogged", ours, proxy, UNLOGGED),
        Case("ours, logged", ours, proxy, LOGGED),
    ]
    return found, page


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kafka", default="", help="host:port; default: an embedded Kafka")
    parser.add_argument("--nginx", default=shutil.which("nginx", path="/usr/sbin:/usr/bin:/usr/local/bin:/sbin"))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--calls", type=int, default=4_000, help="of each case in each round")
    arguments = parser.parse_args()
    if arguments.nginx is None:
        raise SystemExit("not found: nginx; install nginx-light, or name it: --nginx")
    print(f"{AT_ONCE} calls at a time, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, CPU in us per call")
    print(f"{'':<16}{'body':>7}{'calls/s':>10}{'CPU us':>8}{'proxy':>8}{'p50 us':>8}{'of nginx':>10}")
    with tempfile.TemporaryDirectory() as scratch, ExitStack() as stack:
        table, page = cases(stack, arguments, Path(scratch))
        for size in SIZES:
            rounds: dict[str, list[tuple[float, ...]]] = {case.name: [] for case in table}
            for _ in range(arguments.rounds):
                for case in table:
                    rounds[case.name].append(measure(case, message(size), arguments.calls))
                    settle(page)
            median = {
                name: [statistics.median(column) for column in zip(*found, strict=True)]
                for name, found in rounds.items()
            }
            for name, (rate, cpu, proxy, p50) in median.items():
                ratio = cpu / median["nginx"][1]
                print(f"{name:<16}{size:>7}{rate:>10,.0f}{cpu:>8.1f}{proxy:>8.1f}{p50:>8.0f}{ratio:>9.1f}x")
        counters = settle(page)
        drops = "kserve_logger_events_dropped_total"
        dropped = sum(value for name, value in counters.items() if name.startswith(drops))
        sent = sum(value for name, value in counters.items() if name.startswith("kserve_logger_events_sent_total"))
        captured = sum(value for name, value in counters.items() if name.startswith("sidelight_logger_captured_total"))
        print(f"events captured {captured:.0f}, delivered {sent:.0f}, dropped {dropped:.0f}")


if __name__ == "__main__":
    main()
