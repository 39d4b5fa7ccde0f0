"""Loading, reloading and unloading while predictions go on."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Self

import numpy as np
import pytest
from numpy.typing import NDArray

from inference.errors import ModelLoadFailed, ModelNotFound, ModelNotReady
from inference.repository import IndexEntry, Loaded, Repository, State
from inference.runtime import Arrays, Runtime, Source
from inference.settings import ModelSettings, RepositorySettings
from tests.inference.serving import eventually


class Counted(Runtime):
    """Counts how many threads are inside, and remembers being unloaded."""

    def __init__(self, *, thread_safe: bool = True) -> None:
        self.thread_safe = thread_safe
        self.inside = 0
        self.most = 0
        self.unloaded = 0

    @classmethod
    def load(cls, source: Source) -> Self:
        """Take anything."""
        del source
        return cls()

    def predict(self, inputs: Arrays) -> dict[str, NDArray[Any]]:
        """Note how many are inside."""
        self.inside += 1
        self.most = max(self.most, self.inside)
        threading.Event().wait(0.002)
        self.inside -= 1
        return dict(inputs)

    def unload(self) -> None:
        """Remember it."""
        assert self.inside == 0
        self.unloaded += 1

    @classmethod
    def example(cls, directory: Path) -> dict[str, NDArray[Any]]:
        """Give one row."""
        del directory
        return {"x": np.ones((1, 1))}


def _repository(*runtimes: Runtime) -> Repository:
    remaining = list(runtimes)
    return Repository({"m": lambda: Loaded(remaining.pop(0), str(len(runtimes) - len(remaining)))})


def _failing() -> Loaded:
    raise ModelLoadFailed("no such file")


def test_unknown_and_unloaded_models() -> None:
    """Unknown names are not found; known ones are not ready until they are loaded."""
    repository = _repository(Counted())

    with pytest.raises(ModelNotFound, match="other"):
        repository.load("other")
    with pytest.raises(ModelNotReady), repository.using("m"):
        pass
    assert repository.index() == [IndexEntry("m", "", State.UNAVAILABLE, "not loaded")]


def test_versions() -> None:
    """A model answers under its own version only."""
    repository = _repository(Counted())
    repository.load("m")

    assert repository.loaded("m", "1").version == "1"
    with pytest.raises(ModelNotFound, match="Model with name m and version 2 does not exist"):
        repository.loaded("m", "2")
    with pytest.raises(ModelNotFound, match="version 2"), repository.using("m", "2"):
        pass


@pytest.mark.parametrize("replace", [Repository.load, Repository.unload])
def test_unloaded_after_the_last_prediction(replace: Callable[[Repository, str], None]) -> None:
    """A replaced or unloaded model lives until its predictions in progress have ended."""
    first, second = Counted(), Counted()
    repository = _repository(first, second)
    repository.load("m")
    with repository.using("m") as one, repository.using("m") as other:
        replace(repository, "m")

        assert one.runtime is other.runtime is first
        assert first.unloaded == 0
    # On a thread of its own: whoever predicted last does not wait for it.
    eventually(lambda: first.unloaded == 1, "it is unloaded")
    assert second.unloaded == 0


def test_failed_load_says_why() -> None:
    """A failed first load leaves the model unavailable, with the reason in the index."""
    repository = Repository({"m": _failing})
    with pytest.raises(ModelLoadFailed):
        repository.load("m")

    assert repository.index() == [IndexEntry("m", "", State.UNAVAILABLE, "ModelLoadFailed: no such file")]


@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt])
def test_no_model_ends_the_threads_that_load(error: type[BaseException]) -> None:
    """Whatever it raises in them: whoever waits is told, and other models are loaded."""

    def leaving() -> Loaded:
        raise error("of its own")

    sources: dict[str, Callable[[], Loaded]] = {"m": leaving, "other": lambda: Loaded(Counted(), "1")}
    repository = Repository(sources, RepositorySettings(on_demand=True, loads=1))
    with pytest.raises(ModelNotReady, match=f"{error.__name__}: of its own"), repository.using("m"):
        pass

    with repository.using("other") as loaded:
        assert loaded.version == "1"
    repository.close()


def test_one_thread_at_a_time_where_declared() -> None:
    """A runtime that is not thread-safe is never entered by two threads; a thread-safe one is."""
    alone, shared = Counted(thread_safe=False), Counted()
    for runtime in (alone, shared):
        repository = _repository(runtime)
        repository.load("m")
        together = threading.Barrier(4)

        def predict(repository: Repository = repository, together: threading.Barrier = together) -> None:
            together.wait(60)
            for _ in range(5):
                with repository.using("m") as loaded:
                    loaded.runtime.predict({})

        with ThreadPoolExecutor(4) as threads:
            for done in [threads.submit(predict) for _ in range(4)]:
                done.result()

    assert alone.most == 1
    assert shared.most > 1


def test_reloads_under_traffic() -> None:
    """Predictions never meet an unloaded model while it is replaced again and again, and each is unloaded once."""
    runtimes = [Counted() for _ in range(30)]
    repository = _repository(*runtimes)
    repository.load("m")
    stop, together = threading.Event(), threading.Barrier(4)

    def predict() -> int:
        count = 0
        together.wait(60)
        while not count or not stop.is_set():
            with repository.using("m") as loaded:
                assert loaded.runtime.unloaded == 0  # type: ignore[attr-defined]
                count += 1
        return count

    with ThreadPoolExecutor(3) as threads:
        calls = [threads.submit(predict) for _ in range(3)]
        together.wait(60)
        for _ in runtimes[1:]:
            repository.load("m")
        stop.set()
        counts = [call.result() for call in calls]
    repository.close()

    assert all(counts)
    eventually(lambda: all(runtime.unloaded for runtime in runtimes), "all are unloaded")
    assert [runtime.unloaded for runtime in runtimes] == [1] * 30


def test_settings_are_those_of_the_last_call_that_succeeded() -> None:
    """Two calls load one model at once, and the first fails: the second's settings hold, for later loads, too."""
    attempts: list[int] = []

    def source() -> Loaded:
        attempts.append(len(attempts))
        if len(attempts) == 2:
            second.start()
            # It is in the midst of the same work, or waits for its turn to begin it.
            eventually(lambda: "refresh" in set(_functions(second)), "the second call")
            raise ModelLoadFailed("no such file")
        return Loaded(Counted(), "1", ModelSettings(max_batch=8))

    repository = Repository({"m": source})
    repository.load("m", {"max_batch": 7})
    second = threading.Thread(target=repository.load, args=("m", {"max_batch": 3}))
    with pytest.raises(ModelLoadFailed):
        repository.load("m", {"max_batch": 5})
    second.join(60)
    loaded = repository.loaded("m").settings.max_batch

    assert loaded == 3
    assert len(attempts) == 3


def test_settings_that_no_longer_fit_are_left_out(caplog: pytest.LogCaptureFixture) -> None:
    """Where requests, or a process that starts again, have the model loaded; who says them anew is refused."""
    own = [8, 1, 1, 8]
    repository = Repository({"m": lambda: Loaded(Counted(), "1", ModelSettings(max_batch=own.pop(0)))})
    repository.load("m", {"max_batch": 7})
    repository.load("m", None)
    without = repository.loaded("m").settings.max_batch
    with pytest.raises(ModelLoadFailed, match="are never joined"):
        repository.load("m", {"max_batch": 7})
    repository.load("m", None)

    assert without == 1
    assert repository.loaded("m").settings.max_batch == 7
    assert caplog.text.count("model m goes without the settings of its last load call: max_batch_size") == 1


def _functions(thread: threading.Thread) -> Iterator[str]:
    """Name the functions that a thread is in."""
    frame = sys._current_frames().get(thread.ident or 0)
    while frame is not None:
        yield frame.f_code.co_name
        frame = frame.f_back
