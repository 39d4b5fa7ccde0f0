"""V1 bodies, both ways, and what is none."""

from __future__ import annotations

import contextlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference.protocol import v1
from inference.protocol.errors import MalformedBody

_TESTDATA = Path(__file__).parent / "testdata"
_JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
    max_leaves=16,
)
_BODIES = [(_TESTDATA / name).read_bytes() for name in ("v1_request.json", "v1_named_inputs.json", "v1_response.json")]


def test_bodies_of_the_specification() -> None:
    """`instances` or `inputs` in, `predictions` out; what else is in a request is kept."""
    request = v1.decode_request(_BODIES[0])
    named = v1.decode_request(_BODIES[1])

    assert request == v1.V1Request(
        instances=[[6.8, 2.8, 4.8, 1.4], [6.0, 3.4, 4.5, 1.6]], extra={"signature_name": "serving_default"}
    )
    assert named.key == "inputs"
    assert named.instances[1] == {"age": 25.5, "job": None}
    assert v1.decode_response(_BODIES[2]) == [1, 1]


@given(instances=st.lists(_JSON, max_size=4))
def test_what_is_written_is_read(instances: list[object]) -> None:
    """Any JSON comes back equal, in requests and in responses."""
    assert v1.decode_request(v1.encode_request(instances)).instances == instances
    assert v1.decode_response(v1.encode_response(instances)) == instances


def test_arrays_are_written_as_lists_and_nan_as_null() -> None:
    """NumPy arrays need no conversion; JSON has no word for NaN and infinity, so null stands for them."""
    body = v1.encode_response([np.array([1.5, np.nan]), np.array([np.inf, 2.0])])

    assert v1.decode_response(body) == [[1.5, None], [None, 2.0]]


def test_what_json_cannot_say_is_refused() -> None:
    """The codec's error, not the JSON library's."""
    with pytest.raises(MalformedBody, match="no JSON form"):
        v1.encode_request([object()])


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "body: no JSON"),
        (b'{"instances": [1', "body: no JSON"),
        (b"\xff\xfe", "body: no JSON"),
        (b'{"instances": [NaN]}', "body: no JSON"),
        (b"[" * 5_000, "body: no JSON"),
        (b"[1, 2]", "body: expected a JSON object, got list"),
        (b"null", "body: expected a JSON object, got NoneType"),
        (b"{}", "body: expected 'instances' or 'inputs', got an object with no keys"),
        (b'{"instance": []}', "body: expected 'instances' or 'inputs', got an object with 'instance'"),
        (b'{"instances": {"a": 1}}', "instances: expected a list, got dict"),
        (b'{"inputs": "x"}', "inputs: expected a list, got str"),
    ],
)
def test_malformed_requests_are_refused(body: bytes, message: str) -> None:
    """The message says what was expected where, and what was there."""
    with pytest.raises(MalformedBody, match=message):
        v1.decode_request(body)


@pytest.mark.parametrize("body", [b"{}", b'{"predictions": 1}', b"[]", b'{"error": "no such model"}', b""])
def test_malformed_responses_are_refused(body: bytes) -> None:
    """An answer without a list of predictions is none."""
    with pytest.raises(MalformedBody):
        v1.decode_response(body)


@given(body=st.binary() | st.sampled_from(_BODIES), at=st.integers(0, 200), flip=st.integers(0, 255))
def test_mutations_lead_to_our_errors_only(body: bytes, at: int, flip: int) -> None:
    """Any bytes, and any byte changed in a good body: decoded or MalformedBody."""
    mutated = body[:at] + bytes([flip]) + body[at + 1 :]
    for decode in (v1.decode_request, v1.decode_response):
        with contextlib.suppress(MalformedBody):
            decode(mutated)
