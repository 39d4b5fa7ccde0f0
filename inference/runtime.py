"""What a runtime is: it loads one kind of model file and predicts on named arrays; knows no protocol, no server.

A file in `inference/runtimes/` is a runtime and imports its library only when a model needs it, so that looking for the
right runtime stays cheap. Which runtime a directory needs is found in `inference/directory.py`.
"""

from __future__ import annotations

import importlib
import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, Final, Self, TypeAlias

import numpy as np
from numpy.typing import NDArray

from inference.errors import Unsupported
from inference.settings import ModelSettings, Trust
from streams.errors import MissingExtra
from streams.plugins import Folder

if TYPE_CHECKING:
    from inference.batching.terms import Terms
    from inference.upstream.link import Link

Arrays: TypeAlias = Mapping[str, NDArray[Any]]
"""Tensor name → array. Numbers keep their dtype; texts are object arrays of str, or of bytes: `Runtime.takes_bytes`."""

ANY: Final = -1
"""A dimension that the caller chooses."""


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """One tensor that a model takes or gives, as the V2 metadata call shows it."""

    name: str
    datatype: str
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class NoOptions:
    """What most runtimes take in `options`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """What a runtime loads from."""

    path: Path
    """The model file; the directory itself for a runtime without suffixes."""
    settings: ModelSettings = field(default_factory=ModelSettings)
    trust: Trust = field(default_factory=Trust)
    behind: Runtime | Link | None = None
    """For a transformer: the model that it stands around, or the way to the predictor that it stands before."""
    gpu: int = 0
    """Number of the GPU to take where the settings name none, of those that the process sees."""


_NOTHING: Final[Mapping[str, Any]] = MappingProxyType({})


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What a V2 call says besides its tensors' data."""

    parameters: Mapping[str, Any] = field(default_factory=lambda: _NOTHING)
    """Of the request."""
    inputs: Mapping[str, Mapping[str, Any]] = field(default_factory=lambda: _NOTHING)
    """Parameters of each input that has some."""
    outputs: Mapping[str, Mapping[str, Any]] = field(default_factory=lambda: _NOTHING)
    """The outputs asked for, with their parameters, in order; empty: all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a runtime answers to a V2 call."""

    outputs: Mapping[str, NDArray[Any]]
    parameters: Mapping[str, Any] = field(default_factory=lambda: _NOTHING)
    """Of the response."""
    output_parameters: Mapping[str, Mapping[str, Any]] = field(default_factory=lambda: _NOTHING)
    """Of each output that has some."""
    version: str = ""
    """Of the model that predicted, where another server's did; empty: this one's."""

    def of(self, outputs: Mapping[str, NDArray[Any]]) -> Answer:
        """Say the same of other outputs."""
        return Answer(
            outputs=outputs,
            parameters=self.parameters,
            output_parameters=self.output_parameters,
            version=self.version,
        )


class Runtime(ABC):
    """One loaded model.

    `load` is called once, then `predict` any number of times from worker threads (one at a time unless `thread_safe`),
    then `unload` once, with no prediction in progress.
    """

    suffixes: ClassVar[tuple[str, ...]] = ()
    """Endings of the files that this runtime reads. None: it takes the directory as a whole and must be named."""
    platform: ClassVar[str] = ""
    """What the V2 metadata call names as the platform: `<project>_<format>`."""
    options: ClassVar[type[Any]] = NoOptions
    """A dataclass of what `options` in the model's settings may say; read with `inference/options.py`."""
    runs_code: ClassVar[bool] = False
    """Whether even this runtime's safest format can run code, so that nothing loads without trust."""
    thread_safe: bool = True
    """Whether several threads may predict at once; an instance may know better than its class."""
    max_batch: int = 1
    """Most rows that calls are joined to, where one row's prediction never depends on the others; 1: never joined.

    An instance may know better than its class; `max_batch` in the model's settings beats both.
    """
    takes_bytes: bool = False
    """Whether texts come as the bytes that were sent, be they UTF-8 or not, such as images. Else they come as str, and
    what is no UTF-8 is refused. An instance may know better than its class."""
    device_bytes: int = 0
    """Bytes of a GPU's memory that the loaded model holds, as far as its library tells; set by `load`."""
    devices: tuple[str, ...] = ()
    """The GPUs that it holds them of, such as `cuda:1`; empty: it does not tell."""
    computes: bool = False
    """Whether a prediction only computes, on its own thread: while it proves short, an event loop may run it."""
    warm_s: float = math.inf
    """How much of a processor the prediction on one row took that `load` made; infinite where it made none."""
    forwards: bool = False
    """Whether it asks another server, and wants to know for whom: `inference/batching/caller.py` tells."""
    inputs: tuple[TensorSpec, ...] = ()
    outputs: tuple[TensorSpec, ...] = ()
    features: tuple[str, ...] = ()
    """Names of the columns of a model that takes one table, in its order; empty: it names none."""

    @classmethod
    def claims(cls, path: Path) -> bool:
        """Say whether this runtime reads this file; looks at the name, and into the file where names are ambiguous."""
        return path.suffix in cls.suffixes

    @classmethod
    @abstractmethod
    def load(cls, source: Source) -> Self:
        """Read the model.

        Raises:
            UnsafeFormat: reading the file could run code, and `source.trust` does not allow it.
            ModelLoadFailed: anything else that is wrong with the file or its settings.
            DeviceExhausted: the GPU that it is for has no room now.
            MissingExtra: the library is not installed.
        """

    @abstractmethod
    def predict(self, inputs: Arrays) -> dict[str, NDArray[Any]]:
        """Predict. First dimension of every input and output: rows. Must not change its input.

        Raises:
            InvalidInput: names, shapes or types that the model does not take.
        """

    def answer(self, inputs: Arrays, asked: Asked) -> Answer:
        """Predict, knowing what the call says besides its data. For models that want V2 parameters, or send some back.

        Called instead of `predict`, by the same rules. A runtime with an own `answer` gets calls joined only where all
        of them ask the same.
        """
        del asked
        return Answer(outputs=self.predict(inputs))

    def generate(self, prompt: str, parameters: Mapping[str, Any]) -> Iterator[str]:
        """Give a text piece by piece, as it is made. Only a model that makes text has its own.

        Called on a worker thread, which it holds until it ends; closed in mid-text when nobody listens any more.

        Raises:
            Unsupported: it makes no text.
            InvalidInput: parameters that the model does not take.
        """
        del prompt, parameters
        raise Unsupported("this model generates no text")

    def generates(self) -> bool:
        """Say whether it has an own `generate`; an instance may know better than its class."""
        return type(self).generate is not Runtime.generate

    def stream(self, inputs: Arrays, asked: Asked) -> Iterator[Answer]:
        """Give one call several answers, as they are made. Only a model that does so has its own; as `generate`.

        Raises:
            Unsupported: it gives one.
            InvalidInput: inputs that the model does not take.
        """
        del inputs, asked
        raise Unsupported("this model gives one answer to a call")

    def streams(self) -> bool:
        """Say whether it has an own `stream`; an instance may know better than its class."""
        return type(self).stream is not Runtime.stream

    async def generates_behind(self, model: str, terms: Terms) -> bool:
        """Say whether the server that it asks makes text, in a caller's name. Asked only where `forwards` is."""
        del model, terms
        return False

    def explain(self, inputs: Arrays, parameters: Mapping[str, Any]) -> Mapping[str, Any]:
        """Answer an explain call with an object of arrays, or of whatever JSON can say.

        Only a model that explains itself has its own. `parameters` are V2's, or what else a V1 body holds.

        Raises:
            Unsupported: it does not; the service's explainer does.
            InvalidInput: inputs that the model does not take.
        """
        del inputs, parameters
        raise Unsupported("explain is not offered by a predictor; send it to the service's explainer")

    def explains(self) -> bool:
        """Say whether it has an own `explain`; an instance may know better than its class."""
        return type(self).explain is not Runtime.explain

    def ready(self, model: str) -> bool:
        """Say whether what the model depends on outside of the process is there. Asked often; must not wait."""
        del model
        return True

    def unload(self) -> None:  # noqa: B027 - most models only hold memory
        """Let go of what the model holds besides memory."""

    def lost(self) -> str:
        """Say why no model can predict on its device any more in this process; empty: they can. Asked once a second."""
        return ""

    @classmethod
    @abstractmethod
    def example(cls, directory: Path) -> dict[str, NDArray[Any]]:
        """Train a tiny model, save it the safe way, and give inputs for it: what the contract suite runs on."""


def library(module: str, extra: str = "inference") -> Any:  # noqa: ANN401 - a module has no narrower type
    """Import a runtime's library at the moment a model needs it.

    Raises:
        MissingExtra: it is not installed.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as exc:
        name = module.partition(".")[0]
        if (exc.name or "").partition(".")[0] != name:
            raise
        raise MissingExtra(f"a model of this format (through {module})", extra, name) from exc


def head(path: Path, size: int = 64) -> bytes:
    """Read a file's first bytes, to tell formats that share an ending apart."""
    with path.open("rb") as file:
        return file.read(size)


def iris(seed: int = 0) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Draw three separable classes of four measurements, 50 rows each: enough for a runtime's `example`."""
    generator = np.random.default_rng(seed)
    centres = np.array([[5.0, 3.4, 1.5, 0.2], [5.9, 2.8, 4.3, 1.3], [6.6, 3.0, 5.6, 2.0]])
    labels = np.repeat(np.arange(3), 50)
    return generator.normal(centres[labels], 0.3), labels


RUNTIMES: Final = Folder(
    kind="runtime",
    package="inference.runtimes",
    base=Runtime,
    extras={
        "lightgbm": "inference",
        "onnxruntime": "onnx",
        "sklearn": "inference",
        "skops": "inference",
        "tensorflow": "tensorflow",
        "torch": "torch",
        "xgboost": "inference",
    },
)
