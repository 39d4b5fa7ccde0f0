"""The cache's bound: the least recently used goes, nothing that any process uses, and what went is fetched again."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from inference.folders import Shelf, Stored
from inference.repository import Repository
from inference.settings import RepositorySettings, Trust
from inference.storage.cache import Storage, StorageSettings
from tests.inference.serving import ROOT
from tests.inference.shelves import ANSWERING, answer
from tests.inference.storage.webserver import Web, web

SIZE = 10_000
_HOLDING = """
import sys
from pathlib import Path
from inference.storage.room import Room
with Room(Path(sys.argv[1]), 1).holding(Path(sys.argv[2])) as held:
    print("holds" if held else "gone", flush=True)
    sys.stdin.read()
"""


@pytest.fixture(name="site")
def _site() -> Iterator[Web]:
    with web() as served:
        for number in range(6):
            served.files[f"/m{number}/model.answer"] = b"%d" % number + b" " * (SIZE - 1)
            served.tags[f"/m{number}/model.answer"] = f'"{number}"'
        yield served


def storage(tmp_path: Path, entries: float = 3) -> Storage:
    """Give a cache with room for so many models."""
    return Storage(StorageSettings(cache=tmp_path / "cache", max_bytes=int(entries * SIZE)))


def uri(site: Web, number: int) -> str:
    """Name a model."""
    return f"{site.url}/m{number}/model.answer"


def kept(tmp_path: Path) -> set[int]:
    """Give the models in the cache."""
    return {int(path.read_text()) for path in (tmp_path / "cache").glob("[!.]*/model.answer")}


def use(of: Storage, site: Web, number: int) -> None:
    """Use a model for a moment."""
    with of.using(uri(site, number)) as (path, _):
        # The clock of files may be coarse: uses of one moment would have no order.
        entry = path.name
        use.at += 1.0  # type: ignore[attr-defined]
    os.utime(path.parent / f".use-{entry}", (use.at, use.at))  # type: ignore[attr-defined]


use.at = 1_000_000.0  # type: ignore[attr-defined]


def test_the_least_recently_used_goes(tmp_path: Path, site: Web) -> None:
    """What was used last stays, and what went is fetched again when it is asked for."""
    of = storage(tmp_path)
    for number in (0, 1, 2, 0, 3):
        use(of, site, number)

    assert kept(tmp_path) == {0, 2, 3}
    use(of, site, 1)
    assert kept(tmp_path) == {0, 1, 3}
    assert {path.name for path in (tmp_path / "cache").iterdir() if path.name.startswith(".incoming")} == set()
    assert len(list((tmp_path / "cache").glob(".use-*"))) == 3


def test_without_a_bound_all_stays(tmp_path: Path, site: Web) -> None:
    """The default removes nothing and locks nothing; a bound that comes later counts what is there."""
    of = storage(tmp_path, entries=0)
    for number in range(5):
        of.folder(uri(site, number))
    assert kept(tmp_path) == {0, 1, 2, 3, 4}
    assert not list((tmp_path / "cache").glob(".use-*"))
    storage(tmp_path, 2).folder(uri(site, 5))

    assert len(kept(tmp_path)) == 2
    assert 5 in kept(tmp_path)


def test_what_another_process_uses_stays(tmp_path: Path, site: Web) -> None:
    """An entry in use goes in no process, whatever the bound, until its user ends, however that ends."""
    of = storage(tmp_path, 1)
    held = of.folder(uri(site, 0))
    command = [sys.executable, "-c", _HOLDING, str(tmp_path / "cache"), str(held)]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "holds\n"
        use(of, site, 1)
        both = kept(tmp_path)
        other.kill()
        other.wait(60)
    use(of, site, 2)

    assert both == {0, 1}
    assert kept(tmp_path) == {2}


@pytest.mark.parametrize("pointed", [True, False])
def test_a_loaded_models_files_stay(tmp_path: Path, site: Web, *, pointed: bool) -> None:
    """Files of a model in memory stay; once it is unloaded they may go, and the next load fetches them again."""
    of = storage(tmp_path, 1)
    shelf = tmp_path / "shelf"
    for number in range(2):
        (shelf / f"m{number}").mkdir(parents=True)
        (shelf / f"m{number}" / "sidelight.json").write_text(f'{{"storage_uri": "{uri(site, number)}"}}')
    repository = Repository({}, RepositorySettings(on_demand=True), Shelf(shelf, Trust(), ANSWERING, of))
    if not pointed:
        sources = {f"m{number}": Stored(of, uri(site, number), "", Trust(), ANSWERING) for number in range(2)}
        repository = Repository(sources, RepositorySettings(on_demand=True))
    for number in range(2):
        answer(repository, f"m{number}")
    both = kept(tmp_path)
    repository.unload("m0")
    gc.collect()
    use(of, site, 2)
    after = kept(tmp_path)
    repository.load("m0")

    assert both == {0, 1}
    assert after == {1, 2}
    assert answer(repository, "m0") == (0.0, "1")
    assert 0 in kept(tmp_path)
    repository.close()


def test_a_model_that_went_between_look_and_load_is_fetched_again(tmp_path: Path, site: Web) -> None:
    """The bound may remove files after they were looked at and before they are read: the new ones are no change."""
    of = storage(tmp_path, 1)
    source = Stored(of, uri(site, 4), "", Trust(), ANSWERING)
    seen = source.fingerprint("")
    use(of, site, 2)
    between = kept(tmp_path)
    loaded = source.load("", seen)

    assert between == {2}
    assert loaded.runtime.number == 4.0  # type: ignore[attr-defined]


def test_what_a_killed_process_was_removing_goes(tmp_path: Path, site: Web) -> None:
    """Files of a removal that was cut short are of no entry, and go with the next fetch."""
    of = storage(tmp_path)
    use(of, site, 0)
    left = tmp_path / "cache" / ".incoming-gone-other"
    left.mkdir()
    (left / "model.answer").write_bytes(b"1")
    use(of, site, 1)

    assert not left.exists()
    assert kept(tmp_path) == {0, 1}
