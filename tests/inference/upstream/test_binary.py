"""When binary tensors are sent to a V2 server: when it says that it takes them, and as long as it does."""

from __future__ import annotations

import random
from contextlib import closing

import numpy as np
import orjson
import pytest

from inference.errors import PredictorRefused
from inference.upstream.binary import Binary
from inference.upstream.http import HttpAnswer
from inference.upstream.link import Link
from inference.upstream.settings import Protocol, UpstreamSettings
from tests.inference.upstream.scripted import Scripted, scripted

_SAYS: Scripted = (200, {}, b'{"extensions": ["binary_tensor_data"]}')
_ANSWER: Scripted = (
    200, {}, b'{"model_name": "m", "outputs": [{"name": "y", "shape": [1], "datatype": "FP64", "data": [1.5]}]}',
)  # fmt: skip


def _asked(*answers: Scripted, calls: int = 1) -> list[str]:
    """Predict so often; give what was sent, and what came of each call."""
    found = []
    with scripted(*answers) as script:
        settings = UpstreamSettings(host="127.0.0.1", port=script.port, protocol=Protocol.V2)
        with closing(Link(settings, random.Random(0))) as link:
            for _ in range(calls):
                try:
                    link.infer("m", {"x": np.array([1.0])}, {})
                    found.append("answered")
                except PredictorRefused as exc:
                    found.append(str(exc.status))
    kinds = {"application/octet-stream": "binary", "application/json": "JSON"}
    sent = [kinds[head["content-type"]] if body else path for path, head, body in script.asked]
    return [*sent, *found]


def _refusal(status: int) -> Scripted:
    return status, {}, orjson.dumps({"error": "no"})


def test_who_says_so_gets_binary_tensors() -> None:
    """Asked once for many calls."""
    assert _asked(_SAYS, _ANSWER, calls=2) == ["/v2", "binary", "binary", "answered", "answered"]


@pytest.mark.parametrize("status", [401, 403, 408, 429, 500, 503])
def test_what_says_nothing_of_the_server_is_not_kept(status: int) -> None:
    """One caller without a right, or one busy moment: JSON at first; a second later a call asks again."""
    told, now = [_refusal(status), _SAYS], [0.0]
    binary = Binary(lambda _head, _left_s: HttpAnswer(*told.pop(0)), lambda: now[0])
    found = []
    for passed in (0.0, 0.5, 1.0):
        now[0] = passed
        found.append((binary.taken({}, 1.0), len(told)))

    assert found == [(False, 1), (False, 1), (True, 0)]


@pytest.mark.parametrize("answer", [_refusal(404), _refusal(405), (200, {}, b'{"extensions": []}'), (200, {}, b"?")])
def test_who_does_not_say_so_gets_json(answer: Scripted) -> None:
    """That is kept for a minute."""
    assert _asked(answer, _ANSWER, calls=2) == ["/v2", "JSON", "JSON", "answered", "answered"]


@pytest.mark.parametrize("status", [400, 415])
def test_json_for_who_says_so_and_does_not(status: int) -> None:
    """Refused for its form alone, a call is answered all the same, and no further one is sent so."""
    found = _asked(_SAYS, _refusal(status), _ANSWER, calls=2)

    assert found == ["/v2", "binary", "JSON", "JSON", "answered", "answered"]


def test_refusals_of_the_callers_mistakes() -> None:
    """Where binary tensors were answered before, a 400 is the caller's own; else JSON is refused as well, and told."""
    proven = _asked(_SAYS, _ANSWER, _refusal(400), calls=2)
    unproven = _asked(_SAYS, _refusal(400), calls=1)
    other = _asked(_SAYS, _refusal(422), calls=1)

    assert proven == ["/v2", "binary", "binary", "answered", "400"]
    assert unproven == ["/v2", "binary", "JSON", "400"]
    assert other == ["/v2", "binary", "422"]


def test_what_the_server_says_is_asked_anew() -> None:
    """A server that was replaced by another is believed after a minute."""
    told = [_SAYS, _refusal(404), _refusal(500), _SAYS]
    times = iter([0.0, 0.0, 59.0, 61.0, 61.0, 122.0, 122.0, 123.0, 123.0, 124.0])
    binary = Binary(lambda _head, _left_s: HttpAnswer(*told.pop(0)), times.__next__)

    assert [binary.taken({}, 1.0) for _ in range(6)] == [True, True, False, False, True, True]
    assert not told
