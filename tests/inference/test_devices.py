"""A GPU's memory: a bound of its own over what models' runtimes say that they hold of it, beside the process's."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.samples import Sample

from inference.devices import in_the_way
from inference.errors import ModelNotReady
from inference.inventory import Inventory
from inference.repository import Repository, State
from tests.inference.serving import eventually
from tests.inference.shelves import Answering, Open, above, answer, kept, opening, write

MIB = 1 << 20


@pytest.fixture(name="open_shelf")
def _open_shelf(tmp_path: Path) -> Iterator[Open]:
    with opening(tmp_path, max_gpu_memory=100 * MIB) as opened:
        yield opened


def on_gpu(folder: Path, number: int, mib: int) -> None:
    """Write a model that holds memory of a GPU."""
    write(folder, number)
    (folder / "device").write_text(str(mib * MIB))


def on_full_gpu(folder: Path, number: int, mib: int) -> None:
    """Write one for a GPU that has no more than 100 MiB."""
    on_gpu(folder, number, mib)
    (folder / "card").write_text(str(100 * MIB))


def _samples(registry: CollectorRegistry, name: str) -> list[Sample]:
    return [sample for family in registry.collect() for sample in family.samples if sample.name == name]


def loaded(repository: Repository) -> set[str]:
    """Give the models in memory."""
    return {entry.name for entry in repository.index() if entry.state is State.READY}


def test_the_least_recently_used_on_the_gpu_goes(tmp_path: Path, open_shelf: Open) -> None:
    """Models that hold nothing of the GPU stay, whenever they were used; of the others the last to be used stay."""
    for number, name in enumerate("abcd"):
        on_gpu(tmp_path / name, number, 30)
    write(tmp_path / "plain", 9)
    repository = open_shelf()
    answer(repository, "plain")
    for name in "abcad":
        answer(repository, name)

    assert loaded(repository) == {"plain", "a", "c", "d"}
    assert repository.on_device == (3, 90 * MIB, 100 * MIB)
    assert repository.counts.evictions == 1
    assert answer(repository, "b") == (1.0, "1")
    assert loaded(repository) == {"plain", "a", "b", "d"}


def test_one_that_is_too_large_is_refused(tmp_path: Path, open_shelf: Open) -> None:
    """A model that alone holds more than the bound is let go again, with what it needs and what there is."""
    on_gpu(tmp_path / "small", 1, 30)
    on_gpu(tmp_path / "large", 2, 200)
    repository = open_shelf()
    answer(repository, "small")

    with pytest.raises(ModelNotReady, match="holds 200 MiB of GPU memory, more than --max_gpu_memory 100 MiB allows"):
        answer(repository, "large")
    assert loaded(repository) == {"small"}
    assert repository.on_device == (1, 30 * MIB, 100 * MIB)


def test_one_in_use_stays_and_a_known_one_waits(tmp_path: Path, open_shelf: Open) -> None:
    """What is in use is not unloaded; a model whose weight is known waits until there is room, and then gets it."""
    on_gpu(tmp_path / "held", 1, 60)
    on_gpu(tmp_path / "known", 2, 60)
    repository = open_shelf()
    answer(repository, "known")
    with ThreadPoolExecutor(1) as threads, repository.using("held"):
        assert loaded(repository) == {"held"}
        waiting = threads.submit(answer, repository, "known")
        eventually(lambda: "known" in loading(repository), "the load has begun")
        attempts = Answering.loads[str(tmp_path / "known")]
        assert not waiting.done()
    assert waiting.result(60) == (2.0, "1")
    assert loaded(repository) == {"known"}
    assert Answering.loads[str(tmp_path / "known")] == attempts + 1


def loading(repository: Repository) -> set[str]:
    """Give the models whose load was asked for."""
    return {entry.name for entry in repository.index() if entry.state is State.LOADING}


def test_what_goes_for_other_memory_is_counted_until_it_has_gone(tmp_path: Path, open_shelf: Open) -> None:
    """What makes room in the process's memory still holds a GPU's while it unloads: nobody is given that yet."""
    for name in "ab":
        write(tmp_path / name, 1)
        (tmp_path / name / "ballast").write_bytes(bytes(16 * MIB))
    on_gpu(tmp_path / "a", 1, 60)
    kept(tmp_path / "a").touch()
    repository = open_shelf(max_memory=above(40))
    answer(repository, "a")
    with ThreadPoolExecutor(1) as threads:
        other = threads.submit(answer, repository, "b")
        eventually(lambda: repository.counts.evictions == 1, "the first is on its way out")
        held = repository.on_device
        kept(tmp_path / "a").unlink()

        assert other.result(60) == (1.0, "1")
    assert held == (0, 60 * MIB, 100 * MIB)
    assert repository.on_device == (0, 0, 100 * MIB)


def test_unloading_gives_the_room_back(tmp_path: Path, open_shelf: Open) -> None:
    """Unloaded or loaded anew: the sum is always that of what is loaded, and is on the metrics page."""
    for number, name in enumerate("abc"):
        on_gpu(tmp_path / name, number, 30)
    repository = open_shelf()
    for name in "abc":
        answer(repository, name)
    repository.unload("a")
    repository.load("b")
    registry = CollectorRegistry()
    registry.register(Inventory(repository))

    assert repository.on_device == (2, 60 * MIB, 100 * MIB)
    assert registry.get_sample_value("sidelight_models_gpu_bytes") == 60 * MIB
    assert registry.get_sample_value("sidelight_gpu_memory_bound_bytes") == 100 * MIB
    each = [registry.get_sample_value("sidelight_model_gpu_bytes", {"model_name": name}) for name in "abc"]
    assert each == [None, 30 * MIB, 30 * MIB]


def test_of_very_many_models_the_largest_are_told_apart(tmp_path: Path, open_shelf: Open) -> None:
    """A model's line counts all of its versions; beyond 200 models the rest share one."""
    for number in range(201):
        on_gpu(tmp_path / f"m{number}", number, 1)
    for version in "12":
        on_gpu(tmp_path / "large" / version, 1, 5)
    repository = open_shelf(max_gpu_memory=0)
    for number in range(201):
        answer(repository, f"m{number}")
    for version in "12":
        answer(repository, "large", version)
    registry = CollectorRegistry()
    registry.register(Inventory(repository))
    sizes = {each.labels["model_name"]: each.value for each in _samples(registry, "sidelight_model_gpu_bytes")}

    assert len(sizes) == 201
    assert (sizes["large"], sizes["other"]) == (10 * MIB, 2 * MIB)


def test_without_a_bound_all_stay(tmp_path: Path, open_shelf: Open) -> None:
    """What is held is told, and nothing goes."""
    for number in range(10):
        on_gpu(tmp_path / f"m{number}", number, 60)
    repository = open_shelf(max_gpu_memory=0)
    for number in range(10):
        answer(repository, f"m{number}")

    assert repository.on_device == (10, 600 * MIB, 0)
    assert repository.counts.evictions == 0


def test_without_a_bound_the_gpu_itself_says_when_others_go(tmp_path: Path, open_shelf: Open) -> None:
    """A model for which the GPU has no room is loaded once idle ones have gone, as many as it takes."""
    for number, name in enumerate("abc"):
        on_full_gpu(tmp_path / name, number, 40)
    on_full_gpu(tmp_path / "large", 7, 90)
    repository = open_shelf(max_gpu_memory=0)
    for name in "abc":
        answer(repository, name)

    assert loaded(repository) == {"b", "c"}
    assert answer(repository, "large") == (7.0, "1")
    assert loaded(repository) == {"large"}
    assert repository.counts.evictions == 3


def test_of_several_gpus_models_go_from_the_full_one_the_least_recently_used_first(
    tmp_path: Path, open_shelf: Open
) -> None:
    """Without a bound, too, it is known which model was used when; those on another device would make no room."""
    for name, slot in (("other", 1), ("a", 0), ("b", 0)):
        on_full_gpu(tmp_path / name, 1, 40)
        (tmp_path / name / "slot").write_text(f"cuda:{slot}")
    on_full_gpu(tmp_path / "c", 2, 40)
    (tmp_path / "c" / "slot").write_text("cuda:0")
    repository = open_shelf(max_gpu_memory=0)
    for name in ("other", "a", "b", "a", "c"):
        answer(repository, name)

    assert loaded(repository) == {"other", "a", "c"}
    assert repository.counts.evictions == 1


def test_what_is_in_the_way_on_a_full_device() -> None:
    """Those on that device, in order, and those that do not say where they are; all, where none is named."""
    held: list[tuple[str, tuple[str, ...]]] = [
        ("far", ("cuda:1",)), ("near", ("cuda:0",)), ("both", ("cuda:0", "cuda:1")), ("silent", ()),
    ]  # fmt: skip

    assert in_the_way(held, "cuda:0") == ["near", "both", "silent"]
    assert in_the_way(held, "cuda:7") == ["silent"]
    assert in_the_way(held, "") == [name for name, _ in held]


def test_a_full_gpu_without_idle_models_is_a_failed_load(tmp_path: Path, open_shelf: Open) -> None:
    """Models in use stay; who is asked for meanwhile is refused with the reason, and loaded later."""
    on_full_gpu(tmp_path / "a", 1, 60)
    on_full_gpu(tmp_path / "b", 2, 60)
    repository = open_shelf(max_gpu_memory=0, retry_s=0.01)
    with repository.using("a"), pytest.raises(ModelNotReady, match=f"DeviceExhausted: .* {60 * MIB} bytes are taken"):
        answer(repository, "b")

    def answers() -> bool:
        try:
            return answer(repository, "b") == (2.0, "1")
        except ModelNotReady:
            return False

    eventually(answers, "the load after the retry")


def test_a_model_that_does_not_let_go_costs_no_other(tmp_path: Path, open_shelf: Open) -> None:
    """Whatever a class of a user's raises when it is to make room, the model that needs the room is loaded."""
    for number, name in enumerate("abc"):
        on_gpu(tmp_path / name, number, 60)
        (tmp_path / name / "stubborn").touch()
    repository = open_shelf(loads=1, load_wait_s=30.0)

    assert [answer(repository, name) for name in "abcab"] == [(float(number), "1") for number in (0, 1, 2, 0, 1)]
    assert repository.on_device == (1, 60 * MIB, 100 * MIB)
    repository.unload("b")
    assert repository.on_device == (0, 0, 100 * MIB)


def test_what_is_young_is_searched_a_little_at_a_time(tmp_path: Path, open_shelf: Open) -> None:
    """Where as many models go as come, Python's own search for cycles would wait until thousands of them are young."""
    searched: list[int] = []

    def note(phase: str, told: dict[str, int]) -> None:
        if phase == "stop":
            searched.append(told["generation"])

    for name in "ab":
        on_gpu(tmp_path / name, 1, 60)
    repository = open_shelf()
    gc.disable()
    gc.callbacks.append(note)
    try:
        for name in "ab" * 100:
            answer(repository, name)
    finally:
        gc.callbacks.remove(note)
        gc.enable()

    assert repository.counts.evictions == 199
    assert searched == [0, 0, 0]
