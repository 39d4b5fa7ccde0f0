"""PyTorch models through V2 gRPC and through Kafka, against the bare forward rate on the same device.

A residual network of ResNet-50's size on images of bytes, and an encoder of BERT-base's size on 128 tokens, both with
random weights. The bare rate is the module's own, called with whole batches that lie on the device already. Clients and
broker share the machine's cores with the predictor.

    make bench-gpu
    python benchmarks/bench_gpu.py --dtype BF16 --batch 64 --cuda-graphs
    python benchmarks/bench_gpu.py --device cpu --small     # that it works, without a GPU
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc.aio
import networks
import numpy as np
import rig
import torch
from confluent_kafka import Consumer, TopicPartition
from safetensors.torch import save_file

from deploy.kafka.topics import ensure_topics
from inference.protocol import grpc_codec, v2
from inference.protocol.tensors import Tensor
from inference.protocol.v2 import InferRequest
from inference.pytorch.devices import Place, find
from inference.pytorch.graphs import Graphs
from streams.publishers.confluent import ConfluentPublisher, PublisherSettings
from streams.publishing import publish_all
from streams.stage import Output
from streams.topics import Topics, request_topics

SCRIPT = Path(__file__).resolve()
METHOD = "/inference.GRPCInferenceService/ModelInfer"
START_S = 600.0
RECORD = 900_000
"""Bytes of a request's body in Kafka: below the 1 MiB that brokers take without being asked."""
MOST = 4 << 30
"""Bytes of all requests in Kafka, which lie on the disk."""
BEGIN, END = 0.15, 0.85


@dataclass(frozen=True, slots=True)
class Network:
    """One of the two, in one of two sizes."""

    name: str
    kind: str
    arguments: Mapping[str, Any]
    datatype: str
    shape: tuple[int, ...]
    """Of one row."""
    highest: int

    def rows(self, count: int) -> np.ndarray[Any, np.dtype[Any]]:
        """Draw rows."""
        dtype = np.uint8 if self.datatype == "UINT8" else np.int64
        return np.random.default_rng(count).integers(0, self.highest, (count, *self.shape), dtype)

    @property
    def input(self) -> str:
        """Give the name of the input."""
        return "image" if self.datatype == "UINT8" else "tokens"


FULL = (
    Network("residual, 25.6 M weights, 3 x 224 x 224 bytes", "Residual", {}, "UINT8", (3, 224, 224), 256),
    Network("encoder, 110 M weights, 128 tokens", "Encoder", {}, "INT64", (128,), 30_522),
)
SMALL = (
    Network("small residual", "Residual", {"depths": [1, 1], "width": 16, "classes": 10}, "UINT8", (3, 64, 64), 256),
    Network(
        "small encoder", "Encoder", {"layers": 2, "width": 128, "heads": 4, "words": 1000, "length": 32},
        "INT64", (32,), 1000,
    ),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Found:
    """One line of the table."""

    network: str
    bare: float
    grpc: float
    p99_ms: float
    kafka: float | None


def main() -> int:
    """Measure, print, and write what was asked for."""
    arguments = parsed()
    if arguments.client:
        address, file = arguments.client
        asyncio.run(load(address, Path(file).read_bytes(), arguments.connections, arguments.seconds))
        return 0
    if arguments.device != "cpu" and not torch.cuda.is_available():
        print("no CUDA device that PyTorch can use; to see that the benchmark works: --device cpu --small")
        return 0
    if arguments.device == "cpu":
        torch.set_num_threads(1)  # as the predictor does
    # Ended from outside, it ends what it started, too.
    signal.signal(signal.SIGTERM, lambda number, _frame: sys.exit(128 + number))
    lines = list(heading(arguments))
    print("\n".join(lines), flush=True)
    with tempfile.TemporaryDirectory() as name, broker(arguments, Path(name)) as kafka:
        for network in SMALL if arguments.small else FULL:
            folder = Path(name) / network.kind
            model = saved(network, folder, arguments)
            lines.append(row(measured(network, model, folder, kafka, arguments)))
            print(lines[-1], flush=True)
    if arguments.write:
        arguments.write.write_text(page(lines) + kept(arguments.write))
    return 0


def kept(file: Path) -> str:
    """Give what a page says below the figures, from its first section on."""
    text = file.read_text() if file.exists() else ""
    _, section, rest = text.partition("\n## ")
    return section + rest


def parsed() -> argparse.Namespace:
    """Read the arguments."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda:0", help="cuda:N or cpu (default: %(default)s)")
    parser.add_argument("--small", action="store_true", help="small networks and short runs: a test of the benchmark")
    parser.add_argument("--dtype", default="", help="FP16 or BF16 (default: BF16 on a GPU, FP32 on the CPU)")
    parser.add_argument("--batch", type=int, default=64, help="most rows of a prediction (default: %(default)s)")
    parser.add_argument("--rows", type=int, default=16, help="of a request (default: %(default)s)")
    parser.add_argument("--cuda-graphs", action="store_true", help="record the predictions of full batches")
    parser.add_argument("--compile", default="", metavar="MODE", help="a mode of torch.compile")
    parser.add_argument("--clients", type=int, default=4, help="client processes (default: %(default)s)")
    parser.add_argument("--connections", type=int, default=8, help="requests in flight, each (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=4, help="of the predictor (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=20.0, help="of each measurement (default: %(default)s)")
    parser.add_argument("--kafka", default="", metavar="HOST:PORT", help="a broker (default: an embedded one)")
    parser.add_argument("--no-kafka", action="store_true", help="leave the Kafka path out")
    parser.add_argument("--write", type=Path, metavar="FILE", help="write the table, too: docs/gpu.md")
    parser.add_argument("--client", nargs=2, metavar=("ADDRESS", "FILE"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    arguments.dtype = arguments.dtype or ("FP32" if arguments.device == "cpu" else "BF16")
    if arguments.small:
        arguments.seconds = min(arguments.seconds, 3.0)
        arguments.batch, arguments.rows, arguments.clients = min(arguments.batch, 16), min(arguments.rows, 4), 1
    if arguments.device == "cpu":
        # The bare rate is one thread's, too.
        arguments.threads = 1
    return arguments


def heading(arguments: argparse.Namespace) -> Iterator[str]:
    """Say what is measured, where, and begin the table."""
    device = find(arguments.device)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU, one thread per prediction"
    yield (
        f"{name}; torch {torch.__version__}; {arguments.dtype}; batches of up to {arguments.batch} rows, requests of "
        f"{arguments.rows}; {arguments.clients} client processes x {arguments.connections} in flight"
        f"{'; CUDA graphs' if arguments.cuda_graphs else ''}{'; compiled' if arguments.compile else ''}"
    )
    yield ""
    yield "| model | bare forward, rows/s | V2 gRPC, rows/s | of bare | p99, ms | Kafka, rows/s | of bare |"
    yield "| --- | ---: | ---: | ---: | ---: | ---: | ---: |"


def row(found: Found) -> str:
    """Write one line of the table."""
    kafka = "| - | - |" if found.kafka is None else f"| {found.kafka:,.0f} | {found.kafka / found.bare:.0%} |"
    return (
        f"| {found.network} | {found.bare:,.0f} | {found.grpc:,.0f} | {found.grpc / found.bare:.0%} | "
        f"{found.p99_ms:.1f} {kafka}"
    )


def page(lines: list[str]) -> str:
    """Write the page of the documentation."""
    command = " ".join(["python benchmarks/bench_gpu.py", *sys.argv[1:]])
    return (
        "# PyTorch models on a GPU\n\n"
        "Rows per second through `sidelight predictor` (V2 gRPC, raw tensors) and `sidelight stream` (Kafka, V2\n"
        "binary bodies), against the module's own forward rate with whole batches that lie on the device already.\n"
        f"Networks and clients: `benchmarks/networks.py`, `benchmarks/bench_gpu.py`. Measured by\n\n    {command}\n\n"
        + "\n".join(lines)
        + "\n"
    )


def saved(network: Network, folder: Path, arguments: argparse.Namespace) -> torch.nn.Module:
    """Write a model's folder with random weights; give the module."""
    torch.manual_seed(0)
    module: torch.nn.Module = getattr(networks, network.kind)(**network.arguments).eval()
    folder.mkdir()
    shutil.copy(SCRIPT.parent / "networks.py", folder)
    save_file(module.state_dict(), folder / "model.safetensors")
    declared = {"name": network.input, "datatype": network.datatype, "shape": [-1, *network.shape]}
    options = {
        "model": f"networks:{network.kind}", "arguments": dict(network.arguments), "inputs": [declared],
        "device": arguments.device, "dtype": arguments.dtype, "compile": arguments.compile,
        "cuda_graphs": arguments.cuda_graphs,
    }  # fmt: skip
    settings: dict[str, Any] = {"options": options, "max_batch": arguments.batch}
    if arguments.cuda_graphs:
        settings["pad_to"] = [size for size in (1, 2, 4, 8, 16, 32) if size < arguments.batch] + [arguments.batch]
    (folder / "sidelight.json").write_text(json.dumps(settings))
    return module


def measured(
    network: Network, module: torch.nn.Module, folder: Path, kafka: str, arguments: argparse.Namespace
) -> Found:
    """Measure one model in all ways, one after the other."""
    alone = bare(network, module, arguments)
    del module
    if arguments.device != "cpu":
        torch.cuda.empty_cache()
    with serving("predictor", folder, arguments, r"gRPC on (\S+)", "--host", "127.0.0.1", "--http_port", "0") as found:
        rate, p99 = through_grpc(network, found, folder, arguments)
    through = through_kafka(network, folder, kafka, rate, arguments) if kafka else None
    return Found(network.name, alone, rate, p99, through)


def bare(network: Network, module: torch.nn.Module, arguments: argparse.Namespace) -> float:
    """Give the rows per second of the module itself; the faster of plain calls and a recorded graph."""
    place = Place(find(arguments.device))
    module.to(place.device, {"FP16": torch.float16, "BF16": torch.bfloat16}.get(arguments.dtype, torch.float32))
    called: Any = torch.compile(module, mode=arguments.compile) if arguments.compile else module

    def call(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {"y": called(**tensors)}

    with place.turn():
        tensors = {network.input: place.put(network.rows(arguments.batch), None)}
        ways: list[Any] = [call]
        if arguments.cuda_graphs:
            graphs = Graphs(place.device)
            with place.prepared():
                graphs.record(arguments.batch, call, tensors)
            ways.append(graphs.replay)
        return max(rate(way, tensors, arguments) for way in ways)


def rate(way: Any, tensors: Mapping[str, torch.Tensor], arguments: argparse.Namespace) -> float:  # noqa: ANN401
    """Call again and again; the device may run behind, but not at the end."""
    for _ in range(3):
        way(tensors)
    finish(arguments)
    began, calls = time.perf_counter(), 0
    while time.perf_counter() - began < arguments.seconds / 2:
        for _ in range(4):
            way(tensors)
        calls += 4
        finish(arguments)
    return calls * arguments.batch / (time.perf_counter() - began)


def finish(arguments: argparse.Namespace) -> None:
    """Wait for the device."""
    if arguments.device != "cpu":
        torch.cuda.synchronize()


@contextmanager
def serving(command: str, folder: Path, arguments: argparse.Namespace, ready: str, *words: str) -> Iterator[str]:
    """Run one of the product's commands until the block ends; give what its ready line says."""
    log = folder / f"{command}.log"
    whole = [
        sys.executable, "-m", "deploy.cli", command, "--model_name", "m", "--model_dir", str(folder), "--trusted",
        "--runtime", "torch", "--max_threads", str(arguments.threads), *words,
    ]  # fmt: skip
    with log.open("wb") as output:
        process = subprocess.Popen(whole, cwd=rig.ROOT, stdout=output, stderr=output)
    try:
        deadline = time.monotonic() + START_S
        while (found := re.search(ready, log.read_text())) is None:
            if process.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(f"{command} did not start:\n{log.read_text()}")
            time.sleep(0.1)
        yield found.group(1)
    finally:
        process.terminate()
        process.wait(60)


def through_grpc(network: Network, address: str, folder: Path, arguments: argparse.Namespace) -> tuple[float, float]:
    """Load the predictor from other processes; give rows per second and the 99th percentile in milliseconds."""
    tensor = Tensor.of(network.input, network.rows(arguments.rows))
    body = folder / "request"
    body.write_bytes(grpc_codec.encode_request("m", InferRequest(inputs=(tensor,)), raw=True))
    command = [
        sys.executable, str(SCRIPT), "--client", address, str(body), "--connections", str(arguments.connections),
        "--seconds", str(arguments.seconds), "--device", "cpu",
    ]  # fmt: skip
    running = [subprocess.Popen(command, cwd=rig.ROOT, stdout=subprocess.PIPE) for _ in range(arguments.clients)]
    told = [json.loads(process.communicate()[0]) for process in running]
    if any(process.returncode for process in running):
        raise SystemExit("a client failed")
    return sum(each["calls"] for each in told) * arguments.rows / arguments.seconds, max(each["p99"] for each in told)


async def load(address: str, body: bytes, connections: int, seconds: float) -> None:
    """Be one client: keep requests in flight, count those that are answered between the first second and the last."""
    limits = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]
    latencies: list[float] = []
    begin = time.perf_counter() + 1.0

    async with grpc.aio.insecure_channel(address, limits) as channel:
        call = channel.unary_unary(METHOD)

        async def one() -> None:
            while (start := time.perf_counter()) < begin + seconds:
                await call(body)
                if begin <= (now := time.perf_counter()) < begin + seconds:
                    latencies.append(now - start)

        await asyncio.gather(*(one() for _ in range(connections)))
    print(json.dumps({"calls": len(latencies), "p99": float(np.quantile(latencies, 0.99)) * 1000}))


@contextmanager
def broker(arguments: argparse.Namespace, folder: Path) -> Iterator[str]:
    """Give a broker's address; empty when the Kafka path is left out."""
    if arguments.no_kafka:
        yield ""
        return
    with rig.kafka(arguments.kafka, folder / "kafka") as address:
        yield address


def through_kafka(network: Network, folder: Path, kafka: str, expected: float, arguments: argparse.Namespace) -> float:
    """Have requests that lie in a topic answered; give rows per second in the middle of it."""
    topics = Topics(f"g{time.monotonic_ns()}")
    ensure_topics(kafka, request_topics((topics.requests, topics.responses, topics.deadletter), 2))
    one = network.rows(1).nbytes
    rows = max(1, min(arguments.rows, RECORD // one))
    # Answers are counted in steps of what is saved together, so there must be many of those.
    step = max(8, 4 * arguments.batch // rows)
    requests = min(max(10 * step, int(expected * arguments.seconds / rows)), MOST // (one * rows))
    fill(topics, network, rows, requests, kafka)
    consumer = Consumer({"bootstrap.servers": kafka, "group.id": "bench", "log_level": 2})
    places = [TopicPartition(topics.responses, place) for place in range(2)]

    def answered() -> int:
        return sum(consumer.get_watermark_offsets(place, timeout=10)[1] for place in places)

    words = ["--kafka", kafka, "--prefix", topics.prefix, "--max_batch_rows", str(arguments.batch)]
    words += ["--batch_records", str(step)]
    with serving("stream", folder, arguments, r"(ready)", *words):
        marks = []
        for wanted in (int(requests * BEGIN), int(requests * END)):
            deadline = time.monotonic() + START_S
            while (now := answered()) < wanted:
                if time.monotonic() > deadline:
                    raise SystemExit(f"{now} of {requests} answers:\n{(folder / 'stream.log').read_text()}")
                time.sleep(0.02)
            marks.append((time.perf_counter(), now))
    check(consumer, topics)
    consumer.close()
    (began, first), (ended, last) = marks
    return (last - first) * rows / (ended - began)


def check(consumer: Consumer, topics: Topics) -> None:
    """Look whether what was counted were predictions."""
    consumer.assign([TopicPartition(topics.responses, place, 0) for place in range(2)])
    for answer in consumer.consume(100, timeout=30):
        headers = dict(answer.headers() or ())
        if headers.get("ce_statuscode") != b"200":
            raise SystemExit(f"an answer that is no prediction: {headers}: {answer.value()!r}")


def fill(topics: Topics, network: Network, rows: int, requests: int, kafka: str) -> None:
    """Write the requests, each with an id of its own."""
    tensor = Tensor.of(network.input, network.rows(rows))
    content, length = v2.encode_request(InferRequest(inputs=(tensor,)), binary=True)
    headers = (
        ("content-type", b"application/octet-stream"), ("inference-header-content-length", b"%d" % (length or 0)),
    )  # fmt: skip
    publisher = ConfluentPublisher(PublisherSettings(bootstrap=kafka, linger_ms=5))
    for start in range(0, requests, 200):
        ids = [b"%036d" % number for number in range(start, min(start + 200, requests))]
        publish_all(
            publisher,
            [Output(topics.requests, each, content, (("x-request-id", each), *headers)) for each in ids],
            120.0,
        )
    publisher.close()


if __name__ == "__main__":
    sys.exit(main())
