"""Loading on demand: once for all who wait, not again for every request when it fails, within a bound on memory."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from inference.errors import ModelLoadFailed, ModelNotReady
from inference.repository import IndexEntry, Lease, Repository, State
from tests.inference.serving import eventually
from tests.inference.shelves import Answering, Open, above, answer, opening, shut, write

_SERVE_ALL = """
import sys
from itertools import cycle
from pathlib import Path
from inference.folders import Shelf
from inference.repository import Repository
from inference.residency import resident_bytes
from inference.settings import RepositorySettings, Trust
from tests.inference.serving import eventually
from tests.inference.shelves import ANSWERING, answer

bound = resident_bytes() + (48 << 20)
shelf = Shelf(Path(sys.argv[1]), Trust(), ANSWERING)
repository = Repository({}, RepositorySettings(on_demand=True, max_memory=bound), shelf)
answers = [answer(repository, f"m{number % 12}")[0] for number in range(36)]
print(repository.counts.evictions, *answers)
# It is looked at twice a second, when models are loaded: at any one moment there may be one too many.
turns = cycle(range(12))
eventually(lambda: answer(repository, f"m{next(turns)}")[0] >= 0 and resident_bytes() <= bound, "within the bound")
repository.close()
"""


@pytest.fixture(name="open_shelf")
def _open_shelf(tmp_path: Path) -> Iterator[Open]:
    with opening(tmp_path) as opened:
        yield opened


def _waiting(repository: Repository, name: str, outcomes: list[Lease | Exception]) -> None:
    repository.lease_later(name, None, outcomes.append)


def test_thousands_are_known_by_name_only(tmp_path: Path, open_shelf: Open) -> None:
    """Opening a shelf looks into no model's folder, and loads nothing."""
    for number in range(500):
        write(tmp_path / f"m{number}", number)
    (tmp_path / "m7" / "model.answer").unlink()
    repository = open_shelf()

    assert len(repository.names()) == 500
    assert repository.resident == (0, 0)
    assert {(entry.state, entry.reason) for entry in repository.index()} == {
        (State.UNAVAILABLE, "not loaded; the next request loads it")
    }
    assert answer(repository, "m499") == (499.0, "1")
    assert repository.counts.loads == 1


def test_one_load_serves_all_who_wait(tmp_path: Path, open_shelf: Open) -> None:
    """However many requests come while a model is loaded, it is loaded once, and each of them gets it."""
    folder = write(tmp_path / "m", 5)
    shut(folder).touch()
    repository = open_shelf()
    outcomes: list[Lease | Exception] = []
    for _ in range(100):
        assert repository.lease("m") is None
        _waiting(repository, "m", outcomes)
    loading = repository.index()
    shut(folder).unlink()
    eventually(lambda: len(outcomes) == 100, "all waiters are served")
    leases = [outcome for outcome in outcomes if isinstance(outcome, Lease)]
    runtime = leases[0].loaded.runtime
    repository.unload("m")
    held = runtime.unloaded  # type: ignore[attr-defined]
    for lease in leases:
        lease.release()
    eventually(lambda: runtime.unloaded == 1, "it is unloaded")  # type: ignore[attr-defined]

    assert loading == [IndexEntry("m", "", State.LOADING, "")]
    assert Answering.loads[str(folder)] == 1
    assert (len(leases), held) == (100, 0)


def test_loads_at_one_time_are_limited(tmp_path: Path, open_shelf: Open) -> None:
    """No more loads run at once than were allowed, by requests and by calls together."""
    folders = [write(tmp_path / f"m{number}", number) for number in range(12)]
    for folder in folders:
        shut(folder).touch()
    repository = open_shelf(loads=3)
    outcomes: list[Lease | Exception] = []
    for number in range(6):
        _waiting(repository, f"m{number}", outcomes)
    with ThreadPoolExecutor(6) as threads:
        calls = [threads.submit(repository.load, f"m{number}") for number in range(6, 12)]
        eventually(lambda: Answering.together[tmp_path] == 3, "three loads at once")
        for folder in folders:
            shut(folder).unlink()
        for call in calls:
            call.result()
    eventually(lambda: len(outcomes) == 6, "all waiters are served")

    assert Answering.most_together[tmp_path] == 3
    assert all(isinstance(outcome, Lease) for outcome in outcomes)


def test_a_broken_model_costs_no_load_per_request(tmp_path: Path, open_shelf: Open) -> None:
    """A failure is remembered: requests get the reason and when to come again, without another load until then."""
    folder = write(tmp_path / "m", "bad")
    repository = open_shelf(retry_s=3600, retry_most_s=7200)
    refused = []
    for _ in range(50):
        with pytest.raises(ModelNotReady) as caught:
            answer(repository, "m")
        refused.append(caught.value)

    assert Answering.loads[str(folder)] == 1
    assert {error.reason for error in refused} == {f"ModelLoadFailed: {folder / 'model.answer'}: no number"}
    assert all(1800 - 60 < error.retry_after_s <= 3600 for error in refused)
    assert repository.index()[0].reason == refused[0].reason
    assert not repository.ready("m")
    assert repository.counts.failures == 1


def test_a_repaired_model_is_served_again(tmp_path: Path, open_shelf: Open) -> None:
    """After the pause the next request tries again; a load call does not wait for it."""
    write(tmp_path / "m", "bad")
    write(tmp_path / "n", "bad")
    repository = open_shelf(retry_s=0.05)
    slow = open_shelf(retry_s=3600, retry_most_s=7200)
    for opened, name in ((repository, "m"), (slow, "n")):
        with pytest.raises(ModelNotReady):
            answer(opened, name)
    write(tmp_path / "m", 3)
    write(tmp_path / "n", 4)
    eventually(lambda: _served(repository, "m"), "the next try")
    slow.load("n")

    assert answer(repository, "m") == (3.0, "1")
    assert answer(slow, "n") == (4.0, "1")


def _served(repository: Repository, name: str) -> bool:
    try:
        answer(repository, name)
    except ModelNotReady:
        return False
    return True


def test_pauses_grow_and_differ(tmp_path: Path, open_shelf: Open) -> None:
    """Each failure doubles the pause up to the longest; chance keeps many models from trying at one moment."""
    write(tmp_path / "m", "bad")
    repository = open_shelf(retry_s=1.0, retry_most_s=100.0)
    stock = repository._stock
    pauses = [[stock.pause(failures) for _ in range(50)] for failures in (1, 2, 3, 20, 5000)]

    for most, drawn in zip((1, 2, 4, 100, 100), pauses, strict=True):
        assert most / 2 <= min(drawn) < max(drawn) <= most


def test_an_unloaded_model_stays_unloaded(tmp_path: Path, open_shelf: Open) -> None:
    """What a call unloaded is not loaded by a request, but by the next load call."""
    write(tmp_path / "m", 5)
    repository = open_shelf()
    answer(repository, "m")
    repository.unload("m")

    with pytest.raises(ModelNotReady):
        answer(repository, "m")
    assert repository.index() == [IndexEntry("m", "1", State.UNAVAILABLE, "unloaded")]
    repository.load("m")
    assert answer(repository, "m") == (5.0, "1")


def test_an_unload_call_holds_though_a_load_call_runs(tmp_path: Path, open_shelf: Open) -> None:
    """It waits for that, and what it unloads is not loaded by the next request."""
    folder = write(tmp_path / "m", 5)
    shut(folder).touch()
    repository = open_shelf()
    with ThreadPoolExecutor(2) as threads:
        load = threads.submit(repository.load, "m")
        eventually(lambda: Answering.loads[str(folder)] == 1, "the load runs")
        unload = threads.submit(repository.unload, "m")
        eventually(unload.running, "the unload call has begun")
        shut(folder).unlink()
        load.result()
        unload.result()

    with pytest.raises(ModelNotReady):
        answer(repository, "m")


def test_the_end_does_not_wait_for_ever_for_loads(
    tmp_path: Path, open_shelf: Open, caplog: pytest.LogCaptureFixture
) -> None:
    """A model's code may never end; the process does, and says which one it was."""
    folders = [write(tmp_path / name, 5) for name in "ab"]
    for folder in folders:
        shut(folder).touch()
    repository = open_shelf(unload_wait_s=0.05)
    outcomes: list[Lease | Exception] = []
    for folder in folders:
        _waiting(repository, folder.name, outcomes)
    eventually(lambda: all(Answering.loads[str(folder)] == 1 for folder in folders), "the loads run")
    repository.close()
    during = list(outcomes)
    for folder in folders:
        shut(folder).unlink()
    eventually(lambda: len(outcomes) == 2, "all who wait are told")

    assert during == []
    for folder in folders:
        assert f"model {folder.name} is still being loaded, and is not waited for any longer" in caplog.text


def test_who_gives_up_leaks_nothing(tmp_path: Path, open_shelf: Open) -> None:
    """A caller whose patience ends before the load does leaves no lease behind."""
    folder = write(tmp_path / "m", 5)
    shut(folder).touch()
    repository = open_shelf(load_wait_s=0.05)
    with pytest.raises(ModelNotReady, match=r"not loaded within 0.05 s"):
        answer(repository, "m")
    shut(folder).unlink()
    eventually(lambda: repository.resident[0] == 1, "the load ends")
    with repository.using("m") as loaded:
        runtime = loaded.runtime
    repository.unload("m")

    assert runtime.unloaded == 1  # type: ignore[attr-defined]


def test_idle_models_make_room(tmp_path: Path, open_shelf: Open) -> None:
    """With a bound, what was not used for longest is unloaded, and comes back when a request asks for it."""
    for number in range(12):
        (write(tmp_path / f"m{number}", number) / "ballast").write_bytes(bytes(8 * 1024 * 1024))
    repository = open_shelf(max_memory=above(40))
    answers = [answer(repository, f"m{number % 12}")[0] for number in range(36)]
    states = {entry.name: entry.state for entry in repository.index()}

    assert answers == [float(number) for number in range(12)] * 3
    assert repository.counts.evictions > 0
    assert repository.counts.loads == 12 + repository.counts.evictions - sum(
        state is State.UNAVAILABLE for state in states.values()
    )
    assert states["m11"] is State.READY


def test_the_bound_holds_for_what_the_process_really_has(tmp_path: Path) -> None:
    """By the system's measure, in a process of its own: what would not fit together is served, and it comes below."""
    for number in range(12):
        (write(tmp_path / f"m{number}", number) / "ballast").write_bytes(bytes(range(256)) * (8 * 4096))
    done = subprocess.run(
        [sys.executable, "-c", _SERVE_ALL, str(tmp_path)], capture_output=True, text=True, check=True, timeout=120
    )
    evictions, *answers = map(float, done.stdout.split())

    assert answers == [float(number) for number in range(12)] * 3
    assert evictions > 0


def test_evictions_under_traffic(tmp_path: Path, open_shelf: Open) -> None:
    """Many threads over more models than fit: every prediction meets a loaded model and gets its own answer."""
    for number in range(20):
        (write(tmp_path / f"m{number}", number) / "ballast").write_bytes(bytes(4 * 1024 * 1024))
    repository = open_shelf(max_memory=above(32))

    def predict(start: int) -> list[bool]:
        return [
            answer(repository, f"m{(start * 7 + call * 3) % 20}")[0] == (start * 7 + call * 3) % 20
            for call in range(100)
        ]

    with ThreadPoolExecutor(6) as threads:
        right = [each for result in threads.map(predict, range(6)) for each in result]

    assert len(right) == 600
    assert all(right)
    assert repository.counts.evictions > 10


def test_a_model_too_large_says_so(tmp_path: Path, open_shelf: Open) -> None:
    """A model beyond the bound is refused with what it needs and what there is; small ones are served."""
    (write(tmp_path / "large", 1) / "ballast").write_bytes(bytes(64 * 1024 * 1024))
    write(tmp_path / "small", 2)
    repository = open_shelf(max_memory=above(48))

    with pytest.raises(ModelNotReady, match=r"no room: needs about 1310\d\d KiB within --max_memory"):
        answer(repository, "large")
    assert answer(repository, "small") == (2.0, "1")


def test_loading_anew_waits_for_the_load_that_runs(tmp_path: Path, open_shelf: Open) -> None:
    """A load call during a load loads what is there now, not what the running load has read."""
    folder = write(tmp_path / "m", 1)
    shut(folder).touch()
    repository = open_shelf(retry_s=0.01)
    outcomes: list[Lease | Exception] = []
    _waiting(repository, "m", outcomes)
    eventually(lambda: Answering.loads[str(folder)] == 1, "the load runs")
    with ThreadPoolExecutor(1) as threads:
        call = threads.submit(repository.load, "m")
        write(folder, 22)
        shut(folder).unlink()
        call.result()
    eventually(lambda: bool(outcomes), "whoever waited is told")

    assert answer(repository, "m") == (22.0, "1")
    # What changed while it was read is not served.
    assert isinstance(outcomes[0], ModelNotReady)
    assert "was changed while it was read" in outcomes[0].reason


def test_errors_of_a_load_call_are_its_own(tmp_path: Path, open_shelf: Open) -> None:
    """A load call gets the load's own error."""
    write(tmp_path / "m", "bad")
    repository = open_shelf()

    with pytest.raises(ModelLoadFailed, match="no number"):
        repository.load("m")


def test_a_model_that_exits_is_one_that_fails(tmp_path: Path, open_shelf: Open) -> None:
    """Code that ends its thread while it is loaded leaves nobody waiting, and loads of other models go on."""
    write(tmp_path / "m", "exit")
    write(tmp_path / "other", 1)
    repository = open_shelf(loads=1)

    with pytest.raises(ModelNotReady, match="SystemExit: 3"):
        answer(repository, "m")
    with pytest.raises(ModelLoadFailed, match="SystemExit: 3"):
        repository.load("m")
    assert answer(repository, "other") == (1.0, "1")


def test_threads_start_with_the_first_load(tmp_path: Path, open_shelf: Open) -> None:
    """A repository without loads on demand has no threads; they end with it."""
    write(tmp_path / "m", 1)
    repository = open_shelf()
    threads = repository._stock._loads._threads
    before = len(threads)
    answer(repository, "m")
    during = [thread.is_alive() for thread in threads]
    repository.close()
    eventually(lambda: not any(thread.is_alive() for thread in threads), "the threads end")

    assert (before, during) == (0, [True])
