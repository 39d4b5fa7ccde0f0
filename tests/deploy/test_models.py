"""The arguments that name models."""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, TypeAlias

import pytest
import yaml

from deploy.errors import UserError
from deploy.models import add_model_arguments, add_repository_arguments, model_names, open_repository
from detectors.settings import monitor_from_mapping
from inference.notes import Note
from inference.repository import Repository
from inference.residency import container_limit
from inference.rollout import Routes, parse
from tests.inference.serving import ROOT
from tests.inference.shelves import ANSWERING, Answering, answer, write

Opened: TypeAlias = Callable[..., Repository]

_SAID = "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"
_COUNTED = """
from deploy import environment
environment.one_native_thread()
import lightgbm, xgboost, sklearn.ensemble, threadpoolctl
print({info["num_threads"] for info in threadpoolctl.threadpool_info() if info["user_api"] == "openmp"})
"""


def parsed(*words: str) -> argparse.Namespace:
    """Parse a predictor's words."""
    parser = argparse.ArgumentParser()
    add_model_arguments(parser)
    add_repository_arguments(parser)
    return parser.parse_args(["--runtime", ANSWERING, *words])


@pytest.fixture(name="opened")
def _opened(monkeypatch: pytest.MonkeyPatch) -> Iterator[Opened]:
    """Open repositories that end with the test, as what is said to native libraries meanwhile does."""
    for name in _SAID:
        monkeypatch.setenv(name, "1")
    with ExitStack() as ends:

        def opened(arguments: argparse.Namespace, **more: Any) -> Repository:  # noqa: ANN401 - as they are
            repository = open_repository(arguments, **more)
            ends.callback(repository.close)
            return repository

        yield opened


def test_names_and_folders_belong_together(tmp_path: Path, opened: Opened) -> None:
    """KServe's arguments in pairs, then names with their folders; one folder alone is called model."""
    for number, name in enumerate("abc"):
        write(tmp_path / name, number)
    places = {name: str(tmp_path / name) for name in "abc"}
    pairs = ("--model_name", "a", "--model_dir", places["a"], "--model_name", "b", "--model_dir", places["b"])
    arguments = parsed(*pairs, "--model", f"c={places['c']}")
    repository = opened(arguments)

    assert model_names(arguments) == repository.names() == ["a", "b", "c"]
    assert [answer(repository, name)[0] for name in "abc"] == [0.0, 1.0, 2.0]
    assert model_names(parsed("--model_dir", places["a"])) == ["model"]


@pytest.mark.parametrize("text", ["4Gi", "4294967296", "4294967.296k", "4194304Ki", "4GiB"])
def test_sizes_are_spelt_as_in_kubernetes(tmp_path: Path, opened: Opened, text: str) -> None:
    """Powers of 1000 and of 1024, with or without the B."""
    write(tmp_path / "m", 1)
    repository = opened(parsed("--model_repository", str(tmp_path), "--max_memory", text))

    assert repository.bound == 4 * 1024**3


def test_a_repository_is_bounded_by_its_container(tmp_path: Path, opened: Opened) -> None:
    """Without a word on memory, 80 % of the container's limit; command-line models alone have no bound."""
    write(tmp_path / "m", 1)

    assert opened(parsed("--model_repository", str(tmp_path))).bound == int(container_limit() * 0.8)
    assert opened(parsed("--model_dir", str(tmp_path / "m"))).bound == 0


def test_processes_share_what_memory_there_is(tmp_path: Path, opened: Opened) -> None:
    """The bounds are those of all processes together, as a container's limit is: each gets its part of them."""
    write(tmp_path / "m", 1)
    arguments = parsed("--model_repository", str(tmp_path), "--max_memory", "4Gi", "--max_gpu_memory", "8Gi")
    arguments.workers = 4
    repository = opened(arguments)

    assert (repository.bound, repository.on_device[2]) == (1024**3, 2 * 1024**3)


def test_a_folder_without_models_is_no_repository(tmp_path: Path, opened: Opened) -> None:
    """Only folders with models below make a repository of a --model_dir; an empty mount is a mistake."""
    (tmp_path / "notes").mkdir()
    with pytest.raises(UserError, match=r"expected a model file \(\.answer\), got nothing"):
        opened(parsed("--model_dir", str(tmp_path)))
    write(tmp_path / "notes", 5)

    assert answer(opened(parsed("--model_dir", str(tmp_path))), "notes") == (5.0, "1")


def test_libraries_start_no_threads_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is loaded after the call computes on the caller's thread."""
    for name in _SAID:
        monkeypatch.delenv(name, raising=False)
    done = subprocess.run([sys.executable, "-c", _COUNTED], cwd=ROOT, capture_output=True, text=True, check=True)

    assert done.stdout == "{1}\n"


def test_what_the_documentation_shows_can_be_read() -> None:
    """The rollout and the monitor of docs/predictor.md are what the readers take."""
    rollout, monitor = re.findall(r"```yaml\n(.*?)```", (ROOT / "docs" / "predictor.md").read_text(), re.DOTALL)
    routes = Routes("income", ("4", "3", "2", "1"), parse(rollout.encode(), "rollout.yaml"))

    assert routes.wanted == ("2", "3", "4")
    assert monitor_from_mapping(yaml.safe_load(monitor), ROOT).version == "3"


def test_what_was_said_of_a_model_does_not_keep_a_process_from_starting_again(tmp_path: Path, opened: Opened) -> None:
    """Its folder has changed meanwhile: it is served as it is."""
    model = write(tmp_path / "m", 3)
    note = Note(model="m", unloaded=False, parameters={"config": '{"max_batch_size": 8}'})
    batches = []
    for settings in ('{"max_batch": 4}', '{"pad_to": [4]}'):
        (model / "sidelight.json").write_text(settings)
        repository = opened(parsed("--model", f"m={model}"), notes=[note])
        batches.append(repository.loaded("m").settings.max_batch)

        assert answer(repository, "m") == (3.0, "1")
    assert batches == [8, None]


def test_every_model_is_told_the_processs_gpu(tmp_path: Path, opened: Opened) -> None:
    """One of the command line, and one of the repository."""
    write(tmp_path / "named", 1)
    write(tmp_path / "shelf" / "shelved", 2)
    words = ("--model_dir", str(tmp_path / "named"), "--model_repository", str(tmp_path / "shelf"))
    repository = opened(parsed(*words), gpu=3)
    for name in ("model", "shelved"):
        with repository.using(name) as loaded:
            assert isinstance(loaded.runtime, Answering)
            assert loaded.runtime.gpu == 3
