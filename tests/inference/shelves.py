"""Folders of models for tests, and a runtime whose model file says how it behaves.

The file `model.answer` holds a number, which is the prediction for every row; `bad` cannot be loaded, and `exit` ends
the thread that loads it. A file `ballast` is held in memory, and measured as if the process held nothing else, which
nobody else in the process disturbs; one named `device` says how many bytes of a GPU's memory
are held, one named `card` how many the GPU has at most, and one named `slot` which GPU it is; with one named `stubborn`
the model does not let go of what it holds.
While a file `<folder>.shut` stands beside the folder, loading waits; while one `<folder>.kept` does, unloading.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, Self, TypeAlias

import numpy as np
from numpy.typing import NDArray

from inference.errors import DeviceExhausted, ModelLoadFailed
from inference.folders import Shelf
from inference.repository import Repository
from inference.residency import MARGIN
from inference.runtime import Arrays, Runtime, Source
from inference.settings import RepositorySettings, Trust

ANSWERING = "tests.inference.shelves:Answering"
DEADLINE_S = 60.0
HELD = 256 << 20
"""What the process is taken to hold but for ballast."""

Open: TypeAlias = Callable[..., Repository]
"""Opens the shelf in the test's folder with settings by name."""


@contextmanager
def opening(folder: Path, **usual: Any) -> Iterator[Open]:  # noqa: ANN401 - settings' own types
    """Let repositories over a folder be opened, with these settings but for those named then; close them all."""
    opened: list[Repository] = []

    def open_shelf(**settings: Any) -> Repository:  # noqa: ANN401 - as above
        chosen = RepositorySettings(on_demand=True, **{**usual, **settings})
        opened.append(Repository({}, chosen, Shelf(folder, Trust(), ANSWERING), Answering.held))
        return opened[-1]

    try:
        yield open_shelf
    finally:
        for repository in opened:
            repository.close()


class Answering(Runtime):
    """Answers each row with one number."""

    suffixes: ClassVar[tuple[str, ...]] = (".answer",)
    platform: ClassVar[str] = "test_answering"
    loads: ClassVar[Counter[str]] = Counter()
    """Folder → attempts to load it."""
    on_card: ClassVar[Counter[str]] = Counter()
    """GPU → bytes that all that are loaded say they hold of its memory."""
    in_memory: ClassVar[int] = 0
    """Bytes of ballast that all that are loaded hold."""
    together: ClassVar[Counter[Path]] = Counter()
    """Shelf → loads that run now: others' may end later than their tests."""
    most_together: ClassVar[Counter[Path]] = Counter()
    lock: ClassVar[threading.Lock] = threading.Lock()

    def __init__(self, number: float, ballast: bytes) -> None:
        self.number, self.ballast = number, ballast
        self.unloaded = 0
        self.stubborn = False
        self.slot = ""
        self.gpu = 0
        self.kept = Path()

    @classmethod
    def held(cls) -> int:
        """Measure what the tests' models hold of the process's memory."""
        return HELD + cls.in_memory

    @classmethod
    def load(cls, source: Source) -> Self:
        """Read the number; wait while the folder is shut."""
        folder = source.path.parent
        shelf = folder.parent
        with cls.lock:
            cls.loads[str(folder)] += 1
            cls.together[shelf] += 1
            cls.most_together[shelf] = max(cls.most_together[shelf], cls.together[shelf])
        try:
            text = source.path.read_text()
            _wait_while(shut(folder))
        finally:
            with cls.lock:
                cls.together[shelf] -= 1
        if text == "bad":
            raise ModelLoadFailed(f"{source.path}: no number")
        if text == "exit":
            raise SystemExit(3)
        ballast = folder / "ballast"
        model = cls(float(text), ballast.read_bytes() if ballast.exists() else b"")
        device = folder / "device"
        model.device_bytes = int(device.read_text()) if device.exists() else 0
        model.gpu = source.gpu
        model.kept = kept(folder)
        model.stubborn = (folder / "stubborn").exists()
        card, slot = folder / "card", folder / "slot"
        if slot.exists():
            model.slot = slot.read_text()
            model.devices = (model.slot,)
        with cls.lock:
            taken = cls.on_card[model.slot]
            if card.exists() and taken + model.device_bytes > int(card.read_text()):
                raise DeviceExhausted(f"{source.path}: {taken} bytes are taken", model.slot)
            cls.on_card[model.slot] += model.device_bytes
            Answering.in_memory += len(model.ballast)
        return model

    def predict(self, inputs: Arrays) -> dict[str, NDArray[Any]]:
        """Give the number for each row."""
        assert self.unloaded == 0
        (array,) = inputs.values()
        return {"output-0": np.full(len(array), self.number)}

    def unload(self) -> None:
        """Count it."""
        self.unloaded += 1
        _wait_while(self.kept)
        with self.lock:
            self.on_card[self.slot] -= self.device_bytes
            Answering.in_memory -= len(self.ballast)
        if self.stubborn:
            raise RuntimeError("does not let go")

    @classmethod
    def example(cls, directory: Path) -> dict[str, NDArray[Any]]:
        """Write a number."""
        write(directory, 1)
        return {"input-0": np.ones((2, 2))}


def write(folder: Path, answer: object) -> Path:
    """Put a model into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.answer").write_text(str(answer))
    return folder


def shut(folder: Path) -> Path:
    """Name the file that keeps a folder's model from being loaded."""
    return folder.parent / f"{folder.name}.shut"


def above(mib: int) -> int:
    """Give a bound that leaves so much room above what the models hold now."""
    return int((Answering.held() + mib * 1024 * 1024) / (1 - MARGIN))


def kept(folder: Path) -> Path:
    """Name the file that keeps a folder's model from letting go of what it holds."""
    return folder.parent / f"{folder.name}.kept"


def _wait_while(file: Path) -> None:
    paused = threading.Event()
    for _ in range(int(DEADLINE_S / 0.002)):
        if not file.is_file():
            break
        paused.wait(0.002)


def answer(repository: Repository, name: str, version: str | None = None) -> tuple[float, str]:
    """Predict one row; give the answer and the version that gave it."""
    with repository.using(name, version) as loaded:
        outputs = loaded.runtime.predict({"x": np.ones((1, 1))})
        return float(outputs["output-0"][0]), loaded.version
