"""Drawn HTTP/2 connections of gRPC clients: legal ones, odd in all that may be odd, and damaged ones."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.settings import SettingCodes, Settings
from hypothesis import strategies as st

from logger.grpc.methods import INFER, SERVICE, STREAM
from tests.logger.grpc.raw import Patient

Pairs = tuple[tuple[bytes, bytes], ...]
NUMBER = b"x-number"
"""A field that tells calls apart."""


@dataclass(frozen=True, slots=True)
class Draft:
    """A call as its client means it, or as the model read it."""

    path: bytes
    fields: Pairs
    body: bytes
    trailers: Pairs = ()


@dataclass(frozen=True, slots=True)
class Reply:
    """How the model answers: at once or after the request, with content or without, or not at all."""

    body: bytes
    fields: Pairs = ()
    trailers: Pairs = ()
    kind: str = "whole"


@dataclass(frozen=True, slots=True)
class Stream:
    """Calls, the bytes of a client's connection, where they are cut, and who has written them."""

    drafts: tuple[Draft, ...]
    data: bytes
    cuts: tuple[int, ...]
    client: H2Connection
    window: int

    def pieces(self) -> list[bytes]:
        """Give the bytes in pieces."""
        return cut(self.data, self.cuts)


def connection(*, client_side: bool, settings: dict[int, int]) -> H2Connection:
    """Begin a connection of the library's."""
    config = H2Configuration(
        client_side=client_side, header_encoding=None, validate_outbound_headers=False,
        normalize_outbound_headers=False, normalize_inbound_headers=False,
    )  # fmt: skip
    found = Patient(config)
    found.local_settings = Settings(client=client_side, initial_values=settings)  # type: ignore[arg-type] # codes are integers
    found.initiate_connection()
    return found


def cut(data: bytes, cuts: Sequence[int]) -> list[bytes]:
    """Give bytes in pieces."""
    places = [0, *sorted({place % (len(data) + 1) for place in cuts}), len(data)]
    return [data[start:end] for start, end in pairwise(places) if start < end]


def frames(data: bytes) -> Iterator[bytes]:
    """Give the frames of bytes, and what is left over."""
    at = 0
    while len(data) - at >= 9:
        end = at + 9 + int.from_bytes(data[at : at + 3], "big")
        yield data[at:end]
        at = end
    if at < len(data):
        yield data[at:]


def in_more_frames(frame: bytes, size: int) -> bytes:
    """Give a head of one frame in several, when it is one."""
    body = frame[9:]
    # Neither padding nor priority: they belong to the first frame alone.
    if frame[3] != 1 or frame[4] & 0x28 or len(body) <= size:
        return frame
    pieces = [body[at : at + size] for at in range(0, len(body), size)]
    found = b""
    for number, piece in enumerate(pieces):
        flags = (frame[4] & 0x1 if not number else 0) | (0x4 if number + 1 == len(pieces) else 0)
        found += len(piece).to_bytes(3, "big") + bytes([1 if not number else 9, flags]) + frame[5:9] + piece
    return found


NAMES = (b"k", b"x-a", b"x-b", b"traceparent", b"own-bin", b"te-x", b"user-agent")
names = st.sampled_from(NAMES)
values = st.sampled_from([b"", b"1", b"a,b", b"\xff\xfe", b"v" * 200]) | st.binary(max_size=12).map(
    lambda raw: bytes(byte for byte in raw if byte not in b"\0\r\n").strip(b" \t")
)
fields = st.lists(st.tuples(names, values), max_size=4).map(tuple)
paths = st.sampled_from([INFER.encode(), STREAM.encode(), (SERVICE + "Other").encode()])
messages = st.lists(st.binary(max_size=40) | st.just(b"m" * 300), max_size=3).map(
    lambda found: b"".join(b"\0" + len(item).to_bytes(4, "big") + item for item in found)
)
replies = st.builds(Reply, messages, fields, fields, st.sampled_from(["whole", "whole", "whole", "head", "reset"]))
models = st.fixed_dictionaries(
    {},
    optional={
        int(SettingCodes.INITIAL_WINDOW_SIZE): st.sampled_from([70_000, 1 << 20]),
        int(SettingCodes.HEADER_TABLE_SIZE): st.sampled_from([0, 100, 4_096]),
    },
)


@st.composite
def streams(draw: st.DrawFn) -> Stream:
    """Draw a connection: calls side by side, cut, padded and framed in every legal way."""
    window = draw(st.sampled_from([0, 1, 100, 65_535]))
    client = connection(client_side=True, settings={int(SettingCodes.INITIAL_WINDOW_SIZE): window})
    drafts: list[Draft] = []
    waiting: list[deque[Callable[[], None]]] = []
    for number in range(draw(st.integers(1, 5))):
        draft = Draft(draw(paths), draw(fields), draw(messages), draw(st.just(()) | fields))
        drafts.append(draft)
        waiting.append(deque(_steps(client, draft, number, draw)))
    order = draw(st.lists(st.integers(0, 4), max_size=20))
    # Streams begin in the order of their numbers, whatever comes between.
    for number in range(len(waiting)):
        waiting[number].popleft()()
        for pick in order[number * 4 : number * 4 + 4]:
            if pick <= number and waiting[pick]:
                waiting[pick].popleft()()
    for steps in waiting:
        while steps:
            steps.popleft()()
    preface, rest = (data := client.data_to_send())[:24], data[24:]
    size = draw(st.sampled_from([1, 10, 100_000]))
    # Not in more frames than are taken for one head.
    text = preface + b"".join(in_more_frames(item, max(size, len(item) // 40 + 1)) for item in frames(rest))
    return Stream(tuple(drafts), text, tuple(draw(st.lists(st.integers(0, 4_000), max_size=8))), client, window)


def _steps(client: H2Connection, draft: Draft, number: int, draw: st.DrawFn) -> Iterator[Callable[[], None]]:
    """Give what sends a call, step by step."""
    ending = draw(st.sampled_from(["data", "empty"])) if not draft.trailers else "trailers"
    pieces = cut(draft.body, draw(st.lists(st.integers(0, 300), max_size=3)))
    priority = draw(st.none() | st.integers(1, 256))
    padding = draw(st.none() | st.integers(0, 20))
    streams_: list[int] = []
    head = [
        (b":method", b"POST"), (b":scheme", b"http"), (b":path", draft.path), (b":authority", b"h"),
        (b"te", b"trailers"), (b"content-type", b"application/grpc"), (NUMBER, b"%d" % number), *draft.fields,
    ]  # fmt: skip

    def begin() -> None:
        streams_.append(client.get_next_available_stream_id())
        done = not pieces and ending == "data"
        client.send_headers(streams_[0], head, end_stream=done, priority_weight=priority)

    yield begin
    for place, piece in enumerate(pieces):
        last = place + 1 == len(pieces) and ending == "data"
        yield lambda piece=piece, last=last: client.send_data(  # type: ignore[misc] # a lambda's defaults have no types
            streams_[0], piece, end_stream=last, pad_length=padding
        )
    if ending == "empty":
        yield lambda: client.end_stream(streams_[0])
    elif ending == "trailers":
        yield lambda: client.send_headers(streams_[0], list(draft.trailers), end_stream=True)


@st.composite
def damaged(draw: st.DrawFn) -> Stream:
    """Draw a connection and damage it: bytes replaced, put in, taken out; frames repeated, swapped, made up."""
    stream = draw(streams())
    found = [stream.data[:24], *frames(stream.data[24:])]
    for _ in range(draw(st.integers(1, 6))):
        at = draw(st.integers(1, len(found)))
        kind = draw(st.integers(0, 5))
        if kind == 0:
            found.insert(at, draw(_made_up))
        elif kind == 1 and at < len(found):
            found.insert(draw(st.integers(1, len(found))), found[at])
        elif kind == 2 and len(found) > 2:
            del found[min(at, len(found) - 1)]
        elif kind == 3 and at < len(found):
            other = draw(st.integers(1, len(found) - 1))
            found[at], found[other] = found[other], found[at]
        else:
            at = min(at, len(found) - 1)
            frame = bytearray(found[at])
            place = draw(st.integers(0, len(frame)))
            frame[place : place + draw(st.integers(0, 2))] = draw(st.binary(max_size=3))
            found[at] = bytes(frame)
    return Stream(stream.drafts, b"".join(found), stream.cuts, stream.client, stream.window)


def _frame(kind: int, flags: int, stream: int, body: bytes) -> bytes:
    return len(body).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + body


_made_up = st.builds(
    _frame,
    st.integers(0, 10) | st.integers(0, 255),
    st.sampled_from([0, 1, 4, 5, 8, 0x20, 0x25]) | st.integers(0, 255),
    st.integers(0, 12) | st.just(0x80000001),
    st.sampled_from([
        b"", b"\0\0\0\1", b"\x7f\xff\xff\xff", b"\0\0\0\0", b"12345678", b"\0\4\0\0\0\0", b"\0\4\x7f\xff\xff\xff",
        b"\0\5\0\xff\xff\xff", b"\0\1\0\0\0\0", b"\0\0\0\0\0\0\0\0\1", b"\x82", b"\x88", b"\x3f\xe1\x1f",
        b"\xff\xff\xff\xff\xff\xff",
        b"\x83\x86\x84\x41\x01h\x5f\x10application/grpc", b"\x40\x01a\x01b", b"\x10\x01A\x01b", b"\0\x01a\x02b ",
    ]) | st.binary(max_size=12),
)  # fmt: skip
