"""Bodies of requests: V1 JSON, V2 JSON, V2 with binary tensors, or an Arrow IPC stream. Pure.

What most bodies are, numbers in rows, is left as it is until it is known which requests are joined: making an array of
each and then one of all costs more than all the rest. Next: `inference/kafka/batches.py`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final, TypeAlias

import numpy as np
import orjson

from inference import arrow, instances
from inference.kafka.envelopes import Envelope
from inference.observations import body_of, protocol_of
from inference.protocol import v1, v2
from inference.protocol.datatypes import BF16, BYTES, WIDTH, numpy_dtype
from inference.protocol.errors import MalformedBody
from inference.protocol.tensors import Tensor
from inference.protocol.v1 import V1Request
from inference.protocol.v2 import InferRequest
from inference.runtime import Arrays
from streams.claims import ClaimStore, redeemed
from streams.events import Event

Body: TypeAlias = InferRequest | V1Request
Key: TypeAlias = tuple[object, ...]

_GZIP: Final = b"\x1f\x8b"
_OBJECT: Final = b"{"
_NUMBERS: Final = frozenset({float, int})
_KEPT: Final = 256
"""Most layouts that are kept in mind; more come only from clients that put something unique into each."""
_SHORT: Final = 2_048
"""Longest JSON of a layout that is kept."""


@dataclass(frozen=True, slots=True)
class Layout:
    """The JSON in front of binary tensors, which many requests have alike."""

    header: int
    """Its length."""
    size: int
    """Of the whole body."""
    tensors: tuple[tuple[Tensor, int, int], ...]
    """Name, datatype and shape of each tensor, and where its bytes begin and end. Its data are another request's."""
    request: InferRequest
    """Whatever else it says, without tensors."""
    key: Key
    rows: int


@dataclass(slots=True)
class Raw:
    """Binary tensors that are still in their body."""

    layout: Layout
    body: bytes

    def whole(self) -> InferRequest:
        """Give them by themselves."""
        return v2.decode_request(self.body, self.layout.header)

    @staticmethod
    def joined(raws: Sequence[Raw]) -> InferRequest:
        """Give the rows of several, of one key, as one request."""
        layouts = [raw.layout for raw in raws]
        views = [memoryview(raw.body) for raw in raws]
        tensors = []
        for place, (like, _, _) in enumerate(layouts[0].tensors):
            cuts = [layout.tensors[place][1:] for layout in layouts]
            pieces = [view[start:end] for view, (start, end) in zip(views, cuts, strict=True)]
            # A bytearray: models may write to what they are given.
            data = np.frombuffer(bytearray().join(pieces), like.data.dtype).reshape(-1, *like.shape[1:])
            tensors.append(Tensor(name=like.name, datatype=like.datatype, shape=data.shape, data=data))
        return InferRequest(inputs=tuple(tensors), outputs=layouts[0].request.outputs)


@dataclass(slots=True)
class Table:
    """V1 instances that are rows of numbers, all of one length."""

    name: str
    rows: list[list[float]]

    def whole(self) -> InferRequest:
        """Give them by themselves."""
        return InferRequest(inputs=(Tensor.of(self.name, np.array(self.rows)),))

    @staticmethod
    def joined(tables: Sequence[Table]) -> InferRequest:
        """Give the rows of several, of one key, as one request."""
        return Table(tables[0].name, [row for table in tables for row in table.rows]).whole()


@dataclass(slots=True)
class Ask:
    """A request that has been read."""

    envelope: Envelope
    protocol: str
    """v1 or v2."""
    body: Body | Raw | Table
    binary: bool = False
    """Whether tensors came as bytes; then the answer's do, unless it asks otherwise."""
    arrow: bool = False
    key: Key = ()
    """What has to be equal for two requests to be joined."""
    rows: int = 1
    fetched: int = 0
    """Bytes of a body that no record holds."""

    @property
    def request(self) -> Body:
        """Give what is asked."""
        if isinstance(self.body, (Raw, Table)):
            self.body = self.body.whole()
        return self.body

    @property
    def said(self) -> InferRequest:
        """Give what a V2 request says; its tensors may be missing."""
        found = self.body.layout.request if isinstance(self.body, Raw) else self.request
        assert isinstance(found, InferRequest)  # noqa: S101 - only V1 has the other kind
        return found


class Bodies:
    """Reads bodies. One thread uses it; what it keeps in mind changes nothing but the time that it takes.

    Args:
        claims: where bodies lie that were too large for a record.
    """

    def __init__(self, claims: ClaimStore | None = None) -> None:
        self._claims = claims
        self._layouts: dict[bytes, Layout] = {}

    def read(self, around: Envelope) -> Ask:
        """Read the body.

        Raises:
            ProtocolError: it does not follow its protocol.
            InvalidInput: V1 instances that make no table.
            ClaimFailed: the body lies elsewhere and cannot be had from there.
        """
        head, body = around.head, around.record.value
        if not head.plain or head.structured or not body or body[:2] == _GZIP or head.media == arrow.STREAM:
            return read(around, self._claims)
        if head.length is not None and head.protocol != "v1":
            return self._binary(around, body, head.length)
        if head.protocol != "v2" and body[:1] == _OBJECT:
            return _table(around, body) or read(around)
        return read(around)

    def _binary(self, around: Envelope, body: bytes, length: int) -> Ask:
        layout = self._layouts.get(body[:length])
        if layout is not None and layout.size == len(body):
            return Ask(around, "v2", Raw(layout, body), binary=True, key=layout.key, rows=layout.rows)
        ask = read(around)
        found = _layout(ask, body, length)
        if found is not None and length <= _SHORT:
            if len(self._layouts) >= _KEPT:
                self._layouts.clear()
            self._layouts[body[:length]] = found
        return ask


def read(around: Envelope, claims: ClaimStore | None = None) -> Ask:
    """Read the body, from nothing. Raises what `Bodies.read` raises."""
    event = redeemed(around.event, claims)
    ask = _read(around, event, body_of(event))
    ask.fetched = 0 if event is around.event else len(event.data or b"")
    return ask


def _read(around: Envelope, event: Event, body: bytes) -> Ask:
    media = around.head.media
    if media == arrow.STREAM:
        return _v2(around, InferRequest(inputs=arrow.decode(body)), binary=True, arrow_body=True)
    if protocol_of(event, body) == "v2":
        length = around.head.length
        if length is None and media == "application/octet-stream":
            raise MalformedBody("Inference-Header-Content-Length", f"expected with {media}, got no such header")
        request = v2.decode_request(body, length)
        return _v2(around, request, binary=length is not None and _all_raw(request.inputs))
    return _v1(around, v1.decode_request(body))


def _table(around: Envelope, body: bytes) -> Ask | None:
    """Read V1 instances that are plain rows of numbers; None when they are anything else, or wrong."""
    try:
        fields = orjson.loads(body)
    except orjson.JSONDecodeError:
        return None
    if type(fields) is not dict or len(fields) != 1:
        return None
    ((name, rows),) = fields.items()
    if name not in v1.KEYS or type(rows) is not list or not rows or type(rows[0]) is not list:
        return None
    width = len(rows[0])
    floats = False
    for row in rows:
        if type(row) is not list or len(row) != width:
            return None
        kinds = set(map(type, row))
        if not kinds <= _NUMBERS:
            return None
        floats = floats or float in kinds
    # Whole numbers alone are another type, and it depends on their size which.
    if not floats:
        return None
    key = "v2", ((name, "FP64", (width,)),), ()
    return Ask(around, "v1", Table(name, rows), key=key, rows=len(rows))


def _layout(ask: Ask, body: bytes, length: int) -> Layout | None:
    """Make a layout of a request; None when its tensors are not all of numbers that only have to be looked at."""
    request = ask.request
    if not isinstance(request, InferRequest) or not ask.binary or not ask.key:
        return None
    tensors, end = [], length
    for tensor in request.inputs:
        if tensor.datatype in _ODD or not all(tensor.shape):
            return None
        start, end = end, end + WIDTH[tensor.datatype] * math.prod(tensor.shape)
        empty = np.empty(0, numpy_dtype(tensor.datatype, tensor.name))
        tensors.append((replace(tensor, data=empty), start, end))
    if end != len(body):
        return None
    return Layout(length, end, tuple(tensors), replace(request, inputs=()), ask.key, ask.rows)


_ODD: Final = frozenset({BYTES, BF16, "BOOL"})
"""Datatypes whose bytes are translated, or checked."""


def _v2(around: Envelope, request: InferRequest, *, binary: bool, arrow_body: bool = False) -> Ask:
    key, rows = _likeness(request)
    return Ask(around, "v2", request, binary=binary, arrow=arrow_body, key=key, rows=rows)


def _v1(around: Envelope, request: V1Request) -> Ask:
    arrays = instances.arrays(request)
    tensors = None if request.extra else _tensors(arrays)
    if tensors is not None:
        whole = InferRequest(inputs=tensors)
        key, rows = _likeness(whole)
        return Ask(around, "v1", whole, key=key, rows=rows)
    kinds = tuple((name, array.dtype.kind, array.shape[1:]) for name, array in arrays.items())
    key = () if request.extra else ("v1", request.key, kinds)
    rows = instances.row_count(arrays)
    return Ask(around, "v1", request, key=key, rows=max(rows, 1))


def _likeness(request: InferRequest) -> tuple[Key, int]:
    """Give what has to be equal for requests to be joined, () when they cannot be; and the number of rows."""
    lengths = {tensor.shape[0] if tensor.shape else 0 for tensor in request.inputs}
    rows = lengths.pop() if len(lengths) == 1 else 0
    # What a call says beside its tensors may change what the model does with them, so such a call stays alone.
    said = bool(request.parameters.keys() - {"binary_data_output"})
    said |= any(tensor.parameters.keys() - {"binary_data_size"} for tensor in request.inputs)
    said |= any(output.parameters.keys() - {"binary_data"} for output in request.outputs)
    if said or not rows:
        return (), max(rows, 1)
    shapes = tuple((tensor.name, tensor.datatype, tensor.shape[1:]) for tensor in request.inputs)
    return ("v2", shapes, tuple(output.name for output in request.outputs)), rows


def _tensors(arrays: Arrays) -> tuple[Tensor, ...] | None:
    """Give V1's arrays as tensors; None when numbers stand beside text, which no tensor holds."""
    for array in arrays.values():
        if array.dtype == object and not all(isinstance(item, str) for item in array.flat):
            return None
    return tuple(Tensor.of(name, array) for name, array in arrays.items())


def _all_raw(tensors: tuple[Tensor, ...]) -> bool:
    return all("binary_data_size" in tensor.parameters for tensor in tensors)
