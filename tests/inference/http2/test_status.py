"""gRPC's status, its spelling and its HTTP counterpart."""

from __future__ import annotations

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference.http2 import status


def test_every_status_has_a_counterpart() -> None:
    """Whatever grpc knows has an HTTP status, and only OK's is a success."""
    codes = [code.value[0] for code in grpc.StatusCode]

    assert set(codes) == set(status.HTTP)
    assert [code for code in codes if status.HTTP[code] < 400] == [0]


@pytest.mark.parametrize("value", [None, b"", b"x", b"-1", b"17", b"9999999999"])
def test_a_status_that_makes_no_sense_is_a_failure(value: bytes | None) -> None:
    """Without a status, or with an unknown one, nobody may take a call for good."""
    assert status.http_status(value) == 500


@given(st.text(max_size=50))
def test_messages_survive_their_spelling(text: str) -> None:
    """What is written into a trailer is printable ASCII, and is read back."""
    spelt = dict(status.trailers(2, text))[b"grpc-message"]

    assert all(0x20 <= byte <= 0x7E for byte in spelt)
    assert status.message_of(spelt) == text


@pytest.mark.parametrize(
    ("value", "seconds"),
    [(b"5S", 5.0), (b"100m", 0.1), (b"2H", 7200.0), (b"3M", 180.0), (b"7u", 7e-6), (b"8n", 8e-9)],
)
def test_timeouts(value: bytes, seconds: float) -> None:
    """Every unit is read."""
    assert status.seconds_of(value) == pytest.approx(seconds)


@pytest.mark.parametrize("value", [None, b"", b"5", b"S", b"123456789S", b"1s"])
def test_what_is_no_timeout(value: bytes | None) -> None:
    """Everything else is none."""
    assert status.seconds_of(value) is None
