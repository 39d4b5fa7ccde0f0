"""Settings of the predictor: the process's own, and those that a model directory brings, see `modelsettings.py`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

from inference.protocol.cloudevents import EventSettings

SETTINGS_FILE: Final = "sidelight.json"
"""Ours alone: `model.json` is XGBoost's, `model-settings.json` is MLServer's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueLimit:
    """How much may wait for one model. Half as much, besides, for calls that yield to users'."""

    calls: int | None = None
    """Calls; None: as many as the process lets wait for all models."""
    bytes: int | None = None
    """Bytes of bodies; None: the same."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TransformerSettings:
    """Which class pre- and postprocesses, and what it is built with."""

    name: str
    """`module:Class`: a file beside the model's, or else an installed module."""
    arguments: Mapping[str, Any] = field(default_factory=dict)
    """Keyword arguments of the class."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSettings:
    """How one model is served. In the directory's `sidelight.json`, every key optional, unknown keys refused."""

    runtime: str = ""
    """Which of our runtimes reads the model, where its files do not tell: `custom` is never guessed.

    What the operator names wins, and only the operator may name a class from outside: naming one runs its code.
    """
    features: tuple[str, ...] = ()
    """The model's columns in its order, for callers that send them by name. Empty: as the model file says."""
    output: str = "predict"
    """Which of the model's outputs to serve: `predict`, `predict_proba` or `raw`, where the runtime has it."""
    output_name: str = "output-0"
    """Name of the output tensor in V2; the default is KServe's."""
    datatype: str = "FP64"
    """What numeric columns are cast to (FP32 or FP64), so that every protocol gives the same prediction."""
    version: str = "1"
    """The version that answers under `/versions/<version>`."""
    labels: tuple[str, ...] = ()
    """What the columns of a score stand for, for callers that ask for a `classification`. Empty: nothing is said."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """The runtime's own settings, such as `device`; docs/runtimes.md lists each runtime's."""
    max_batch: int | None = None
    """Most rows that calls are joined to; 1: never joined. None: as the runtime says, which knows whether rows mix."""
    max_latency_ms: float = 0.0
    """How long a call may wait for company although a thread is free. 0: never; calls are joined only when busy."""
    pad_to: tuple[int, ...] = ()
    """Numbers of rows that batches are filled up to, ascending: the fixed sizes of CUDA graphs."""
    parallel: int | None = None
    """Most batches that run at once. None: as many as there are threads, or one where the model is not thread-safe."""
    queue: QueueLimit = QueueLimit()
    """How much may wait. Full: 503 (429 for calls that yield) with Retry-After."""
    transformer: TransformerSettings | None = None
    """What stands around the model in its process: `"module:Class"`, or an object of `class` and `arguments`. In a
    transformer's own folder: what stands before the predictor. docs/transformers.md."""
    storage_uri: str = ""
    """Where the model's files lie, if not beside the settings; fetched when the model is loaded. docs/predictor.md."""
    digest: str = ""
    """SHA-256 of what `storage_uri` names; anything else is not loaded."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trust:
    """What the operator allows a model file to do.

    Never read from the model directory: who can write the file could write the permission.
    """

    code: bool = False
    """Load what runs code: joblib and pickle files, custom classes, PyTorch and TensorFlow models."""
    types: tuple[str, ...] = ()
    """Types beyond skops' own list that a .skops file may build, by full name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RepositorySettings:
    """How models are loaded and kept, in one process."""

    on_demand: bool = False
    """Load a model when the first request for it comes, instead of when a call says so."""
    max_memory: int = 0
    """Bytes of the process's resident set. Above it the models that were not used for longest are unloaded, to be
    loaded again on demand; never one in use. 0: everything stays."""
    max_gpu_memory: int = 0
    """Bytes of a GPU's memory that loaded models may hold together, as their runtimes say; the same holds then. A model
    that is loaded for the first time is counted when it is there. 0: no bound."""
    loads: int = 2
    """Models that are loaded at the same time. More than the cores only slow the predictions that go on."""
    load_wait_s: float = 60.0
    """How long a load waits for memory, and a caller for a load."""
    unload_wait_s: float = 10.0
    """How long anybody waits for a model to let go of what it holds, and the process's end for those that are being
    loaded: their own code may never end."""
    retry_s: float = 1.0
    """What failed to load is not tried again for so long; doubled with each failure, and shortened at random by up to a
    half. Until then requests are answered with the reason, for a broken model must not cost a load for each."""
    retry_most_s: float = 300.0
    """The longest such pause."""
    poll_s: float = 0.0
    """How often the folders are looked at for new, changed and removed models. 0: never; a load call looks, too."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CertificateFiles:
    """What the server proves with who it is; both PEM."""

    certificate: Path
    """Its certificate, with what chains it to its authority."""
    key: Path | None = None
    """The private key, without a pass phrase. None: it lies in the certificate's file."""


class Dialect(StrEnum):
    """Whose way is followed where KServe's and Triton's servers answer the same V2 call differently."""

    KSERVE = "kserve"
    TRITON = "triton"


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerSettings:
    """How the server behaves. All limits are per process."""

    host: str = "0.0.0.0"  # noqa: S104 - in a pod the kubelet's probes come from outside; the local runner passes loopback
    port: int = 8080
    """0 takes a free port, named in the ready line."""
    tls: CertificateFiles | None = None
    """None: HTTP and gRPC are served in the clear. Replaced files are taken up without a restart."""
    threads: int = 4
    """Requests that compute at the same time. More than the cores only makes them wait for each other."""
    queue: int = 256
    """Requests that may wait for a thread. Full: 503 with Retry-After at once, because a late answer helps nobody."""
    queue_bytes: int = 256 * 1024 * 1024
    """Bytes of bodies that may wait. Full: the same, unless nothing else waits. And bytes of answers over HTTP that may
    wait for their clients to read them: beyond, those that have waited longest are given up."""
    traces: bool = False
    """Record every call as OpenTelemetry spans; where they go is said by OpenTelemetry's own variables."""
    yielding_every: int = 8
    """Every so many-th turn goes to calls that yield, while users' calls wait, too: they come slowly, but they come."""
    timeout_s: float = 60.0
    """From the body's arrival to the answer. A prediction that runs on is not interrupted, but keeps its place."""
    body_timeout_s: float = 60.0
    """For a request body to arrive, and for what was sent of an answer to be read."""
    max_body: int = 64 * 1024 * 1024
    """Bytes of a request body, also after decompression."""
    connections: int = 4_096
    """Open client connections of HTTP, and as many of gRPC. For one more, one that has been idle for a while is closed;
    else it is told so (503, UNAVAILABLE) and sent away, with an answer if it asks how the process stands. Each takes a
    file and memory, whether it asks for anything."""
    keep_alive_s: int = 65
    """Idle connections are kept so long: KServe's default, above the 60 s of most proxies."""
    drain_s: float = 15.0
    """How long requests in progress may take after SIGTERM."""
    drain_delay_s: float = 0.0
    """How long to keep accepting, not ready, after SIGTERM: until load balancers have noticed."""
    depends: bool = False
    """Whether the process is ready only while what its models depend on is: the predictor behind a transformer."""
    dialect: Dialect = Dialect.KSERVE
    """Triton's says `triton` for the server's name, and gives gRPC's outputs raw whatever the request's form."""
    docs: bool = False
    """Serve the interactive API documentation under /docs."""
    events: EventSettings = field(default_factory=EventSettings)
    """What answers to CloudEvents say of themselves."""
    grpc_port: int | None = None
    """None: no gRPC; 0 takes a free port, named in the log."""
    grpc_required: bool = False
    """Whether a port that is taken, or a library that is missing, ends the process instead of only gRPC."""
    grpc_max_receive: int = 64 * 1024 * 1024
    """Bytes of a gRPC message, also after decompression; -1: no bound. Beyond: RESOURCE_EXHAUSTED."""
    grpc_max_send: int = -1
    """The same for an answer, which the model bounds."""
