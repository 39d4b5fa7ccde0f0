"""What is kept in mind between records saves time and changes nothing."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from inference.errors import InferenceError
from inference.kafka.batches import Group
from inference.kafka.envelopes import Envelope, envelope
from inference.kafka.heads import Envelopes
from inference.kafka.requests import Ask, Bodies, Body, read
from inference.kafka.settings import StreamSettings
from inference.protocol import v2
from inference.protocol.errors import ProtocolError
from inference.protocol.tensors import Tensor
from inference.protocol.v1 import V1Request
from inference.protocol.v2 import InferRequest
from streams.stage import Record
from tests.inference.traced import Traced

SETTINGS = StreamSettings(responses="answers", deadletter="dead", model="m", reply_topics=("team.*",))

NAMES = st.sampled_from([
    "content-type", "Content-Type", "x-request-id", "X-Request-Id", "correlationid", "ce_correlationid", "modelname",
    "path", "inference-header-content-length", "content-encoding", "reply-topic", "traceparent", "ce_traceparent",
    "ce_id", "CE_ID", "ce_time", "ce_subject", "ce_data", "id", "time", "kafka_correlationId", "x-sidelight-synthetic",
    "dataref", "other",
])  # fmt: skip
VALUES = st.sampled_from([
    b"application/json", b"application/cloudevents+json", b"a", b"b", b"30", b"gzip", b"2026-01-31T12:00:00Z",
    b"/v2/models/m/infer", b"/v1/models/n:predict", b"team.x", b"\xff", b"", None,
])  # fmt: skip
EVENT = (("ce_specversion", b"1.0"), ("ce_source", b"s"), ("ce_type", b"t"))
BODIES = st.sampled_from(
    [None, b"{}", b' {"specversion": "1.0", "id": "1", "source": "s", "type": "t"}', b"\x1f\x8b", b"x"]
)
KINDS = st.tuples(st.booleans(), st.lists(NAMES, max_size=5))


def said(around: Envelope) -> tuple[Any, ...]:
    """Give all that an envelope says."""
    problem = None if around.problem is None else str(around.problem)
    return (
        around.head, around.identity, around.correlation, around.at_us, around.traceparent, problem, around.event,
    )  # fmt: skip


@given(st.data(), st.lists(KINDS, min_size=1, max_size=3))
def test_headers_are_read_as_if_each_record_were_the_first(
    data: st.DataObject, kinds: Sequence[tuple[bool, list[str]]]
) -> None:
    """What is said of a record does not depend on those before, which had the same headers and some of the values."""
    envelopes = Envelopes(SETTINGS)
    for offset in range(8):
        event, names = data.draw(st.sampled_from(kinds))
        own = tuple((name, data.draw(VALUES)) for name in names)
        record = Record(
            "t", offset % 2, offset, b"k", data.draw(BODIES), (EVENT if event else ()) + own, 1_760_000_000_500
        )
        alone = envelope(record, SETTINGS)

        assert said(envelopes.read(record)) == said(alone)


NUMBERS = st.one_of(
    st.integers(-5, 5), st.integers(-(1 << 63), (1 << 64) - 1), st.floats(allow_nan=False), st.booleans(), st.none()
)
TABLES = st.integers(0, 3).flatmap(
    lambda width: st.lists(
        st.lists(NUMBERS, min_size=width, max_size=width) | st.lists(NUMBERS, max_size=2), max_size=3
    )
)
DTYPES = st.sampled_from(["<f8", "<f4", "<f2", "<i8", "u1", "?", object])


def test_long_headers_are_not_kept_in_mind() -> None:
    """Names and values of headers that are new in each record take no memory, however long they are."""
    envelopes = Envelopes(SETTINGS)

    def read(at: int, size: int) -> None:
        mark = f"{at:08}"
        headers = (
            (f"x-{mark * (size // 8)}", b"1"), ("ce_a" + mark, mark.encode() * (size // 8)), ("correlationid", b"c"),
        )  # fmt: skip
        assert envelopes.read(Record("t", 0, at, b"k", b"{}", headers, 1_760_000_000_500)).correlation == "c"

    read(0, 8)
    with Traced(__file__) as memory:
        for at in range(100):
            read(at, 1 << 17)
        kept = memory.held()

    assert 0 < kept < 1 << 20


Written = tuple[bytes, tuple[tuple[str, bytes], ...]]


@st.composite
def v1_bodies(draw: st.DrawFn) -> Written:
    """Write a V1 request, or what looks like one."""
    whole = {draw(st.sampled_from(["instances", "inputs", "rows"])): draw(TABLES)}
    return json.dumps(whole | draw(st.sampled_from([{}, {"more": 1}]))).encode(), ()


@st.composite
def v2_bodies(draw: st.DrawFn) -> Written:
    """Write a V2 request with binary tensors."""
    shape = draw(st.sampled_from([(1, 2), (2, 2), (2,), (0, 2), (1, 2, 2)]))
    dtype, count = draw(DTYPES), int(np.prod(shape))
    array = np.ones(count, dtype) if isinstance(dtype, str) else np.array([b"x"] * count, object)
    asked = InferRequest(inputs=(Tensor.of("x", array.reshape(shape)),), id=draw(st.sampled_from([None, "7"])))
    body, length = v2.encode_request(asked, binary=True)
    return body, (("inference-header-content-length", b"%d" % (length or len(body))),)


def told(request: Body) -> tuple[Any, ...]:
    """Give all that a request says."""
    if isinstance(request, V1Request):
        return request.instances, request.key, request.extra
    tensors = [
        (one.name, one.datatype, one.shape, one.data.dtype.str, repr(one.data.tolist())) for one in request.inputs
    ]
    return tensors, request.id, request.outputs


@given(
    st.lists(v1_bodies() | v2_bodies(), min_size=1, max_size=3),
    st.lists(
        st.tuples(st.integers(0, 2), st.sampled_from([b"", b"\0", b"!"]), st.integers(0, 8)), min_size=2, max_size=6
    ),
)
def test_bodies_are_read_as_if_each_were_the_first(
    written: Sequence[Written], sent: Sequence[tuple[int, bytes, int]]
) -> None:
    """Whatever came before, a body gives the same tensors, or the same error; also one that is too short or long."""
    bodies = Bodies()
    for offset, (which, more, less) in enumerate(sent):
        body, headers = written[which % len(written)]
        headers = (("content-type", b"application/json"), *headers)
        cut = (body + more)[: len(body) + len(more) - less * (less > 6)]
        around = envelope(Record("t", 0, offset, b"k", cut, headers, 1_760_000_000_500), SETTINGS)

        assert _outcome(bodies.read, around) == _outcome(read, around)


def _outcome(way: Callable[[Envelope], Ask], around: Envelope) -> Any:  # noqa: ANN401 - a request, or an error
    try:
        ask = way(around)
    except (ProtocolError, InferenceError) as exc:
        return type(exc), str(exc)
    twice = Group(2 * ask.rows)
    twice.add(ask, 0)
    twice.add(way(around), 1)
    # Joined before it is looked at by itself: looking makes arrays of it.
    joined = told(twice.request()) if ask.key else ()
    return ask.protocol, ask.binary, ask.arrow, ask.key, ask.rows, joined, told(ask.request)
