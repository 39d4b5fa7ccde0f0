"""What holds for every HTTP/2 connection that a client may make; see `tests/logger/promises.py`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from h2.config import H2Configuration
from h2.events import (
    DataReceived,
    Event,
    PingReceived,
    RemoteSettingsChanged,
    RequestReceived,
    StreamReset,
    TrailersReceived,
    WindowUpdated,
)
from h2.exceptions import ProtocolError
from hpack import Decoder
from hypothesis import given
from hypothesis import strategies as st

from inference.http2.fields import Head
from inference.http2.framing import Framing
from inference.http2.status import HTTP
from logger.tap import Seen
from tests.logger.grpc import drafts, wires
from tests.logger.grpc.drafts import NUMBER, Reply, Stream
from tests.logger.grpc.raw import Patient
from tests.logger.grpc.wires import Heard

_TOLD: dict[type[Event], Callable[[Any], Any]] = {
    StreamReset: lambda event: (event.stream_id, int(event.error_code)),
    RemoteSettingsChanged: lambda event: sorted((int(key), to.new_value) for key, to in event.changed_settings.items()),
    PingReceived: lambda event: event.ping_data,
}  # fmt: skip


@given(drafts.streams(), st.lists(drafts.replies, min_size=1, max_size=3), drafts.models)
def legal_calls_arrive_as_they_are(stream: Stream, replies: Sequence[Reply], settings: dict[int, int]) -> None:
    """However cut, padded and mixed: the model and the log have each whole, the client has each answer."""
    outcome = wires.play(stream, replies, settings, listen=True)

    assert not outcome.faults, outcome.faults
    assert not outcome.left
    seen = {int(dict(draft.fields)[NUMBER]): draft for found in outcome.seen.values() for draft in found}
    assert len(outcome.logged) == len(seen) == len(stream.drafts)
    told = {item.correlation.encode(): item for item in outcome.logged}
    for number, draft in enumerate(stream.drafts):
        saw, heard = seen[number], outcome.heard[2 * number + 1]
        assert (saw.path, saw.body, saw.trailers, _own(saw.fields)) == (
            draft.path, draft.body, draft.trailers, [*draft.fields],
        )  # fmt: skip
        log = told[dict(saw.fields)[b"x-request-id"]]
        assert b"".join(log.request.chunks) == draft.body
        assert b"".join(log.response.chunks) == heard.body
        _check_answer(replies[number % len(replies)], heard, log)


@given(drafts.damaged(), st.lists(drafts.replies, min_size=1, max_size=3), drafts.models)
def damaged_calls_end(stream: Stream, replies: Sequence[Reply], settings: dict[int, int]) -> None:
    """Whatever comes in, what goes out is HTTP/2 on both sides, every call ends and is logged once, and no other."""
    outcome = wires.play(stream, replies, settings, listen=False)

    assert not outcome.faults, outcome.faults
    assert not outcome.left
    check_frames(outcome.output)
    whole = [draft for found in outcome.seen.values() for draft in found]
    told = {item.correlation.encode(): item for item in outcome.logged}
    assert len(told) == len(outcome.logged)
    # What the model has seen to its end is in the log, with the same content.
    for draft in whole:
        log = told[dict(draft.fields)[b"x-request-id"]]
        assert log.path.encode("latin-1") == draft.path
        assert b"".join(log.request.chunks) == draft.body


@given(drafts.damaged())
def frames_mean_what_the_library_says(stream: Stream) -> None:
    """The short ways of `Framing` and the long ones of `h2` tell the same of the same bytes, to the first error."""
    library = _Library()
    library.read(stream.data)
    ours = _Ours()
    ours.read(stream.pieces())

    if library.refused:
        # Of the frame that is refused we may have told a part.
        assert ours.refused
        assert ours.told[: len(library.told)] == library.told
        assert len(ours.told) <= len(library.told) + 1
    elif not ours.refused:
        assert ours.told == library.told
    else:
        assert ours.reason.startswith(_STRICTER), ours.reason
        assert ours.told == library.told[: len(ours.told)]


class _Library:
    """What `h2` says of bytes, frame by frame: with a frame that it refuses it takes back all that came with it."""

    def __init__(self) -> None:
        self.told: list[Any] = []
        self.refused = False
        self._h2 = Patient(H2Configuration(client_side=False, header_encoding=None, normalize_inbound_headers=False))

    def read(self, data: bytes) -> None:
        for at, piece in enumerate((data[:24], *drafts.frames(data[24:]))):
            if at and len(piece) != 9 + int.from_bytes(piece[:3], "big"):
                # The library judges a frame's head alone, we a whole frame.
                return
            try:
                events = self._h2.receive_data(piece)
            except ProtocolError:
                self.refused = True
                return
            for event in events:
                self._tell(event)

    def _tell(self, event: Event) -> None:
        if isinstance(event, RequestReceived):
            self.told.append(("head", event.stream_id, _pairs(event.headers), event.stream_ended is not None))
        elif isinstance(event, DataReceived):
            ended = event.stream_ended is not None
            self.told.append(("content", event.stream_id, event.data, event.flow_controlled_length, ended))
        elif isinstance(event, TrailersReceived):
            self.told.append(("trailers", event.stream_id, _pairs(event.headers)))
        elif isinstance(event, WindowUpdated):
            self.told.append(("window", event.stream_id))
        elif type(event) in _TOLD:
            self.told.append((type(event).__name__, _TOLD[type(event)](event)))


class _Ours:
    """What `Framing` says of them."""

    closed = False

    def __init__(self) -> None:
        self.told: list[Any] = []
        self.refused = False
        self.reason = ""
        self._h2 = Framing(H2Configuration(client_side=False, header_encoding=None), self)

    def read(self, pieces: Sequence[bytes]) -> None:
        for piece in pieces:
            try:
                self._h2.receive(piece)
            except ProtocolError as exc:
                self.refused, self.reason = True, str(exc)
                return

    def take_head(self, stream: int, head: Head, *, end: bool) -> None:
        self.told.append(("head", stream, head.fields, end))

    def take_content(self, stream: int, data: bytes, credit: int, *, end: bool) -> None:
        self.told.append(("content", stream, data, credit, end))

    def take_trailers(self, stream: int, head: Head) -> None:
        self.told.append(("trailers", stream, head.fields))

    def take_window(self, stream: int) -> None:
        self.told.append(("window", stream))

    def take_event(self, event: Event) -> None:
        if type(event) in _TOLD:
            self.told.append((type(event).__name__, _TOLD[type(event)](event)))


def _check_answer(reply: Reply, heard: Heard, log: Seen) -> None:
    """Check that a client and the log have an answer as the model gave it."""
    if reply.kind == "reset":
        assert heard.reset is not None
        assert (log.status, log.aborted) == (500, True)
        return
    status = b"0" if reply.kind == "whole" else b"5"
    told = [*heard.fields, *heard.trailers]

    assert heard.ended
    assert dict(told)[b"grpc-status"] == status
    assert _own(told) == [*reply.fields, *reply.trailers]
    assert heard.body == (reply.body if reply.kind == "whole" else b"")
    assert (log.status, log.aborted) == (HTTP[int(status)], False)


def _own(fields: Sequence[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    """Give the fields that were drawn."""
    return [item for item in fields if item[0] in drafts.NAMES]


def check_frames(data: bytes) -> None:
    """Check what the proxy wrote to a client that a library could not follow."""
    decoder, over = Decoder(), set[int]()
    for frame in drafts.frames(data):
        stream = int.from_bytes(frame[5:9], "big")
        kind, flags = frame[3], frame[4]
        assert len(frame) == 9 + int.from_bytes(frame[:3], "big")
        assert kind in {0, 1, 3, 4, 6, 7, 8}
        if kind == 1:
            decoder.decode(frame[9:], raw=True)
        if kind in {0, 1}:
            assert stream not in over
        if kind == 3 or (kind in {0, 1} and flags & 1):
            over.add(stream)


def _pairs(headers: Any) -> list[tuple[bytes, bytes]]:  # noqa: ANN401 - the library's own kinds of pairs
    return [(name, value) for name, value in headers or ()]


PROMISES = (legal_calls_arrive_as_they_are, damaged_calls_end, frames_mean_what_the_library_says)
_STRICTER = ("a frame of more than",)
