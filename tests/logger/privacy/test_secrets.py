"""The promise itself, for drawn bodies: no secret that a rule speaks of is in any byte that leaves; all else stays."""

from __future__ import annotations

import base64
import copy
import json
import struct
from typing import Any, Final

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from inference.observations import ArrowCodec
from inference.protocol import v2 as codec
from inference.protocol.tensors import Tensor
from logger.privacy.rules import Privacy
from streams.bindings import to_kafka
from streams.events import INFERENCE_HEADER_LENGTH, Event
from streams.pairing import Exchange, Pairing
from streams.settings import PairingSettings
from streams.stage import Record
from tests.logger.privacy.making import LIMIT, V1, V2, clean, events, packed, rules, seen, sent

PLANTED: Final = "Zq7-geheim-\u00e9"
NUMBER: Final = 7_919_104_729
"""A secret number; no bucket below begins with it, and no other number that is drawn contains it."""
SPELT: Final = (PLANTED.encode(), json.dumps(PLANTED)[1:-1].encode(), str(NUMBER).encode(), struct.pack("<q", NUMBER),
                struct.pack("<d", NUMBER), base64.b64encode(PLANTED.encode())[:-4])  # fmt: skip

_NAMES = st.sampled_from(["a", "b", "*", "~", "x/y", "", "0", "instances"])
_LEAVES = st.none() | st.booleans() | st.integers(-1_000, 1_000) | st.floats(-1e3, 1e3) | st.text(max_size=4)
_JSON = st.recursive(_LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_NAMES, inner, max_size=3))
_SECRETS = st.recursive(
    st.just(PLANTED) | st.just(NUMBER) | st.just(f"{PLANTED}{NUMBER}"),
    lambda inner: (
        st.lists(inner, min_size=1, max_size=3) | st.dictionaries(st.just(PLANTED) | _NAMES, inner, min_size=1)
    ),
    max_leaves=4,
)
_ACTIONS = st.sampled_from([
    {"action": "mask"}, {"action": "drop"}, {"action": "pseudonym", "key": "customers"},
    {"action": "bucket", "width": 1_000}, {"action": "bucket", "edges": [0, 10]}, {"action": "truncate", "length": 3},
])  # fmt: skip


def _escaped(token: str) -> str:
    return token.replace("~", "~0").replace("/", "~1")


@st.composite
def planted(draw: st.DrawFn) -> tuple[dict[str, Any], str, dict[str, Any]]:
    """Draw a body with secrets in one place, the pointer to it, and the same body without that place."""
    body: dict[str, Any] = {"instances": draw(st.lists(_JSON, max_size=2)), "more": draw(_JSON)}
    tokens = [draw(st.sampled_from(["place", "x/y", "~"]))]
    found: Any = body
    bare = copy.deepcopy(body)
    shadow: Any = bare
    for _ in range(draw(st.integers(0, 3))):
        if draw(st.booleans()):
            found[tokens[-1]], shadow[tokens[-1]] = {"aside": 1}, {"aside": 1}
            found, shadow = found[tokens[-1]], shadow[tokens[-1]]
            tokens.append(draw(st.sampled_from(["deep", "a/b", "~1"])))
        else:
            # Every element holds the same, so that `*` reaches all of them.
            inner = tokens[-1]
            count = draw(st.integers(1, 3))
            found[inner] = [draw(_SECRETS) for _ in range(count)]
            shadow[inner] = "?"
            return body, "/" + "/".join(map(_escaped, [*tokens, "*"])), bare
    found[tokens[-1]], shadow[tokens[-1]] = draw(_SECRETS), "?"
    return body, "/" + "/".join(map(_escaped, tokens)), bare


def _without(body: Any, pointer: str) -> Any:  # noqa: ANN401 - JSON
    """Put a mark in the place that a pointer leads to, whatever is there."""
    tokens = [token.replace("~1", "/").replace("~0", "~") for token in pointer[1:].removesuffix("/*").split("/")]
    node = body
    for token in tokens[:-1]:
        node = node[token]
    node[tokens[-1]] = "?"
    return body


@given(planted(), _ACTIONS, st.booleans(), st.booleans(), st.booleans())
def test_no_secret_in_json_leaves(
    found: tuple[dict[str, Any], str, dict[str, Any]],
    action: dict[str, Any],
    zipped: bool,  # noqa: FBT001 - drawn
    ascii_only: bool,  # noqa: FBT001 - drawn
    v1: bool,  # noqa: FBT001 - drawn
) -> None:
    """Whatever the nesting, spelling, compression or protocol: the place is changed, and nothing else is."""
    body, pointer, bare = found
    text = json.dumps(body, ensure_ascii=ascii_only, indent=1 if v1 else None).encode()
    path = V1 if v1 else V2
    privacy = rules({"pointer": pointer, **action})
    exchange = seen(packed(text) if zipped else text, text, path)
    left = sent(privacy, exchange)
    request, response = clean(privacy, seen(packed(text) if zipped else text, text, path))

    assert not [spelt for spelt in SPELT if spelt in left]
    assert _without(json.loads(request), pointer) == bare
    assert request == response


@given(st.binary(max_size=200), st.booleans(), st.booleans())
def test_no_malformed_body_leaves(junk: bytes, zipped: bool, cut: bool) -> None:  # noqa: FBT001 - drawn
    """Bytes that are no body of the protocol are withheld with the secret that they hold."""
    body = b"{" + junk + PLANTED.encode()
    exchange = seen(packed(body)[: -1 if cut else None] if zipped else body, b"", V2)
    privacy = rules({"pointer": "/a", "action": "mask"}, {"tensor": "x", "action": "mask"})

    assert PLANTED.encode() not in sent(privacy, exchange)


@st.composite
def tensors(draw: st.DrawFn) -> tuple[list[Tensor], int | None]:
    """Draw tensors of equal rows, `x` with secrets in one column or in all, and that column."""
    rows, width = draw(st.integers(1, 4)), draw(st.integers(1, 4))
    kind = draw(st.sampled_from(["BYTES", "INT64", "UINT64", "FP64"]))
    column = draw(st.none() | st.integers(0, width - 1))
    secret: Any = PLANTED.encode() if kind == "BYTES" else NUMBER
    plain: Any = b"plain" if kind == "BYTES" else 5
    cells = [[secret if column in {None, at} else plain for at in range(width)] for _ in range(rows)]
    dtype: Any = object if kind == "BYTES" else {"INT64": "<i8", "UINT64": "<u8", "FP64": "<f8"}[kind]
    data = np.array(cells, dtype)
    if draw(st.booleans()):
        # A third dimension: a column is a plane of it.
        data = np.repeat(data[:, :, None], 2, axis=2)
    others = [
        Tensor.of(name, np.arange(rows, dtype=draw(st.sampled_from(["<i4", "<f4", "u1", "<f8"]))))
        for name in ("w", "y")
    ]
    x = Tensor(name="x", datatype=kind, shape=data.shape, data=data)
    return draw(st.permutations([*others, x])), column


def rows_of(privacy: Privacy, request: bytes, response: bytes, *fields: tuple[bytes, bytes]) -> Any:  # noqa: ANN401 - a codec's
    """Give what the assembler makes of an exchange after the rules."""
    pairing = Pairing(PairingSettings())
    exchange: Exchange | None = None
    found = seen(request, response, V2, *fields)
    found.response_fields = [(b"content-type", b"application/json")]
    for offset, event in enumerate(events(privacy, found)):
        headers, value = to_kafka(event)
        exchange = pairing.take(Record("p", 0, offset, b"k", value, headers, 0)).exchange
    assert exchange is not None
    return ArrowCodec().decode(exchange)


@given(tensors(), _ACTIONS, st.booleans(), st.booleans())
@settings(max_examples=150)
def test_no_secret_in_tensors_leaves(
    found: tuple[list[Tensor], int | None],
    action: dict[str, Any],
    binary: bool,  # noqa: FBT001 - drawn
    zipped: bool,  # noqa: FBT001 - drawn
) -> None:
    """Every datatype, shape and form: gone from the bytes; rows can still be read, and other columns as before."""
    inputs, column = found
    body, length = codec.encode_request(codec.InferRequest(inputs=tuple(inputs)), binary=binary)
    rows = inputs[0].shape[0]
    answer, _ = codec.encode_response(
        codec.InferResponse(model_name="m", outputs=(Tensor.of("p", np.arange(rows, dtype="<f8")),))
    )
    rule = {"tensor": "x", "in": "request", **action} | ({} if column is None else {"column": column})
    fields = [] if length is None else [(b"inference-header-content-length", b"%d" % length)]
    request = packed(body) if zipped else body
    decoded = rows_of(rules(rule), request, answer, *fields)

    assert not [spelt for spelt in SPELT if spelt in sent(rules(rule), seen(request, b"", V2, *fields))]
    assert decoded.rows == rows
    plain = rows_of(rules(), request, answer, *fields)
    for name in ("in.w", "in.y", "out.p"):
        assert np.array_equal(decoded.columns[name].values, plain.columns[name].values)
    if column is not None and "in.x" in decoded.columns:
        _same_besides(decoded.columns["in.x"], plain.columns["in.x"], column)


def _same_besides(ours: Any, before: Any, column: int) -> None:  # noqa: ANN401 - a codec's columns
    """Compare a column's values besides those of one place."""
    shape = (-1, *(before.shape or (1,)))
    if ours.kind == before.kind and len(shape) > 1 and shape[1] > 1:
        kept = np.array(before.values, object).reshape(shape), np.array(ours.values, object).reshape(shape)

        first, second = (np.delete(values, column, axis=1) for values in kept)

        assert np.array_equal(first, second)


@given(tensors())
def test_what_no_rule_speaks_of_stays_to_the_byte(found: tuple[list[Tensor], int | None]) -> None:
    """Rules that find nothing leave binary tensors as they are; only the JSON before them is written anew."""
    body, length = codec.encode_request(codec.InferRequest(inputs=tuple(found[0])), binary=True)
    fields = [(b"inference-header-content-length", b"%d" % (length or 0))]
    request, _ = events(rules({"tensor": "other", "action": "mask"}), seen(body, b"", V2, *fields))
    head = request.number(INFERENCE_HEADER_LENGTH) or 0
    data = request.data or b""

    assert data[head:] == body[length:]
    assert json.loads(data[:head]) == json.loads(body[:length])


_MUTATED = st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), max_size=8)


@given(tensors(), _MUTATED, st.integers(-3, 3), st.booleans())
@settings(max_examples=200)
def test_broken_bodies_are_withheld_or_still_decode(
    found: tuple[list[Tensor], int | None],
    changes: list[tuple[int, int]],
    shift: int,
    binary: bool,  # noqa: FBT001 - drawn
) -> None:
    """Turned bytes and wrong lengths raise nothing: a body goes out redacted or withheld, never as a fault of ours."""
    body, length = codec.encode_request(codec.InferRequest(inputs=tuple(found[0])), binary=binary)
    turned = bytearray(body)
    for at, byte in changes:
        turned[at % len(turned)] = byte
    fields = [] if length is None else [(b"inference-header-content-length", b"%d" % max(0, length + shift))]
    privacy = rules({"tensor": "x", "action": "mask"}, {"pointer": "/inputs/*/parameters/note", "action": "drop"})
    request, _ = events(privacy, seen(bytes(turned), b"", V2, *fields))

    assert (request.text("redacted") == "true") != bool(request.text("withheld"))
    assert request.text("withheld") != "fault"
    assert len(request.data or b"") <= LIMIT


def test_events_need_no_body() -> None:
    """A call without content has nothing to hide and nothing to say of it."""
    request, response = events(rules({"pointer": "/a", "action": "mask"}), seen(b""))

    assert isinstance(request, Event)
    assert (request.data, response.data) == (b"", b"")
    assert "redacted" not in request.extensions
