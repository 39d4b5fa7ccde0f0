"""Which models stay in memory."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from inference.residency import Residents, Unload
from tests.inference.serving import eventually

LIMIT = 10_000
KEPT = int(LIMIT * 0.97)
_WRITE = """
from inference.residency import resident_bytes
before = resident_bytes()
ballast = bytearray(b"x") * (64 << 20)
print(before, resident_bytes() - before)
"""


class Process:
    """A process whose memory is what its models really hold, which may differ from what they were thought to."""

    def __init__(self, base: int = 1000, factor: float = 1.0) -> None:
        self.base, self.factor = base, factor
        self.held: dict[str, int] = {}
        self.in_use: set[str] = set()
        self.now = 0.0
        self.most = 0
        self.unloading: Callable[[str], None] = lambda _name: None
        """Called while a model unloads, when its memory is free."""
        self.residents: Residents[str] = Residents(
            LIMIT, self._evict, measure=self.measure, trim=lambda: None, clock=lambda: self.now
        )

    def measure(self) -> int:
        """Add up what is held."""
        return self.base + int(self.factor * sum(self.held.values()))

    def load(self, name: str, weight: int, give_up: float = 0.0) -> bool:
        """Load a model of a weight; False when there is no room."""
        if not self.residents.reserve(weight, give_up):
            return False
        self.held[name] = weight
        self.residents.settle(name, weight, weight)
        self.most = max(self.most, self.measure())
        self.now += 1.0
        self.residents.steer()
        return True

    def _evict(self, name: str) -> Unload | None:
        return None if name in self.in_use else partial(self._unload, name)

    def _unload(self, name: str) -> None:
        del self.held[name]
        self.unloading(name)


def test_the_least_recently_used_goes_first() -> None:
    """What was used last stays; what was not used for longest makes room."""
    process = Process()
    for name in "abcd":
        assert process.load(name, 2000)
    process.residents.used("a")
    assert process.load("e", 2000)
    assert process.load("f", 2000)

    assert set(process.held) == {"a", "d", "e", "f"}
    assert process.residents.evictions == 2
    assert process.most <= LIMIT


def test_a_model_in_use_never_goes() -> None:
    """Loads pass over models in use; when all are, there is no room until the deadline."""
    process = Process()
    for name in "abcd":
        process.load(name, 2000)
    process.in_use = {"a", "b"}
    process.load("e", 2000)
    process.in_use = set(process.held)

    assert set(process.held) == {"a", "b", "d", "e"}
    assert not process.load("f", 2000)
    assert set(process.held) == {"a", "b", "d", "e"}


def test_a_waiting_load_gets_the_room_of_the_next_idle_model() -> None:
    """A load that waits is served as soon as a model is no longer in use, ahead of keeping that model."""
    process = Process()
    for name in "abcd":
        process.load(name, 2000)
    process.in_use = set(process.held)
    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(process.load, "e", 2000, 1e9)
        until = threading.Event()
        while process.residents.shortage.short == 0:
            assert not until.wait(0.001)
        process.in_use.discard("c")
        process.residents.shortage.idle()
        served = waiting.result(60)

    assert served
    assert set(process.held) == {"a", "b", "d", "e"}


def test_a_slow_unload_holds_up_nobody_but_who_needs_the_room() -> None:
    """While a model unloads, uses end, models are known and others are loaded; no second one goes for the same room."""
    process = Process()
    for name in "abcd":
        process.load(name, 2000)
    going, leave = threading.Event(), threading.Event()

    def unloading(_name: str) -> None:
        going.set()
        assert leave.wait(30)

    process.unloading = unloading
    with ThreadPoolExecutor(2) as threads:
        first = threads.submit(process.load, "e", 1900, 1e9)
        assert going.wait(30)
        process.residents.shortage.idle()
        process.residents.used("b")
        small = threads.submit(process.load, "f", 100, 1e9)
        eventually(lambda: process.residents.shortage.short == 1 or small.done(), "the other load waits, or has room")
        others = set(process.held) - {"f"}
        leave.set()

        assert first.result(30)
        assert small.result(30)
    assert others == {"b", "c", "d"}
    assert set(process.held) == {"b", "c", "d", "e", "f"}
    assert process.residents.evictions == 1


def test_what_is_on_its_way_out_is_not_made_up_for_by_others() -> None:
    """The process is above its bound until a model has unloaded; who looks meanwhile sends no second one away."""
    process = Process()
    for name in "abcd":
        process.load(name, 2000)
    process.base += 3000
    process.now += 1.0
    going, leave = threading.Event(), threading.Event()

    def unloading(_name: str) -> None:
        going.set()
        assert leave.wait(30)

    process.unloading = unloading
    with ThreadPoolExecutor(1) as threads:
        first = threads.submit(process.residents.steer)
        assert going.wait(30)
        process.now += 1.0
        process.residents.steer()
        leave.set()
        first.result(30)

    assert process.residents.evictions == 1
    assert set(process.held) == {"b", "c", "d"}


def test_estimates_that_are_too_low_are_corrected() -> None:
    """Models that really hold four times their estimate: the process settles below the bound, and goes on loading."""
    process = Process(factor=4.0)
    for number in range(2000):
        assert process.load(f"m{number}", 20)

    assert process.measure() <= LIMIT
    # No spiral either: most of the room is used.
    assert process.measure() > LIMIT / 2


def test_room_that_is_left_is_used_again() -> None:
    """When the process shrinks, because what else it held is gone, more models stay."""
    process = Process(base=6000)
    for number in range(300):
        process.load(f"m{number}", 20)
    before = len(process.held)
    process.base = 1000
    for number in range(3000):
        process.load(f"n{number}", 20)

    assert len(process.held) > 1.5 * before
    assert process.most <= LIMIT


def test_a_model_beyond_the_bound_is_refused() -> None:
    """A model that would not fit alone is refused at once, and the next small one is served."""
    process = Process()

    assert not process.load("huge", LIMIT)
    assert process.load("small", 100)


def test_without_a_bound_everything_stays() -> None:
    """No bound: nothing is measured, nothing goes."""

    def evict(name: str) -> None:
        raise AssertionError(f"{name} went")

    residents: Residents[str] = Residents(0, evict, measure=lambda: 1 << 60)
    for number in range(100):
        assert residents.reserve(1 << 50, 0.0)
        residents.settle(str(number), 1 << 50, 1 << 50)
        residents.steer()

    assert len(residents) == 100


def test_the_measure_is_the_process() -> None:
    """The measure is of the process that asks, one in which nobody else frees memory, and grows by what is written."""
    done = subprocess.run([sys.executable, "-c", _WRITE], capture_output=True, text=True, check=True, timeout=120)
    before, grown = map(int, done.stdout.split())

    assert before > 1 << 20
    assert grown > 32 << 20
