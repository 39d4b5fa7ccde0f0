"""What refused callers are told rests on what was measured."""

from __future__ import annotations

import pytest

from inference.batching.rate import Rate


def _steady(per_second: int, seconds: float, start: float = 100.0) -> tuple[Rate, float]:
    rate, now = Rate(), start
    for _ in range(round(per_second * seconds)):
        now += 1 / per_second
        rate.add(1, now)
    return rate, now


@pytest.mark.parametrize("seconds", [1.0, 5.0, 60.0])
def test_a_steady_rate_is_found(seconds: float) -> None:
    """Soon after the start as well as later."""
    rate, now = _steady(40, seconds)

    assert rate.per_second(now) == pytest.approx(40, rel=0.1)


def test_waiting_is_divided_by_the_rate() -> None:
    """A caller is told the time that what waits now should take, rounded up."""
    rate, now = _steady(40, 30)

    assert rate.retry_after_s(10, now) == 1
    assert rate.retry_after_s(200, now) in {5, 6}
    assert rate.retry_after_s(100_000, now) == 60


def test_a_model_that_stands_still_is_noticed() -> None:
    """When nothing is done any more, the time told grows."""
    rate, now = _steady(40, 30)

    assert rate.retry_after_s(80, now) == 2
    assert rate.retry_after_s(80, now + 10) > 8
    assert rate.retry_after_s(80, now + 60) == 60


def test_nothing_known_is_one_second() -> None:
    """Before the first call was done there is nothing to divide by."""
    assert Rate().per_second(5.0) == 0.0
    assert Rate().retry_after_s(1_000, 5.0) == 1
