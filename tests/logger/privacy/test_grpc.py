"""Rules and gRPC: a call is read first, and then cleaned as what it is."""

from __future__ import annotations

import json
import struct

from logger.grpc import methods
from logger.grpc.tap import GrpcTap
from logger.tap import Seen
from streams.bindings import from_kafka
from streams.events import INFERENCE_HEADER_LENGTH, WITHHELD, Event
from tests.logger.grpc import oip
from tests.logger.privacy.making import AT, LIMIT, private, rules

GRPC = (b"content-type", b"application/grpc")
MASK = rules({"tensor": "w", "action": "mask"}, {"tensor": "x", "action": "bucket", "width": 0.75})


def call(request: bytes, path: str = methods.INFER) -> list[Event]:
    """Give the events of a gRPC call after the rules."""
    seen = Seen("c1", "POST", path, [GRPC], AT, [GRPC, (b"grpc-status", b"0")], 200)
    for body, message in ((seen.request, request), (seen.response, oip.response())):
        body.add(struct.pack(">BI", 0, len(message)) + message, LIMIT)
    tap = GrpcTap(private(MASK), LIMIT)
    return [from_kafka(letter.headers, letter.value) for letter in tap.letters(seen, AT)]


def test_tensors_of_grpc_calls_are_covered() -> None:
    """Raw and typed contents alike: the texts are masked, the numbers in buckets, the answer as it was."""
    for raw in (True, False):
        request, response = call(oip.request(raw=raw))
        data, head = request.data or b"", request.number(INFERENCE_HEADER_LENGTH) or 0

        assert b"ab" not in data
        assert struct.pack("<2f", 0.75, 0.75) in data[head:]
        assert b"\x03\x00\x00\x00***" in data[head:]
        assert [item["name"] for item in json.loads(data[:head])["inputs"]] == ["x", "w"]
        assert response.text("redacted") == "true"


def test_what_is_no_such_call_is_withheld() -> None:
    """Bytes of another service, and messages that do not parse, hold what no rule can find."""
    for events in (call(b"\xff\xffab"), call(oip.request(), "/other.Service/Call")):
        assert events[0].text(WITHHELD) == "not-json"
