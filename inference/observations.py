"""Exchanges ↔ columns: decodes the bodies of paired events and writes their rows as Arrow, for every protocol.

Pure. The assembler (`streams/assembler.py`) is handed the `ArrowCodec`; detectors and explainers read with
`decode_rows`. The columns are documented in `docs/observations.md`.
"""

from __future__ import annotations

import gzip
import io
import json
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import pyarrow as pa

from inference import columns as cols
from inference.columns import MAX_COLUMNS, Columns
from inference.protocol import v1, v2
from inference.protocol.errors import MalformedBody, ProtocolError
from streams.claims import ClaimStore, redeemed
from streams.envelope import is_sealed, opened
from streams.errors import ClaimFailed, Sealed
from streams.events import (
    CONTENT_ENCODING,
    ENCRYPTION_KEY,
    INFERENCE_HEADER_LENGTH,
    LATENCY_US,
    MODEL_NAME,
    MODEL_VERSION,
    PATH,
    PROTOCOL,
    SAMPLED_RATE,
    WITHHELD,
    Event,
)
from streams.keyring import Keyring
from streams.pairing import Exchange, Undecodable

META: Final = pa.schema([
    ("_id", pa.string()), ("_row", pa.int32()), ("_time", pa.int64()), ("_order", pa.int64()),
    ("_partition", pa.int32()), ("_offset", pa.int64()), ("_request", pa.string()), ("_response", pa.string()),
    ("_status", pa.int16()), ("_latency_us", pa.int64()), ("_model", pa.string()), ("_version", pa.string()),
    ("_sampled_rate", pa.float64()),
])  # fmt: skip
MAX_BODY: Final = 64 << 20
"""Most bytes of a body after decompression."""
_FREE: Final = 8 << 20
_RATIO: Final = 200
"""Above 8 MiB, most bytes that one compressed byte may become: tables of numbers stay below 20, bombs reach 1000."""
_GZIP: Final = b"\x1f\x8b"
_JSON_SCAN: Final = 1 << 20
_ROW_COST: Final = 80
"""Bytes of a row's fixed-size meta columns, offsets included."""
_COLUMN_COST: Final = 256
"""Bytes of a column's description in a record."""


@dataclass(frozen=True, slots=True)
class Decoded:
    """One exchange's rows."""

    exchange: Exchange
    rows: int
    columns: Columns
    schema: tuple[tuple[Any, ...], ...] = field(init=False)
    """What must be equal for two exchanges to share a table."""
    nbytes: int = field(init=False)
    """About how many bytes the rows take in a record."""

    def __post_init__(self) -> None:
        columns, request, response = self.columns, self.exchange.request.event, self.exchange.response.event
        schema = tuple((name, column.kind, column.shape, column.nullable) for name, column in columns.items())
        names = len(request.correlation()) + len(request.id) + len(response.id)
        meta = self.rows * (_ROW_COST + names + len(request.text(MODEL_NAME)) + len(request.text(MODEL_VERSION)))
        object.__setattr__(self, "schema", schema)
        values = sum(column.nbytes for column in columns.values())
        object.__setattr__(self, "nbytes", meta + values + _COLUMN_COST * len(columns))


class ArrowCodec:
    """The codec that the assembler is given: decode one exchange, write the rows of many.

    Args:
        keys: of encrypted payloads.
        claims: where bodies lie that were too large for a record.
    """

    def __init__(self, keys: Keyring | None = None, claims: ClaimStore | None = None) -> None:
        self._keys, self._claims = keys or Keyring(), claims

    def decode(self, exchange: Exchange) -> Decoded:
        """Decode both bodies of an exchange into columns.

        Raises:
            Undecodable: a body that does not follow its protocol, that no key opens, or rows that do not match.
        """
        try:
            whole = (redeemed(held.event, self._claims) for held in (exchange.request, exchange.response))
            request, response = (opened(event, self._keys) for event in whole)
        except Sealed as exc:
            raise Undecodable(exc.reason, exc.detail) from exc
        except ClaimFailed as exc:
            raise Undecodable("claim", str(exc)) from exc
        side = "request"
        try:
            body = body_of(request)
            protocol = protocol_of(request, body)
            inputs, rows = _inputs(request, body, protocol)
            side = "response"
            outputs, answered = _outputs(response, body_of(response), protocol)
        except ProtocolError as exc:
            raise Undecodable("undecodable", f"{side}: {exc}") from exc
        if answered != rows:
            raise Undecodable("undecodable", f"response: expected {rows} rows as in the request, got {answered}")
        columns = inputs | outputs
        if len(columns) > MAX_COLUMNS:
            raise Undecodable("undecodable", f"expected at most {MAX_COLUMNS} columns, got {len(columns)}")
        return Decoded(exchange, rows, columns)

    def encode(self, decoded: Sequence[Decoded]) -> bytes:
        """Write rows of one schema as one Arrow IPC stream."""
        return encode_rows(decoded)


def encode_rows(decoded: Sequence[Decoded]) -> bytes:
    """Write the rows of exchanges that share a schema, in order, as an Arrow IPC stream."""
    meta = _meta(decoded)
    names = list(decoded[0].columns)
    features = [cols.arrow([item.columns[name] for item in decoded]) for name in names]
    schema = pa.schema([*META, *(cols.field_of(name, decoded[0].columns[name]) for name in names)])
    batch = pa.RecordBatch.from_arrays([*meta, *features], schema=schema)
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, schema) as writer:
        writer.write_batch(batch)
    return sink.getvalue()


def decode_rows(value: bytes) -> pa.Table:
    """Read what `encode_rows` wrote.

    Raises:
        ProtocolError: no Arrow IPC stream, or one without the columns that every observation has, in their types.
    """
    try:
        with pa.ipc.open_stream(value) as reader:
            table = reader.read_all()
    except (pa.ArrowException, OSError) as exc:
        raise MalformedBody("observations", f"no Arrow IPC stream: {exc}") from exc
    for want in META:
        found = table.schema.field(want.name).type if want.name in table.column_names else "none"
        if found != want.type:
            raise MalformedBody("observations", f"column {want.name!r}: expected {want.type}, got {found}")
    return table


def decode_inputs(request: Event) -> tuple[dict[str, pa.Array], int]:
    """Give the columns (`in.…`) and number of rows of a request event alone.

    Raises:
        ProtocolError: the body does not follow its protocol.
    """
    body = body_of(request)
    columns, rows = _inputs(request, body, protocol_of(request, body))
    return {name: cols.arrow([column]) for name, column in columns.items()}, rows


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
        ProtocolError: no body, one that is encrypted or that the logger withheld, a broken or unknown compression, or
            more than 64 MiB of content.
    """
    if event.text(WITHHELD):
        raise MalformedBody("body", f"withheld by the logger's privacy rules: {event.text(WITHHELD)}")
    if is_sealed(event):
        raise MalformedBody("body", f"encrypted with key {event.text(ENCRYPTION_KEY)!r}")
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
    limit = min(MAX_BODY, max(_FREE, _RATIO * len(body)))
    try:
        with gzip.open(io.BytesIO(body)) as stream:
            content: bytes = stream.read(limit + 1)
    except (OSError, EOFError, zlib.error) as exc:
        raise MalformedBody("body", f"broken gzip: {exc}") from exc
    if len(content) > limit:
        raise MalformedBody("body", f"{len(body)} bytes of gzip hold more than {limit} bytes of content")
    return content


def _inputs(request: Event, body: bytes, protocol: str) -> tuple[Columns, int]:
    if protocol == "v2":
        return cols.of_tensors("in.", v2.decode_request(body, _header_length(request, body)).inputs)
    plain = v1.decode_request(body)
    return cols.of_rows("in.", plain.key, plain.instances)


def _outputs(response: Event, body: bytes, protocol: str) -> tuple[Columns, int]:
    if protocol == "v2":
        return cols.of_tensors("out.", v2.decode_response(body, _header_length(response, body)).outputs)
    return cols.of_rows("out.", "predictions", v1.decode_response(body))


def _header_length(event: Event, body: bytes) -> int | None:
    given = event.number(INFERENCE_HEADER_LENGTH)
    # KServe agents lose the header: where JSON ends and tensors begin shows in the JSON itself. That is safe: the
    # sizes that the JSON names have to be those of what follows, to the byte.
    return _json_end(body) if given is None and b'"binary_data_size"' in body[:_JSON_SCAN] else given


def _json_end(body: bytes) -> int | None:
    """Give where the leading JSON object ends; None when it does not within the first MiB, or is all there is."""
    try:
        # Latin-1 keeps every byte one character, so that the place is a place in the bytes.
        _, end = json.JSONDecoder().raw_decode(body[:_JSON_SCAN].decode("latin-1"))
    except (ValueError, RecursionError):
        return None
    return end if end < len(body) else None


def _meta(decoded: Sequence[Decoded]) -> list[pa.Array]:
    facts = [_facts(item.exchange) for item in decoded]
    counts = np.array([item.rows for item in decoded])
    exchange = pa.array(np.repeat(np.arange(len(decoded)), counts))
    starts = np.cumsum(counts) - counts
    rows = np.arange(counts.sum()) - np.repeat(starts, counts)
    return [
        pa.array(rows, want.type)
        if want.name == "_row"
        else pa.array([fact[want.name] for fact in facts], want.type).take(exchange)
        for want in META
    ]


def _facts(exchange: Exchange) -> dict[str, Any]:
    request, response = exchange.request.event, exchange.response.event
    return {
        "_id": request.correlation(),
        "_time": exchange.order_ms * 1000 if exchange.request.at_us is None else exchange.request.at_us,
        "_order": exchange.order_ms,
        "_partition": exchange.record.partition,
        "_offset": exchange.record.offset,
        "_request": request.id,
        "_response": response.id,
        "_status": exchange.status,
        "_latency_us": response.number(LATENCY_US),
        "_model": request.text(MODEL_NAME) or None,
        "_version": request.text(MODEL_VERSION) or None,
        "_sampled_rate": _rate(request.text(SAMPLED_RATE)),
    }


def _rate(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
