"""Requests of every kind that the stream reads, as records; and answers as they were told."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson

from inference import arrow
from inference.protocol import v2
from inference.protocol.tensors import Tensor
from inference.protocol.v2 import InferRequest
from streams.bindings import from_kafka, to_kafka, to_kafka_structured
from streams.events import REQUEST_TYPE, Event, Value, format_time
from streams.stage import Headers, Output

KINDS = ("v1", "v1-rows", "v2", "v2-binary", "arrow", "bare-v1", "bare-v2-binary", "structured")
START_US = 1_760_000_000_000_000
Rows = list[list[float]]


@dataclass(frozen=True, slots=True)
class Told:
    """An answer."""

    key: bytes | None
    event: Event
    sums: list[float]
    """What the model said; empty for an error."""
    error: str = ""

    @property
    def status(self) -> int:
        return self.event.number("statuscode") or 0


def request(topic: str, kind: str, rows: Rows, correlation: str, key: bytes | None, **extensions: str) -> Output:
    """Write a request of one kind."""
    body, content_type, length = _body(kind, rows)
    if kind.startswith("bare"):
        headers: Headers = (
            ("x-request-id", correlation.encode()),
            ("content-type", content_type.encode()),
            *((name, value.encode()) for name, value in extensions.items()),
        )
        if length is not None:
            headers = (*headers, ("inference-header-content-length", b"%d" % length))
        return Output(topic, key, body, headers)
    told: dict[str, Value] = {"correlationid": correlation, **extensions}
    if length is not None:
        told["inferenceheaderlength"] = length
    event = Event(
        id=f"{correlation}-q", source="/test", type=REQUEST_TYPE, time=format_time(START_US),
        datacontenttype=content_type, extensions=told, data=body,
    )  # fmt: skip
    headers, value = to_kafka_structured(event) if kind == "structured" else to_kafka(event)
    return Output(topic, key, value, headers)


def _body(kind: str, rows: Rows) -> tuple[bytes, str, int | None]:
    table = np.array(rows, np.float64)
    if kind in {"v1", "structured", "bare-v1"}:
        return orjson.dumps({"instances": rows}), "application/json", None
    if kind == "v1-rows":
        named = [{f"c{place}": value for place, value in enumerate(row)} for row in rows]
        return orjson.dumps({"instances": named}), "application/json", None
    if kind == "arrow":
        return arrow.encode([Tensor.of("x", table)]), arrow.STREAM, None
    asked = InferRequest(inputs=(Tensor.of("x", table),), id="7")
    body, length = v2.encode_request(asked, binary=kind.endswith("binary"))
    return body, "application/json" if length is None else "application/octet-stream", length


def told(output: Output) -> Told:
    """Read an answer, by its content type as a client would."""
    event = from_kafka(output.headers, output.value)
    data = event.data or b""
    if event.number("statuscode") != 200:
        return Told(output.key, event, [], json.loads(data)["error"])
    if event.datacontenttype == arrow.STREAM:
        (tensor,) = arrow.decode(data)
        return Told(output.key, event, tensor.data.tolist())
    if b'"predictions"' in data:
        predictions: list[Any] = json.loads(data)["predictions"]
        return Told(output.key, event, predictions)
    response = v2.decode_response(data, event.number("inferenceheaderlength"))
    return Told(output.key, event, response.outputs[0].data.tolist())
