"""Models as folders: versions, rollouts, and changes that are noticed whole or not at all."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from inference.errors import ModelLoadFailed, ModelNotFound, ModelNotReady
from inference.folders import ModelFolder, Shelf
from inference.lease import Wait
from inference.repository import Repository, State
from inference.rollout import Choice
from inference.settings import RepositorySettings, Trust
from tests.inference.serving import eventually
from tests.inference.shelves import ANSWERING, Answering, answer, shut, write

_MET = threading.Barrier(2)


@pytest.fixture(name="repository")
def _repository(tmp_path: Path) -> Iterator[Repository]:
    """Give a repository that is looked at when the test says so."""
    for number in (1, 2, 10):
        write(tmp_path / "m" / str(number), number)
    write(tmp_path / "plain", 7)
    settings = RepositorySettings(on_demand=True, poll_s=3600, retry_s=3600, retry_most_s=3600)
    repository = Repository({}, settings, Shelf(tmp_path, Trust(), ANSWERING))
    yield repository
    repository.close()


def _looks(repository: Repository, times: int = 2) -> None:
    for _ in range(times):
        repository.look()


def _rollout(folder: Path, text: str) -> None:
    (folder / "rollout.yaml").write_text(text)


def test_numbered_folders_are_versions(repository: Repository) -> None:
    """The highest number answers; each number and each alias answers for itself; the response names the version."""
    assert answer(repository, "m") == (10.0, "10")
    assert answer(repository, "m", "2") == (2.0, "2")
    assert answer(repository, "m", "latest") == (10.0, "10")
    with pytest.raises(ModelNotFound, match="Model with name m and version 3 does not exist"):
        answer(repository, "m", "3")


def test_a_folder_without_numbers_has_one_version(repository: Repository, tmp_path: Path) -> None:
    """Its settings say which; asking for another one is not found, loaded or not."""
    (tmp_path / "plain" / "sidelight.json").write_text('{"version": "2024-11"}')

    for _ in range(2):
        with pytest.raises(ModelNotFound, match="version 1"):
            answer(repository, "plain", "1")
        assert answer(repository, "plain", "2024-11") == (7.0, "2024-11")
    assert answer(repository, "plain") == (7.0, "2024-11")


def test_settings_beside_the_versions_hold_for_all(repository: Repository, tmp_path: Path) -> None:
    """What versions share stands once, beside them; a version's own settings win."""
    (tmp_path / "m" / "sidelight.json").write_text('{"output_name": "score"}')
    (tmp_path / "m" / "2" / "sidelight.json").write_text('{"output_name": "own"}')
    names = {}
    for version in ("1", "2"):
        with repository.using("m", version) as loaded:
            names[version] = loaded.settings.output_name

    assert names == {"1": "score", "2": "own"}


def test_the_rollout_decides(repository: Repository, tmp_path: Path) -> None:
    """A model's folder says which version is stable, which a canary, and which gets copies."""
    _rollout(tmp_path / "m", "{stable: 1, canary: {version: 2, percent: 30}, shadows: [{version: 10}]}")
    choices = [repository.choose("m", None, b"%d" % key) for key in range(300)]

    assert set(choices) == {Choice("1", ("10",)), Choice("2", ("10",))}
    assert 50 < sum(choice.version == "2" for choice in choices) < 130
    assert repository.choose("m", "10") == Choice("10")
    assert repository.choose("m", "stable") == Choice("1")


def test_a_broken_rollout_is_the_models_reason(repository: Repository, tmp_path: Path) -> None:
    """A rollout that cannot be read refuses its model with the reason, and is not read again for every request."""
    _rollout(tmp_path / "m", "{stable: 3}")
    for _ in range(2):
        with pytest.raises(ModelNotReady, match="rollout: no version '3'; the folder has 10, 2, 1"):
            repository.choose("m")
    _rollout(tmp_path / "m", "{stable: 2}")
    with pytest.raises(ModelNotReady):
        repository.choose("m")
    repository.load("m")

    assert answer(repository, "m") == (2.0, "2")
    assert answer(repository, "plain") == (7.0, "1")


def test_requests_move_when_the_new_version_is_loaded(repository: Repository, tmp_path: Path) -> None:
    """A new version that cannot be loaded moves no request: the old one serves, and the index has the reason."""
    assert answer(repository, "m") == (10.0, "10")
    write(tmp_path / "m" / "11", "bad")
    _looks(repository)
    states = {entry.version: entry for entry in repository.index() if entry.name == "m"}
    kept = answer(repository, "m")
    write(tmp_path / "m" / "11", 11)
    _looks(repository)

    assert kept == (10.0, "10")
    assert states["11"].state is State.UNAVAILABLE
    assert "no number" in states["11"].reason
    assert answer(repository, "m") == (11.0, "11")
    assert answer(repository, "m", "10") == (10.0, "10")


def test_a_failing_load_call_moves_no_request(repository: Repository, tmp_path: Path) -> None:
    """The same for a rollout that names a broken canary: it is all or nothing."""
    repository.load("m")
    write(tmp_path / "m" / "11", "bad")
    _rollout(tmp_path / "m", "{stable: 1, canary: {version: 11, percent: 50}}")
    with pytest.raises(ModelLoadFailed, match="no number"):
        repository.load("m")

    assert {repository.choose("m", None, b"%d" % key).version for key in range(50)} == {"10"}


def test_a_changed_folder_is_loaded_when_it_rests(repository: Repository, tmp_path: Path) -> None:
    """Files that change between two looks are still being copied; what looks the same twice is loaded."""
    answer(repository, "plain")
    write(tmp_path / "plain", 88)
    repository.look()
    after_one = answer(repository, "plain")
    write(tmp_path / "plain", 999)
    repository.look()
    still_moving = answer(repository, "plain")
    repository.look()

    assert after_one == still_moving == (7.0, "1")
    assert answer(repository, "plain") == (999.0, "1")


def test_new_models_are_noticed_when_they_rest(repository: Repository, tmp_path: Path) -> None:
    """A folder that is being filled is no model yet; unfinished names never are."""
    write(tmp_path / "new", 1)
    write(tmp_path / "later.tmp", 2)
    write(tmp_path / ".hidden", 3)
    repository.look()
    early = "new" in repository
    write(tmp_path / "new", 12345)
    repository.look()
    still_moving = "new" in repository
    repository.look()
    (tmp_path / "later.tmp").rename(tmp_path / "later")
    _looks(repository)

    assert (early, still_moving) == (False, False)
    assert answer(repository, "new") == (12345.0, "1")
    assert answer(repository, "later") == (2.0, "1")
    assert sorted(repository.names()) == ["later", "m", "new", "plain"]


def test_removed_models_and_versions_are_gone(repository: Repository, tmp_path: Path) -> None:
    """A folder that is removed is not found any more; a prediction in progress ends on what it holds."""
    answer(repository, "m", "2")
    with repository.using("plain") as held:
        shutil.rmtree(tmp_path / "plain")
        shutil.rmtree(tmp_path / "m" / "2")
        _looks(repository)
        unloaded_while_held = held.runtime.unloaded  # type: ignore[attr-defined]

    assert unloaded_while_held == 0
    eventually(lambda: held.runtime.unloaded == 1, "it is unloaded")  # type: ignore[attr-defined]
    with pytest.raises(ModelNotFound):
        answer(repository, "plain")
    with pytest.raises(ModelNotFound):
        answer(repository, "m", "2")
    assert answer(repository, "m", "1") == (1.0, "1")


def test_a_load_call_finds_new_folders_at_once(repository: Repository, tmp_path: Path) -> None:
    """KServe's agent lays a model into the folder, then calls load: its word is taken that the folder is whole."""
    write(tmp_path / "trained", 4)
    repository.load("trained")

    assert answer(repository, "trained") == (4.0, "1")


@pytest.mark.parametrize("name", ["../outside", "..", ".", "", "_cache", ".git", "a/b", "a.tmp", "nul\0"])
def test_names_cannot_leave_the_shelf(tmp_path: Path, name: str) -> None:
    """A name from a URL is one folder of the shelf, or nothing."""
    write(tmp_path / "outside", 1)
    write(tmp_path / "shelf" / "a" / "b", 1)
    repository = Repository({}, RepositorySettings(on_demand=True), Shelf(tmp_path / "shelf", Trust(), ANSWERING))

    with pytest.raises(ModelNotFound):
        repository.load(name)
    with pytest.raises(ModelNotFound):
        repository.choose(name)


def test_unchanged_versions_are_not_loaded_again(repository: Repository, tmp_path: Path) -> None:
    """A changed rollout loads what is new, and leaves in place what is loaded."""
    repository.load("m")
    _rollout(tmp_path / "m", "{stable: 10, canary: {version: 2, percent: 50}}")
    _looks(repository)

    assert {choice.version for choice in (repository.choose("m", None, b"%d" % key) for key in range(50))} == {
        "10",
        "2",
    }
    assert Answering.loads[str(tmp_path / "m" / "10")] == 1
    assert Answering.loads[str(tmp_path / "m" / "2")] == 1


def test_a_look_forgets_nothing_that_is_being_loaded(repository: Repository, tmp_path: Path) -> None:
    """Else the next request would have it loaded beside the first, which nothing would unload."""
    folder = write(tmp_path / "n" / "1", 1)
    _looks(repository)
    shut(folder).touch()
    wait = Wait()
    repository.lease_later("n", None, wait.done)
    eventually(lambda: Answering.loads[str(folder)] == 1, "the load runs")
    write(tmp_path / "n" / "2", 2)
    _looks(repository)
    shut(folder).unlink()
    wait.result("n", 60.0).release()
    _looks(repository)

    assert answer(repository, "n") == (2.0, "2")
    assert answer(repository, "n", "1") == (1.0, "1")
    assert Answering.loads[str(folder)] == 1


def test_what_was_unloaded_stays_so_when_its_folder_changes(tmp_path: Path) -> None:
    """Only a load call brings it back."""
    folder = write(tmp_path / "m", 1)
    settings = RepositorySettings(poll_s=3600)
    repository = Repository({"m": ModelFolder(str(folder), Trust(), ANSWERING)}, settings)
    repository.load("m")
    repository.unload("m")
    write(folder, 22)
    _looks(repository, 3)

    with pytest.raises(ModelNotReady):
        answer(repository, "m")
    repository.load("m")
    assert answer(repository, "m") == (22.0, "1")
    repository.close()


class _Crossing(Shelf):
    """Gives each folder to two at once."""

    def folder(self, name: str) -> ModelFolder | None:
        """Wait for the other."""
        _MET.wait(60)
        return super().folder(name)


def test_two_load_calls_that_find_a_folder_load_one_model(tmp_path: Path) -> None:
    """Not one each, of which the first would stay for ever."""
    repository = Repository({}, RepositorySettings(on_demand=True), _Crossing(tmp_path, Trust(), ANSWERING))
    write(tmp_path / "m", 1)
    with ThreadPoolExecutor(2) as threads:
        for call in [threads.submit(repository.load, "m") for _ in range(2)]:
            call.result()

    assert repository.resident[0] == 1
    assert answer(repository, "m") == (1.0, "1")
    repository.close()


def test_looking_costs_nothing_for_models_that_were_never_asked_for(repository: Repository, tmp_path: Path) -> None:
    """Models known by name only are not read, even when their files change."""
    write(tmp_path / "plain", "bad")
    _looks(repository, 3)

    assert Answering.loads[str(tmp_path / "plain")] == 0


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    """A shelf that is not there ends with its name; a model's folder that is not there, too."""
    with pytest.raises(ModelLoadFailed, match="nowhere: No such file or directory"):
        Shelf(tmp_path / "nowhere", Trust()).names()
    with pytest.raises(ModelNotFound):
        ModelFolder(str(tmp_path / "nowhere"), Trust()).versions()
