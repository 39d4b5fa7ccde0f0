"""Events per second and CPU per event of the assembler, against reading the JSON of the same bodies and nothing else.

The stage alone, then under the memory host with its checkpoints. The baseline, `json.loads` of each event's JSON, is
measured in the same run. One thread; takes about twenty seconds.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from inference.observations import ArrowCodec
from inference.protocol import v2
from inference.protocol.tensors import Tensor
from streams.assembler import Assembler
from streams.bindings import from_kafka, to_kafka
from streams.events import NAMESPACE, REQUEST_TYPE, RESPONSE_TYPE, SERVICE, Event, Value, format_time
from streams.hosts.memory import MemoryHost
from streams.hosts.runner import RunnerSettings
from streams.publishers.memory import MemoryLog, MemoryPublisher
from streams.settings import AssemblerSettings
from streams.stage import Batch, Output, Record, Stage
from streams.state import MemoryStateStore

CALLS = 4_000
BATCH = 2_000
ROUNDS = 3
COLUMNS = 16
START_US = 1_760_000_000_000_000
SETTINGS = AssemblerSettings(
    payloads="p", observations="o", deadletter="d", payload_partitions=1, observation_partitions=1
)


@dataclass(frozen=True, slots=True)
class Traffic:
    """One kind of call: bodies, the JSON in them, and what the events say beside."""

    name: str
    request: bytes
    response: bytes
    json: tuple[bytes, bytes]
    extensions: tuple[dict[str, Value], dict[str, Value]]


def kinds() -> list[Traffic]:
    """Give the same rows in every protocol."""
    found = []
    for rows in (1, 32):
        table = np.random.default_rng(0).normal(size=(rows, COLUMNS)).round(6)
        request = json.dumps({"instances": table.tolist()}).encode()
        response = json.dumps({"predictions": table[:, 0].tolist()}).encode()
        found.append(Traffic(f"V1 JSON, {rows} rows", request, response, (request, response), _about("v1")))
        found += [_v2(table, binary=binary) for binary in (False, True)]
    return found


def _v2(table: np.ndarray[tuple[int, int], np.dtype[np.float64]], *, binary: bool) -> Traffic:
    request, length = v2.encode_request(v2.InferRequest(inputs=(Tensor.of("input-0", table),)), binary=binary)
    outputs = (Tensor.of("output-0", table[:, 0]),)
    response, answered = v2.encode_response(v2.InferResponse(model_name="m", outputs=outputs), lambda _name: binary)
    about = _about("v2")
    if length is not None and answered is not None:
        about[0]["inferenceheaderlength"], about[1]["inferenceheaderlength"] = length, answered
    name = f"V2 {'binary' if binary else 'JSON'}, {len(table)} rows"
    return Traffic(name, request, response, (request[:length], response[:answered]), about)


def _about(protocol: str) -> tuple[dict[str, Value], dict[str, Value]]:
    shared: dict[str, Value] = {
        SERVICE: "bench", NAMESPACE: "default", "component": "predictor", "endpoint": "", "metadata": "{}",
        "method": "POST", "path": "/v1/models/m:predict", "protocol": protocol, "modelname": "m",
        "recordedtime": format_time(START_US),
    }  # fmt: skip
    return dict(shared), shared | {"statuscode": 200, "latencyus": 3_000, "firstbyteus": 2_900}


def log_of(kind: Traffic) -> MemoryLog:
    """Lay the events of all calls into a topic."""
    log = MemoryLog({"p": 1, "o": 1, "d": 1})
    for number in range(CALLS):
        for side, (suffix, body) in enumerate((("q", kind.request), ("r", kind.response))):
            event = Event(
                id=f"{number:036d}-{suffix}",
                source="http://localhost:9081/",
                type=RESPONSE_TYPE if side else REQUEST_TYPE,
                time=format_time(START_US + number * 1_000 + side * 3_000),
                datacontenttype="application/json",
                extensions=kind.extensions[side] | {"correlationid": f"{number:036d}"},
                data=body,
            )
            headers, value = to_kafka(event)
            log.append(Output("p", str(number).encode(), value, headers), START_US // 1000 + number)
    return log


def stage(partition: int) -> Stage:
    """Build the assembler."""
    return Assembler(partition, SETTINGS, ArrowCodec())


def alone(records: Sequence[Record]) -> None:
    """Feed the stage batch by batch."""
    assembler = stage(0)
    for start in range(0, len(records), BATCH):
        assembler.process(Batch(0, tuple(records[start : start + BATCH])))
    counters = assembler.counters()
    if counters["paired"] != len(records) or counters["observed"] != CALLS:
        raise SystemExit(f"the stage lost something: {counters}")


def read_json(texts: Sequence[bytes]) -> None:
    """Do what nobody can do without: read the JSON of every event."""
    for text in texts:
        for _ in range(CALLS):
            json.loads(text)


def read_envelopes(records: Sequence[Record]) -> None:
    """Read the CloudEvents and nothing in them."""
    for record in records:
        from_kafka(record.headers, record.value)


def hosted(kind: Traffic) -> Callable[[], None]:
    """Give a run under the memory host, checkpoints included."""
    log = log_of(kind)

    def run() -> None:
        settings = RunnerSettings(stage="assembler", deadletter="d")
        MemoryHost(log, "p", stage, MemoryPublisher(log), MemoryStateStore(), settings, batch=BATCH).run()

    return run


def cpu_us(run: Callable[[], object]) -> float:
    """Give the CPU microseconds per event of the best of a few runs."""
    best = float("inf")
    for _ in range(ROUNDS):
        began = time.process_time()
        run()
        best = min(best, time.process_time() - began)
    return best / (2 * CALLS) * 1e6


def main() -> None:
    """Measure and print."""
    print(f"{2 * CALLS} events each, {COLUMNS} columns, batches of {BATCH} events; CPU microseconds per event")
    print(
        f"{'traffic':<20}{'bytes':>8}{'json.loads':>12}{'envelope':>10}{'stage':>8}{'hosted':>8}"
        f"{'events/s':>10}{'stage/json.loads':>18}"
    )
    for kind in kinds():
        records = log_of(kind).read("p", 0)
        baseline = cpu_us(partial(read_json, kind.json))
        envelope = cpu_us(partial(read_envelopes, records))
        whole = cpu_us(partial(alone, records))
        host = cpu_us(hosted(kind))
        size = (len(kind.request) + len(kind.response)) // 2
        print(
            f"{kind.name:<20}{size:>8}{baseline:>12.1f}{envelope:>10.1f}{whole:>8.1f}{host:>8.1f}"
            f"{1e6 / host:>10.0f}{whole / baseline:>18.1f}"
        )
    print("envelope: reading the CloudEvent alone. hosted: memory host with one checkpoint per batch; gives events/s.")


if __name__ == "__main__":
    main()
