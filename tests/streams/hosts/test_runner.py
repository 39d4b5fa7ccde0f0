"""The checkpoint rule before a broker that refuses: nothing stands still or is lost, and an end is a clear one."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence

import pytest

from streams.errors import NotNow, Refused, StreamError, Unavailable
from streams.hosts.runner import Abandoned, Held, Runner, RunnerSettings
from streams.publishers.memory import MemoryLog, MemoryPublisher
from streams.stage import Batch, Checkpoint, Effects, Record, StageFactory
from streams.state import MemoryStateStore
from tests.contracts.stages import Sums

LONG = "k" * 2_000


class Bench:
    """One runner over topics in memory."""

    def __init__(self, limits: dict[str, int] | None = None, topics: Sequence[str] = ("out", "dead")) -> None:
        self.log = MemoryLog(dict.fromkeys(topics, 1), limits or {})
        self.publisher = MemoryPublisher(self.log)
        self.store = MemoryStateStore()
        self.waits: list[float] = []
        self.before_wait: Callable[[], bool] = lambda: True
        self.runner = self.opened()

    def opened(self, factory: StageFactory = lambda p: Sums(p, "out")) -> Runner:
        """Give a fresh runner."""
        settings = RunnerSettings(stage="sums", deadletter="dead", publish_timeout_s=0.0)
        runner = Runner(0, factory, self.publisher, self.store, settings, self._wait)
        runner.open()
        return runner

    def _wait(self, seconds: float) -> bool:
        self.waits.append(seconds)
        return self.before_wait()

    def sums(self) -> list[bytes | None]:
        """Give what was put out."""
        return [record.value for record in self.log.records("out")]


def records(*pairs: tuple[str, str]) -> list[Record]:
    """Lay keys and numbers into the input."""
    return [
        Record("in", 0, offset, key.encode(), value.encode())
        for offset, (key, value) in enumerate(pairs)
    ]  # fmt: skip


def test_a_refused_output_becomes_a_dead_letter_and_the_rest_goes_on() -> None:
    """The output that is too large is kept with its reason; its neighbours arrive, and the position moves on."""
    bench = Bench({"out": 1_500})
    bench.runner.take(records(("a", "1"), (LONG, "5"), ("a", "2")))
    (letter,) = bench.log.records("dead")
    marks = dict(letter.headers)

    assert [b'"sum": 1' in (value or b"") for value in bench.sums()] == [True, False]
    assert len(bench.sums()) == 2
    assert LONG.encode() in (letter.value or b"")
    assert (marks["sl_reason"], marks["sl_target"], marks["sl_offset"], marks["sl_last_offset"]) == (
        b"refused", b"out", b"0", b"2",
    )  # fmt: skip
    assert (bench.runner.position, bench.runner.counters.refused) == (3, 1)
    assert bench.waits == []


def test_the_state_has_what_was_refused() -> None:
    """The input of a refused output had its effect: later sums go on from it, also after a restart."""
    bench = Bench({"out": 1_500})
    bench.runner.take(records(("a", "1"), (LONG, "5")))
    again = bench.opened()
    again.take(records(("a", "1"), (LONG, "5"), (LONG, "2")))

    assert [b'"sum": 7' in (letter.value or b"") for letter in bench.log.records("dead")] == [False, True]


def test_what_the_dead_letters_refuse_is_named_there() -> None:
    """A letter that is too large itself goes without content; the marks say where the input lies."""
    bench = Bench({"out": 1_500, "dead": 1_500})
    bench.runner.take(records((LONG, "5")))
    (letter,) = bench.log.records("dead")
    marks = dict(letter.headers)

    assert letter.value is None
    assert (marks["sl_topic"], marks["sl_partition"], marks["sl_offset"]) == (b"in", b"0", b"0")
    assert b"without its content" in (marks["sl_refused"] or b"")
    assert bench.runner.position == 1


def test_without_dead_letters_the_runner_stops_and_says_so() -> None:
    """When nothing can be kept anywhere, the error names topic and reason, and the position stays."""
    bench = Bench({"out": 1_500}, topics=("out",))
    with pytest.raises(StreamError, match="topic 'dead' refuses even a dead letter without content: unknown topic"):
        bench.runner.take(records((LONG, "5")))

    assert bench.runner.position is None
    assert bench.store.load(0) is None


def test_an_unknown_topic_stops_no_partition() -> None:
    """Outputs for a topic that does not exist are dead letters, each with an id of its own."""
    bench = Bench(topics=("dead",))
    bench.runner.take(records(("a", "1"), ("b", "2"), ("a", "3")))
    letters = bench.log.records("dead")

    assert len({dict(letter.headers)["sl_id"] for letter in letters}) == 3
    assert bench.runner.counters.refused == 3
    assert bench.runner.position == 3


def test_a_refusal_in_silence_is_kept_too() -> None:
    """What a silent partition led to is a dead letter without offsets."""
    bench = Bench(topics=("dead",))
    bench.runner.take((), idle_ms=5)
    (letter,) = bench.log.records("dead")

    assert letter.value == b'{"id": "idle-0"}'
    assert "sl_offset" not in dict(letter.headers)


def test_poison_that_is_too_large_for_the_dead_letters_is_named_there() -> None:
    """A record that the stage cannot bear and the dead-letter topic cannot hold stops nobody either."""
    bench = Bench({"dead": 1_500})
    bench.runner.take(records(("a", "1"), ("a", "poison" * 500), ("a", "2")))
    (letter,) = bench.log.records("dead")
    marks = dict(letter.headers)

    assert letter.value is None
    assert (marks["sl_reason"], marks["sl_offset"]) == (b"poison", b"1")
    assert (bench.runner.counters.poisoned, bench.runner.counters.refused) == (1, 1)
    assert len(bench.sums()) == 2


def test_a_broker_that_is_away_is_waited_for() -> None:
    """What may pass is tried again with growing pauses, up to a limit; nothing becomes a dead letter."""
    bench = Bench()
    bench.publisher.fail = Unavailable("away")

    def back() -> bool:
        if len(bench.waits) == 8:
            bench.publisher.fail = None
        return False

    bench.before_wait = back
    bench.runner.take(records(("a", "1")))

    assert bench.waits == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0]
    assert len(bench.sums()) == 1
    assert bench.log.records("dead") == []
    assert bench.runner.counters.retries == 8


def test_a_refused_checkpoint_is_not_passed_over() -> None:
    """Going on without the state would do everything twice after a restart: the runner waits until it is taken."""
    bench = Bench()
    store = _Stubborn(3)
    bench.store = store
    bench.before_wait = lambda: False
    runner = bench.opened()
    runner.take(records(("a", "1")))

    assert len(bench.waits) == 3
    assert runner.position == 1
    assert len(bench.sums()) == 1


@pytest.mark.parametrize("after", range(5))
def test_what_a_stage_needs_is_waited_for(after: int) -> None:
    """A stage that cannot work now gets its state and the same records again until it can, amid poison, too."""
    bench = Bench()
    needs = _Needs(4, after)
    runner = bench.opened(lambda p: _Needing(p, "out", needs))
    said: list[Held] = []

    def wait() -> bool:
        said.extend(runner.held())
        return False

    bench.before_wait = wait
    runner.take(records(("a", "1"), ("a", "poison"), ("a", "2")))
    runner.take([Record("in", 0, 3, b"a", b"4")])

    assert bench.waits == [0.1, 0.2, 0.4, 0.8]
    assert [json.loads(value or b"")["sum"] for value in bench.sums()] == [1, 3, 7]
    assert len(bench.log.records("dead")) == 1
    assert (runner.counters.retries, runner.counters.poisoned) == (4, 1)
    assert said == [Held("stage", "partition 0: cannot take its records yet: away")] * 4
    assert runner.held() == []


def test_who_has_waited_for_poison_waits_no_longer() -> None:
    """What the stage needed is there again, and then it cannot bear the record: nothing is waited for any more."""
    bench = Bench()
    needs = _Needs(1)
    bench.before_wait = lambda: False
    runner = bench.opened(lambda p: _Asking(p, "out", needs))
    runner.take(records(("a", "poison")))

    assert (bench.waits, runner.counters.poisoned) == ([0.1], 1)
    assert runner.held() == []


def test_a_stage_that_waits_gives_up_when_the_host_stops() -> None:
    """What could not be worked on stays undone."""
    bench = Bench()
    runner = bench.opened(lambda p: _Needing(p, "out", _Needs(99)))
    with pytest.raises(Abandoned):
        runner.take(records(("a", "1")))

    assert (runner.position, bench.sums(), bench.log.records("dead")) == (None, [], [])


def test_a_stage_may_be_ahead_of_what_is_delivered() -> None:
    """Worked is not done: the position follows what is delivered, and poison costs only itself, also in between."""
    bench = Bench()
    worked = [bench.runner.work([record]) for record in records(("a", "1"), ("a", "2"), ("a", "poison"), ("a", "4"))]

    assert bench.sums() == []
    assert bench.runner.position is None
    for place, batch in enumerate(worked, 1):
        assert batch is not None
        bench.runner.deliver(batch)
        assert bench.runner.position == place
    assert [json.loads(value or b"")["sum"] for value in bench.sums()] == [1, 3, 7]
    assert bench.opened().position == 4


def test_a_host_that_stops_ends_the_wait() -> None:
    """Told to give up, the runner does so at once and nothing counts as done."""
    bench = Bench()
    bench.publisher.held = True
    with pytest.raises(Abandoned):
        bench.runner.take(records(("a", "1")))

    assert bench.runner.position is None
    assert bench.store.load(0) is None


class _Needs:
    """Something that is away for some times, after it was there for some."""

    def __init__(self, times: int, after: int = 0) -> None:
        self._away = range(after, after + times)
        self._asked = -1

    def ask(self) -> None:
        """Be away, or not."""
        self._asked += 1
        if self._asked in self._away:
            raise NotNow("away")


class _Needing(Sums):
    """A stage that needs something, and learns half-way that it is away."""

    def __init__(self, partition: int, topic: str, needs: _Needs) -> None:
        super().__init__(partition, topic)
        self._needs = needs

    def process(self, batch: Batch) -> Effects:
        """Take a record, then ask for it."""
        first, rest = batch.records[:1], batch.records[1:]
        found = super().process(Batch(batch.partition, first)).outputs
        self._needs.ask()
        return Effects(found + super().process(Batch(batch.partition, rest, batch.idle_ms)).outputs)


class _Asking(Sums):
    """A stage that asks for what it needs before it looks at its records."""

    def __init__(self, partition: int, topic: str, needs: _Needs) -> None:
        super().__init__(partition, topic)
        self._needs = needs

    def process(self, batch: Batch) -> Effects:
        """Ask, then work."""
        self._needs.ask()
        return super().process(batch)


class _Stubborn(MemoryStateStore):
    """A store whose broker refuses the first checkpoints."""

    def __init__(self, times: int) -> None:
        super().__init__()
        self._left = times

    def save(self, partition: int, checkpoint: Checkpoint) -> None:
        """Refuse, or keep."""
        self._left -= 1
        if self._left >= 0:
            raise Refused("the state topic takes 1 MiB")
        super().save(partition, checkpoint)
