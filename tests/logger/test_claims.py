"""Large bodies go to the store; what the store does not take is cut, marked and counted."""

from __future__ import annotations

from pathlib import Path

from logger.claims import ClaimCollector, ClaimTap
from logger.settings import TapSettings
from logger.tap import Seen, Tap, sampled
from streams.bindings import from_kafka
from streams.claims import FolderClaims, redeemed
from streams.events import Event
from tests.logger.test_outbox import seen

LARGE = 5_000


def exchange() -> Seen:
    """Make one with a large question and a small answer."""
    found = seen(size=LARGE)
    found.response.add(b"answer", LARGE)
    return found


def events(tap: Tap) -> list[Event]:
    """Give its events."""
    return [from_kafka(letter.headers, letter.value) for letter in tap.letters(exchange(), 0)]


def test_a_large_body_is_claimed(tmp_path: Path) -> None:
    """The event holds the place, the store the body; a small body stays where it is."""
    tap = ClaimTap(Tap(TapSettings()), FolderClaims(tmp_path), 1_000, "n/s")
    request, response = events(tap)

    assert not request.data
    assert request.text("dataref").startswith(f"file://{tmp_path}/n/s/2023-11-14/c-q-")
    assert redeemed(request, FolderClaims(tmp_path)).data == b"x" * LARGE
    assert (response.data, response.text("dataref")) == (b"answer", "")
    assert (tap.stored, tap.failed) == (1, 0)


def test_a_store_that_fails_costs_the_rest_of_the_body(tmp_path: Path) -> None:
    """The event is there, cut to what a record holds and marked."""
    (tmp_path / "file").touch()
    tap = ClaimTap(Tap(TapSettings()), FolderClaims(tmp_path / "file"), 1_000, "n/s")
    request, _ = events(tap)

    assert request.data == b"x" * 1_000
    assert request.text("truncated") == "true"
    assert (tap.stored, tap.failed) == (0, 1)
    shown = {metric.name: metric.samples[0].value for metric in ClaimCollector(tap).collect()}
    assert shown == {"sidelight_logger_claims_stored": 0, "sidelight_logger_claims_failed": 1}


def test_sampling_agrees_and_is_said() -> None:
    """One of N by the correlation id: about the right share, the same ones always; the events tell the rate."""
    names = [b"id-%d" % number for number in range(20_000)]
    chosen = [name for name in names if sampled(name, 8)]
    tap = Tap(TapSettings(sample=8))

    assert chosen == [name for name in names if sampled(name, 8)]
    # Five standard deviations of a binomial with 20,000 draws of 1/8.
    assert abs(len(chosen) - 2_500) < 5 * 47
    assert all(sampled(name, 1) for name in names)
    assert {event.text("sampledrate") for event in events(tap)} == {"8"}
    assert {event.text("sampledrate") for event in events(Tap(TapSettings()))} == {""}
