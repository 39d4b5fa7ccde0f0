"""Settings of the predictor: the process's own, and those that a model directory brings in `sidelight.json`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Final

import orjson

from inference.errors import ModelLoadFailed

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
class ModelSettings:
    """How one model is served. In the directory's `sidelight.json`, every key optional, unknown keys refused."""

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


@dataclass(frozen=True, slots=True, kw_only=True)
class Trust:
    """What the operator allows a model file to do.

    Never read from the model directory: who can write the file could write the permission.
    """

    pickle: bool = False
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
    loads: int = 2
    """Models that are loaded at the same time. More than the cores only slow the predictions that go on."""
    load_wait_s: float = 60.0
    """How long a load waits for memory, and a caller for a load."""
    retry_s: float = 1.0
    """What failed to load is not tried again for so long; doubled with each failure, and shortened at random by up to a
    half. Until then requests are answered with the reason, for a broken model must not cost a load for each."""
    retry_most_s: float = 300.0
    """The longest such pause."""
    poll_s: float = 0.0
    """How often the folders are looked at for new, changed and removed models. 0: never; a load call looks, too."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerSettings:
    """How the server behaves. All limits are per process."""

    host: str = "0.0.0.0"  # noqa: S104 - in a pod the kubelet's probes come from outside; the local runner passes loopback
    port: int = 8080
    """0 takes a free port, named in the ready line."""
    threads: int = 4
    """Requests that compute at the same time. More than the cores only makes them wait for each other."""
    queue: int = 256
    """Requests that may wait for a thread. Full: 503 with Retry-After at once, because a late answer helps nobody."""
    timeout_s: float = 60.0
    """From the body's arrival to the answer. A prediction that runs on is not interrupted, but keeps its place."""
    body_timeout_s: float = 60.0
    """For a request body to arrive."""
    max_body: int = 64 * 1024 * 1024
    """Bytes of a request body, also after decompression."""
    keep_alive_s: int = 65
    """Idle connections are kept so long: KServe's default, above the 60 s of most proxies."""
    drain_s: float = 15.0
    """How long requests in progress may take after SIGTERM."""
    drain_delay_s: float = 0.0
    """How long to keep accepting, not ready, after SIGTERM: until load balancers have noticed."""
    docs: bool = False
    """Serve the interactive API documentation under /docs."""


def read_model_settings(directory: Path) -> ModelSettings:
    """Read a model directory's settings; defaults when it brings none.

    Raises:
        ModelLoadFailed: no JSON object, an unknown key, or a value of the wrong type.
    """
    path = directory / SETTINGS_FILE
    if not path.exists():
        return ModelSettings()
    try:
        given = orjson.loads(path.read_bytes())
    except orjson.JSONDecodeError as exc:
        raise ModelLoadFailed(f"{path}: no valid JSON: {exc}") from exc
    if not isinstance(given, dict):
        raise ModelLoadFailed(f"{path}: expected a JSON object, got {type(given).__name__}")
    known = tuple(each.name for each in fields(ModelSettings))
    values = {key: _checked(path, key, value, known) for key, value in given.items()}
    if values.get("datatype", "FP64") not in {"FP32", "FP64"}:
        raise ModelLoadFailed(f"{path}: datatype: expected FP32 or FP64, got {values['datatype']!r}")
    return ModelSettings(**values)


def _checked(path: Path, key: str, value: object, known: tuple[str, ...]) -> Any:  # noqa: ANN401 - JSON
    if key not in known:
        raise ModelLoadFailed(f"{path}: unknown key {key!r}; known: {', '.join(known)}")
    if key == "features":
        if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
            raise ModelLoadFailed(f"{path}: features: expected a list of names, got {value!r}")
        return tuple(value)
    if key == "options":
        if not isinstance(value, dict):
            raise ModelLoadFailed(f"{path}: options: expected an object, got {value!r}")
        return value
    if not isinstance(value, str) or not value:
        raise ModelLoadFailed(f"{path}: {key}: expected a text, got {value!r}")
    return value
