"""Exchanges ↔ columns: decodes the bodies of paired events and writes their rows as Arrow, for every protocol.

Pure. The assembler (`streams/assembler.py`) is handed the `ArrowCodec`; detectors and explainers read with
`decode_rows`. The columns are documented in `docs/observations.md`.
"""

from __future__ import annotations

import gzip
import io
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pyarrow as pa

from inference.protocol import v1, v2
from inference.protocol.errors import MalformedBody, ProtocolError
from inference.protocol.tensors import Tensor
from streams.events import (
    CONTENT_ENCODING,
    INFERENCE_HEADER_LENGTH,
    LATENCY_US,
    MODEL_NAME,
    MODEL_VERSION,
    PATH,
    PROTOCOL,
    SAMPLED_RATE,
    Event,
    parse_time,
)  # fmt: skip
from streams.pairing import Exchange, Undecodable

Columns = dict[str, pa.Array]

META: Final = pa.schema([
    ("_id", pa.string()), ("_row", pa.int32()), ("_time", pa.int64()), ("_order", pa.int64()),
    ("_partition", pa.int32()), ("_offset", pa.int64()), ("_request", pa.string()), ("_response", pa.string()),
    ("_status", pa.int16()), ("_latency_us", pa.int64()), ("_model", pa.string()), ("_version", pa.string()),
    ("_sampled_rate", pa.float64()),
])  # fmt: skip
MAX_BODY: Final = 64 << 20
_GZIP: Final = b"\x1f\x8b"
_JSON_SCAN: Final = 1 << 20
_QUOTE, _BACKSLASH, _OPEN, _CLOSE = b'"\\{}'


@dataclass(frozen=True, slots=True)
class Decoded:
    """One exchange's rows, each feature an array of `rows` values."""

    exchange: Exchange
    rows: int
    columns: Columns

    @property
    def schema(self) -> tuple[tuple[str, pa.DataType], ...]:
        """What must be equal for two exchanges to share a table."""
        return tuple((name, column.type) for name, column in self.columns.items())


class ArrowCodec:
    """The codec that the assembler is given: decode one exchange, write the rows of many."""

    def decode(self, exchange: Exchange) -> Decoded:
        """Decode both bodies of an exchange into columns.

        Raises:
            Undecodable: a body that does not follow its protocol, or rows in and out that do not match.
        """
        try:
            return _decode(exchange)
        except ProtocolError as exc:
            raise Undecodable("undecodable", str(exc)) from exc

    def encode(self, decoded: Sequence[Decoded]) -> bytes:
        """Write rows of one schema as one Arrow IPC stream."""
        return encode_rows(decoded)


def encode_rows(decoded: Sequence[Decoded]) -> bytes:
    """Write the rows of exchanges that share a schema, in order, as an Arrow IPC stream."""
    meta = _meta(decoded)
    names = list(decoded[0].columns)
    features = [pa.concat_arrays([item.columns[name] for item in decoded]) for name in names]
    schema = pa.schema([*META, *((name, array.type) for name, array in zip(names, features, strict=True))])
    batch = pa.RecordBatch.from_arrays([*meta, *features], schema=schema)
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, schema) as writer:
        writer.write_batch(batch)
    return sink.getvalue()


def decode_rows(value: bytes) -> pa.Table:
    """Read what `encode_rows` wrote.

    Raises:
        ProtocolError: no Arrow IPC stream, or one without the columns that every observation has.
    """
    try:
        with pa.ipc.open_stream(value) as reader:
            table = reader.read_all()
    except (pa.ArrowException, OSError) as exc:
        raise MalformedBody("observations", f"no Arrow IPC stream: {exc}") from exc
    missing = [name for name in META.names if name not in table.column_names]
    if missing:
        raise MalformedBody("observations", f"columns are missing: {', '.join(missing)}")
    return table


def decode_inputs(request: Event) -> tuple[Columns, int]:
    """Give the columns (`in.…`) and number of rows of a request event alone.

    Raises:
        ProtocolError: the body does not follow its protocol.
    """
    body = body_of(request)
    if protocol_of(request, body) == "v2":
        decoded = v2.decode_request(body, _header_length(request, body))
        return _tensors("in.", decoded.inputs)
    plain = v1.decode_request(body)
    return _listed("in.", plain.key, plain.instances)


def protocol_of(request: Event, body: bytes) -> str:
    """Tell the protocol: as the logger wrote, else by the path, else by the body."""
    named = request.text(PROTOCOL)
    if named in {"v1", "v2"}:
        return named
    path = request.text(PATH)
    if path:
        return "v2" if "/v2/" in path else "v1"
    # KServe agents say nothing about the path: only V2 has tensors with datatypes.
    head = body[:_JSON_SCAN]
    return "v2" if b'"datatype"' in head and b'"inputs"' in head else "v1"


def body_of(event: Event) -> bytes:
    """Give the body, decompressed when it is gzip, whether or not anything says so.

    Raises:
        ProtocolError: no body, a broken or unknown compression, or more than 64 MiB of content.
    """
    body = event.data
    if not body:
        raise MalformedBody("body", "empty")
    encoding = event.text(CONTENT_ENCODING).lower()
    if encoding in {"gzip", "x-gzip"} or body[:2] == _GZIP:
        return _unzipped(body)
    if encoding not in {"", "identity"}:
        raise MalformedBody("body", f"content encoding {encoding!r}: expected gzip or identity")
    return body


def _unzipped(body: bytes) -> bytes:
    try:
        with gzip.open(io.BytesIO(body)) as stream:
            content: bytes = stream.read(MAX_BODY + 1)
    except (OSError, EOFError, zlib.error) as exc:
        raise MalformedBody("body", f"broken gzip: {exc}") from exc
    if len(content) > MAX_BODY:
        raise MalformedBody("body", f"more than {MAX_BODY} bytes of content")
    return content


def _decode(exchange: Exchange) -> Decoded:
    request, response = exchange.request.event, exchange.response.event
    columns, rows = decode_inputs(request)
    body = body_of(response)
    if protocol_of(request, body_of(request)) == "v2":
        answer = v2.decode_response(body, _header_length(response, body))
        outputs, answered = _tensors("out.", answer.outputs)
    else:
        outputs, answered = _listed("out.", "predictions", v1.decode_response(body))
    if answered != rows:
        raise MalformedBody("response", f"expected {rows} rows as in the request, got {answered}")
    return Decoded(exchange, rows, columns | outputs)


def _header_length(event: Event, body: bytes) -> int | None:
    text = event.text(INFERENCE_HEADER_LENGTH)
    if text.isdecimal():
        return int(text)
    # KServe agents lose the header: where JSON ends and tensors begin shows in the JSON itself, if it closes early.
    end = _json_end(body)
    return end if 0 < end < len(body) and b"binary_data_size" in body[:end] else None


def _json_end(body: bytes) -> int:
    """Give where the first JSON object ends; 0 when it does not, within the first MiB."""
    depth, quoted, escaped = 0, False, False
    for index, byte in enumerate(body[:_JSON_SCAN]):
        if quoted:
            escaped, quoted = (False, True) if escaped else (byte == _BACKSLASH, byte != _QUOTE)
        elif byte == _QUOTE:
            quoted = True
        elif byte == _OPEN:
            depth += 1
        elif byte == _CLOSE:
            depth -= 1
            if depth == 0:
                return index + 1
    return 0


def _tensors(prefix: str, tensors: Sequence[Tensor]) -> tuple[Columns, int]:
    if not tensors:
        raise MalformedBody("body", "has no tensors")
    rows = {tensor.shape[0] if tensor.shape else 1 for tensor in tensors}
    if len(rows) != 1:
        shapes = ", ".join(f"{tensor.name!r} {list(tensor.shape)}" for tensor in tensors)
        raise MalformedBody("tensors", f"expected one number of rows, got {shapes}")
    return {prefix + tensor.name: _column(tensor) for tensor in tensors}, rows.pop()


def _column(tensor: Tensor) -> pa.Array:
    if tensor.datatype == "BYTES":
        values = _texts(tensor.data.ravel().tolist())
    else:
        data = np.ascontiguousarray(tensor.data).ravel()
        values = pa.array(data.astype("f4") if data.dtype == np.dtype("f2") else data)
    width = int(np.prod(tensor.shape[1:], dtype=np.int64)) if len(tensor.shape) > 1 else 1
    if len(tensor.shape) <= 1 or (width == 1 and len(tensor.shape) == 2):  # noqa: PLR2004 - a column vector
        return values
    return pa.FixedSizeListArray.from_arrays(values, width)


def _texts(items: list[bytes]) -> pa.Array:
    try:
        return pa.array([item.decode() for item in items], pa.string())
    except UnicodeDecodeError:
        return pa.array(items, pa.binary())


def _listed(prefix: str, key: str, items: list[Any]) -> tuple[Columns, int]:
    """Turn V1's rows into columns: objects by their keys, lists as one vector or by position, scalars as one column."""
    if not items:
        raise MalformedBody(key, "expected at least one row, got none")
    if all(isinstance(item, dict) for item in items):
        return _objects(prefix, key, items), len(items)
    if not isinstance(items[0], list):
        return {prefix + key: _values(items, key)}, len(items)
    array = _matrix(items)
    if array is not None:
        width = array.size // len(items)
        return {prefix + key: pa.FixedSizeListArray.from_arrays(pa.array(array.ravel()), width)}, len(items)
    widths = {len(item) if isinstance(item, list) else -1 for item in items}
    if len(widths) != 1:
        raise MalformedBody(key, f"rows differ in length: {sorted(widths)}")
    columns = zip(*items, strict=True)
    return {f"{prefix}{key}.{at}": _values(list(column), f"{key}[{at}]") for at, column in enumerate(columns)}, len(
        items
    )


def _matrix(items: list[Any]) -> np.ndarray[Any, Any] | None:
    try:
        array = np.array(items)
    except ValueError:
        return None
    if array.dtype.kind not in "fiub" or array.size == 0:
        return None
    # A column that is 1 in one call and 1.5 in the next must not change its type: JSON has but one kind of number.
    return array if array.dtype.kind == "b" else array.astype(np.float64)


def _objects(prefix: str, key: str, items: list[dict[str, Any]]) -> Columns:
    names = list(items[0])
    for index, item in enumerate(items):
        if item.keys() != items[0].keys():
            raise MalformedBody(f"{key}[{index}]", f"expected the keys {names}, got {list(item)}")
    return {prefix + name: _values([item[name] for item in items], f"{key}.{name}") for name in names}


def _values(values: list[Any], where: str) -> pa.Array:
    kinds = {type(value) for value in values if value is not None}
    if kinds <= {int, float}:
        return pa.array([None if value is None else float(value) for value in values], pa.float64())
    if kinds in ({str}, {bool}):
        return pa.array(values)
    array = _matrix(values)
    if array is not None and array.ndim > 1:
        return pa.FixedSizeListArray.from_arrays(pa.array(array.ravel()), array.size // len(values))
    found = ", ".join(sorted(kind.__name__ for kind in kinds))
    raise MalformedBody(where, f"expected numbers, texts or booleans, one kind of them, got {found}")


def _meta(decoded: Sequence[Decoded]) -> list[pa.Array]:
    values: Mapping[str, list[Any]] = {name: [] for name in META.names}
    for item in decoded:
        per_exchange = _facts(item.exchange)
        for name, column in values.items():
            if name == "_row":
                column.extend(range(item.rows))
            else:
                column.extend([per_exchange[name]] * item.rows)
    return [pa.array(values[field.name], field.type) for field in META]


def _facts(exchange: Exchange) -> dict[str, Any]:
    request, response = exchange.request.event, exchange.response.event
    latency, rate = response.text(LATENCY_US), request.text(SAMPLED_RATE)
    return {
        "_id": request.correlation(),
        "_time": parse_time(request.time) if request.time else exchange.order_ms * 1000,
        "_order": exchange.order_ms,
        "_partition": exchange.record.partition,
        "_offset": exchange.record.offset,
        "_request": request.id,
        "_response": response.id,
        "_status": exchange.status,
        "_latency_us": int(latency) if latency.isdecimal() else None,
        "_model": request.text(MODEL_NAME) or None,
        "_version": request.text(MODEL_VERSION) or None,
        "_sampled_rate": _number(rate),
    }


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
