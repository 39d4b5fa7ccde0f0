"""Models that do not let go of what they hold: nobody else comes to harm."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from inference.errors import ModelLoadFailed
from inference.inventory import Inventory
from tests.inference.serving import eventually
from tests.inference.shelves import Open, above, answer, kept, opening, write

MIB = 1024 * 1024
SOON_S = 0.3
TOO_MUCH = 1 << 60
"""Bytes of a thread's stack that no system gives."""


@pytest.fixture(name="open_shelf")
def _open_shelf(tmp_path: Path) -> Iterator[Open]:
    with opening(tmp_path, unload_wait_s=SOON_S, load_wait_s=20.0, retry_s=0.01) as opened:
        yield opened
        # Before they close: what is kept from going would go on in the tests that follow.
        for file in tmp_path.glob("*.kept"):
            file.unlink()


def _with_ballast(folder: Path, names: str) -> None:
    for number, name in enumerate(names):
        (write(folder / name, number) / "ballast").write_bytes(bytes(16 * MIB))


@contextmanager
def _no_more_threads() -> Iterator[None]:
    usual = threading.stack_size(TOO_MUCH)
    try:
        yield
    finally:
        threading.stack_size(usual)


def test_room_that_does_not_come_is_not_waited_for(
    tmp_path: Path, open_shelf: Open, caplog: pytest.LogCaptureFixture
) -> None:
    """Another model goes instead; the log names the one that stays, once, and the metrics page counts it."""
    _with_ballast(tmp_path, "abc")
    kept(tmp_path / "a").touch()
    repository = open_shelf(max_memory=above(60))
    pages = CollectorRegistry()
    pages.register(Inventory(repository))
    answers = [answer(repository, name)[0] for name in "abc"]
    page = generate_latest(pages).decode()
    held = repository.resident
    kept(tmp_path / "a").unlink()
    eventually(lambda: repository.stuck == 0, "it has let go after all")
    # Its room is its own until then, and no longer.
    eventually(lambda: repository.resident[1] <= held[1] - 16 * MIB, "its room is given back")

    assert answers == [0.0, 1.0, 2.0]
    assert repository.counts.evictions == 2
    assert 'sidelight_models{state="stuck"} 1.0' in page.splitlines()
    assert held[0] == 1
    said = [record.getMessage() for record in caplog.records if "has not let go" in record.getMessage()]
    assert said == [f"model a has not let go of what it holds within {SOON_S} s, and is not waited for any longer"]


def test_a_small_one_is_loaded_beside_what_stays(tmp_path: Path, open_shelf: Open) -> None:
    """What there is no room for is refused at once, not when a load may wait no longer; what needs little is served."""
    _with_ballast(tmp_path, "ab")
    write(tmp_path / "small", 7)
    kept(tmp_path / "a").touch()
    repository = open_shelf(max_memory=above(40))
    answer(repository, "a")

    with pytest.raises(ModelLoadFailed, match="no room"):
        repository.load("b")
    assert repository.stuck == 1
    assert answer(repository, "small") == (7.0, "1")


def test_who_predicts_does_not_wait(tmp_path: Path, open_shelf: Open) -> None:
    """A model that was unloaded in use goes after its last prediction, and whoever made that one goes on."""
    kept(write(tmp_path / "m", 1)).touch()
    repository = open_shelf()
    with repository.using("m") as loaded:
        repository.unload("m")

        assert loaded.runtime.unloaded == 0  # type: ignore[attr-defined]
    eventually(lambda: repository.stuck == 1, "it is late")


def test_no_call_fails_where_there_are_no_threads(
    tmp_path: Path, open_shelf: Open, caplog: pytest.LogCaptureFixture
) -> None:
    """Who unloads has the model let go itself; who has predicted does not wait, and goes on."""
    for name in "ab":
        write(tmp_path / name, 1)
    repository = open_shelf()
    for name in "ab":
        answer(repository, name)
    idle = repository.loaded("a").runtime
    with _no_more_threads():
        repository.unload("a")
        with repository.using("b") as used:
            repository.unload("b")

    assert idle.unloaded == 1  # type: ignore[attr-defined]
    assert used.runtime.unloaded == 0  # type: ignore[attr-defined]
    assert "model b is not told to let go of what it holds: can't start new thread" in caplog.text


def test_calls_and_the_end_wait_for_a_while(tmp_path: Path, open_shelf: Open) -> None:
    """An unload call returns, and so does the end of a repository, however many models stay."""
    for name in "abc":
        kept(write(tmp_path / name, 1)).touch()
    repository = open_shelf()
    for name in "abc":
        answer(repository, name)
    repository.unload("a")
    after_the_call = repository.stuck
    repository.close()

    assert after_the_call == 1
    assert repository.stuck == 3


def test_the_end_waits_for_models_that_go(tmp_path: Path, open_shelf: Open) -> None:
    """Whoever ends a repository finds that its models have let go."""
    for name in "abc":
        write(tmp_path / name, 1)
    repository = open_shelf(unload_wait_s=60.0)
    for name in "abc":
        answer(repository, name)
    runtimes = [repository.loaded(name).runtime for name in "abc"]
    repository.close()

    assert [runtime.unloaded for runtime in runtimes] == [1, 1, 1]  # type: ignore[attr-defined]
    assert repository.stuck == 0
