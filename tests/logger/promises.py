"""What holds for every stream of bytes that a client may send; the suite looks for seconds, `make fuzz` for minutes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import h11
from hypothesis import given
from hypothesis import strategies as st

from logger.heads import RequestHead, judge, request_bytes
from logger.tap import is_logged
from tests.logger import wires
from tests.logger.wires import Outcome, Reply, Stream

_WRITTEN: Final = tuple(
    b"connection keep-alive proxy-connection proxy-authenticate proxy-authorization te trailer transfer-encoding"
    b" upgrade http2-settings content-length expect x-request-id".split()
)
_BEHIND: Final = {*_WRITTEN, *(name.replace(b"-", b"_") for name in (*_WRITTEN, b"x-forwarded-for"))}
"""Fields that do not go to the model as they came: for this hop only, or written anew."""


@given(wires.streams(), st.lists(wires.replies, min_size=1, max_size=3))
def legal_requests_arrive_as_they_are(stream: Stream, replies: Sequence[Reply]) -> None:
    """However cut and framed: the model and the log have each whole, the client has each answer in order."""
    outcome = wires.play(stream.pieces(), replies)

    assert [(call.method, call.target, call.body) for call in outcome.seen] == [
        (call.method, call.target, call.body) for call in stream.calls
    ]
    for call, seen in zip(stream.calls, outcome.seen, strict=True):
        mine = [item for item in seen.fields if item[0].startswith(b"x-") and item[0] not in _OURS]
        assert sorted(mine) == sorted(item for item in call.fields if item[0] not in _OURS)
    agrees(outcome)
    assert not any(item.aborted for item in outcome.logged)
    found = list(wires.answers(outcome.output, [call.method for call in stream.calls], closed=outcome.closed))
    bodies = [replies[number % len(replies)].body for number in range(len(stream.calls))]
    assert found == [
        (200, b"" if call.method == b"HEAD" else body) for call, body in zip(stream.calls, bodies, strict=True)
    ]


@given(wires.damaged(), st.lists(wires.replies, min_size=1, max_size=3))
def damage_smuggles_nothing(stream: Stream, replies: Sequence[Reply]) -> None:
    """Whatever comes in, what goes out is HTTP, and what the model saw is what was logged."""
    outcome = wires.play(stream.pieces(), replies)

    agrees(outcome)
    methods = [call.method for call in outcome.seen]
    for status, _ in wires.answers(outcome.output, methods, closed=outcome.closed):
        assert status in {200, 400, 408, 413, 414, 417, 431, 501, 502, 505}


@given(
    wires.methods,
    wires.targets | st.binary(min_size=1, max_size=20),
    st.lists(
        st.tuples(
            wires.names | st.sampled_from([b"connection", b"te", b"upgrade", b"content_length", b"via"]), wires.values
        )
    ),
    st.none() | st.integers(0, 1 << 40),
)
def a_rebuilt_head_is_one_request(
    method: bytes, target: bytes, fields: list[tuple[bytes, bytes]], length: int | None
) -> None:
    """What passes the judge is written so that another parser reads just that."""
    given_fields = [(b"host", b"h"), *((name.lower(), value) for name, value in fields)]
    head = RequestHead(method, target, "1.1", given_fields)
    if judge(head, upgrade=False) is not None:
        return
    reader = h11.Connection(h11.SERVER)
    reader.receive_data(request_bytes(head, b"id", length, chunked=False))
    event = reader.next_event()

    assert isinstance(event, h11.Request)
    assert (event.method, event.target) == (method, head.target)
    own = [(b"content-length", b"%d" % length)] if length is not None else []
    kept = [item for item in head.fields if item[0] not in _BEHIND]
    assert list(event.headers) == [(b"x-request-id", b"id"), *kept, (b"via", b"1.1 sidelight"), *own]
    assert reader.trailing_data[0] == b""


def agrees(outcome: Outcome) -> None:
    """Check that the model saw what was logged: every call, and nothing else that is to be logged."""
    whole = [item for item in outcome.logged if not item.aborted]
    seen = [call for call in outcome.seen if is_logged(call.method, call.target.partition(b"?")[0].decode("latin-1"))]
    told = [(item.method.encode(), item.path.encode("latin-1"), b"".join(item.request.chunks)) for item in whole]
    saw = [(call.method, call.target.partition(b"?")[0], call.body) for call in seen]

    assert told == saw[: len(told)]
    # An exchange that the client broke off may have reached the model whole.
    assert len(saw) - len(told) <= sum(item.aborted for item in outcome.logged)


PROMISES = (legal_requests_arrive_as_they_are, damage_smuggles_nothing, a_rebuilt_head_is_one_request)
_OURS = frozenset({b"x-request-id"})
