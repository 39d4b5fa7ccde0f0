"""Seeded payload traffic for the end-to-end tests: one service, a planted drift, outliers and a bias that appears.

The events are written to Kafka in one order by one producer, so that every run of a test reads the same log.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import orjson
import pandas as pd

from streams.bindings import to_kafka
from streams.events import NAMESPACE, REQUEST_TYPE, RESPONSE_TYPE, SERVICE, Event, format_time
from streams.stage import Output

ROWS_PER_CALL = 4
START_US = 1_760_000_000_000_000

MONITOR = """\
apiVersion: sidelight.dev/v1alpha1
kind: InferenceMonitor
metadata: {name: credit, namespace: default}
spec:
  inferenceService: credit
  reference: {path: reference.parquet}
  features:
    - {name: age, type: numeric}
    - {name: income, type: numeric}
    - {name: sex, type: categorical}
  outputs:
    - {name: score, type: numeric, source: predictions}
  budget: {falseAlarms: 1, per: 1000000 observations}
  detectors:
    - {name: drift, type: ks, params: {window: 500}}
    - {name: mix, type: chi-square, params: {window: 500}}
    - {name: outliers, type: mahalanobis}
    - {name: sex-bias, type: statistical-parity,
       params: {attribute: sex, privileged: [1], favourable: {output: score, atLeast: 0.5}, window: 1000}}
"""


def people(generator: np.random.Generator, count: int, *, shifted: bool) -> pd.DataFrame:
    """Draw people; after the shift they are older, fewer women, and women are scored lower."""
    sex = np.where(generator.random(count) < (0.35 if shifted else 0.5), 2.0, 1.0)
    age = generator.normal(48.0 if shifted else 40.0, 10.0, count)
    income = generator.normal(30.0, 5.0, count)
    income[generator.random(count) < (0.01 if shifted else 0.0)] += 200.0
    bias = np.where(sex == 2.0, 1.5, 0.0) if shifted else 0.0
    score = 1 / (1 + np.exp(-(income - 30.0) / 5.0 + bias))
    return pd.DataFrame({"age": age, "income": income, "sex": sex, "score": score})


def write_monitor(folder: Path) -> Path:
    """Write the monitor and its reference; give the monitor's path."""
    people(np.random.default_rng(1), 5_000, shifted=False).to_parquet(folder / "reference.parquet")
    path = folder / "monitor.yaml"
    path.write_text(MONITOR)
    return path


def payloads(topic: str, calls: int, seed: int = 7) -> Iterator[Output]:
    """Give request and response events of so many calls; the second half of them is shifted."""
    generator = np.random.default_rng(seed)
    for index in range(calls):
        rows = people(generator, ROWS_PER_CALL, shifted=index >= calls // 2)
        at = START_US + index * 20_000
        body = orjson.dumps({"instances": rows[["age", "income", "sex"]].to_numpy().tolist()})
        answer = orjson.dumps({"predictions": rows["score"].tolist()})
        yield _output(topic, index, REQUEST_TYPE, at, body)
        yield _output(topic, index, RESPONSE_TYPE, at + 3_000, answer)


def closing(topic: str, calls: int, partitions: int) -> Iterator[Output]:
    """Give an event to each partition that is far later than all calls: what waits for the time to move on, moves."""
    for partition in range(partitions):
        at = START_US + calls * 20_000 + 60_000_000
        yield _output(topic, calls + partition, REQUEST_TYPE, at, b"{}")._replace(partition=partition)


def _output(topic: str, index: int, kind: str, at_us: int, body: bytes) -> Output:
    correlation = f"call-{index:06d}"
    extensions: dict[str, str | int | bool] = {
        NAMESPACE: "default", SERVICE: "credit", "component": "predictor", "correlationid": correlation,
        "protocol": "v1", "path": "/v1/models/credit:predict", "modelname": "credit",
    }  # fmt: skip
    if kind == RESPONSE_TYPE:
        extensions |= {"statuscode": 200, "latencyus": 3_000}
    event = Event(
        id=f"{correlation}-{kind.rpartition('.')[2]}", source="http://localhost:9081/", type=kind,
        time=format_time(at_us), datacontenttype="application/json", extensions=extensions, data=body,
    )  # fmt: skip
    headers, value = to_kafka(event)
    return Output(topic, correlation.encode(), value, headers)
