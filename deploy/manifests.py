"""Reads the YAML that people already have: KServe's `InferenceService` (v1beta1) and our `InferenceMonitor`.

An InferenceService may hold anything that KServe allows: what the local runner does not use is named in `ignored`,
never refused. An InferenceMonitor is ours, so an unknown key in it is an error. Next on the path: `deploy/plan.py`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from deploy.errors import UserError

if TYPE_CHECKING:
    from detectors.settings import MonitorSettings

Document = Mapping[str, Any]

# The predictor's single-framework spellings, kept by KServe beside `model:`.
_LEGACY_FORMATS = (
    "sklearn",
    "xgboost",
    "lightgbm",
    "tensorflow",
    "pytorch",
    "onnx",
    "triton",
    "huggingface",
    "pmml",
    "paddle",
)
_MODES = ("all", "request", "response")


@dataclass(frozen=True, slots=True, kw_only=True)
class LoggerSpec:
    """`spec.predictor.logger`, as KServe's LoggerSpec defines it, but for `url`: a local run logs to its own broker."""

    mode: str = "all"
    metadata_headers: tuple[str, ...] = ()
    metadata_annotations: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class TransformerSpec:
    """`spec.transformer` with a container of ours: pre- and postprocessing in front of the predictor."""

    storage_uri: str
    """Where its code lies: the container's STORAGE_URI, as KServe's storage initializer reads it."""
    args: tuple[str, ...]
    logger: LoggerSpec | None

    @property
    def asks_grpc(self) -> bool:
        """Say whether it asks its predictor over gRPC."""
        return "grpc-v2" in " ".join(self.args)


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceManifest:
    """What the local runner takes from one InferenceService."""

    name: str
    namespace: str
    model_format: str
    """Name of the runtime that reads the model."""
    storage_uri: str
    model_args: tuple[str, ...]
    logger: LoggerSpec | None
    transformer: TransformerSpec | None = None
    explainer_args: tuple[str, ...] | None
    """Arguments of the explainer's container; None when the service has no explainer."""
    annotations: Mapping[str, str]
    ignored: tuple[str, ...]
    """Paths of the fields that are valid in KServe and have no effect here."""
    path: Path


def load_services(paths: Iterable[Path]) -> list[ServiceManifest]:
    """Read every InferenceService in these files; a `---` separated file may hold several kinds."""
    return [_service(document, path) for path, document in _documents(paths) if document["kind"] == "InferenceService"]


def load_monitors(paths: Iterable[Path]) -> list[MonitorSettings]:
    """Read every InferenceMonitor in these files.

    Raises:
        UserError: not YAML, an unknown key, or a value that the monitor refuses; the message names file and field.
    """
    from detectors.errors import DetectorError  # noqa: PLC0415 - a role without detectors must not load numpy
    from detectors.settings import monitor_from_mapping  # noqa: PLC0415 - likewise

    monitors = []
    for path, document in _documents(paths):
        if document["kind"] == "InferenceMonitor":
            try:
                monitors.append(monitor_from_mapping(document, path.parent))
            except DetectorError as exc:
                raise UserError(f"{path}: {exc}") from exc
    return monitors


def _documents(paths: Iterable[Path]) -> Iterator[tuple[Path, Document]]:
    for path in paths:
        for index, document in enumerate(_parsed(path)):
            if document is None:
                continue
            if not isinstance(document, dict) or not isinstance(document.get("kind"), str):
                raise UserError(f"{path}: document {index} has no 'kind'; expected a Kubernetes object")
            yield path, document


def _parsed(path: Path) -> Sequence[object]:
    try:
        return list(yaml.safe_load_all(path.read_text(encoding="utf-8")))
    except OSError as exc:
        raise UserError(f"{path}: cannot be read: {exc.strerror}") from exc
    except (yaml.YAMLError, UnicodeDecodeError) as exc:
        raise UserError(f"{path}: not YAML: {exc}") from exc


def _service(document: Document, path: Path) -> ServiceManifest:
    fields = _Fields(document, path)
    version = fields.text("apiVersion")
    if version != "serving.kserve.io/v1beta1":
        raise UserError(f"{path}: apiVersion: expected serving.kserve.io/v1beta1, got {version!r}")
    name = fields.text("metadata.name")
    model_format, storage_uri, model_args = _model(fields)
    return ServiceManifest(
        name=name,
        namespace=fields.text("metadata.namespace", "default"),
        model_format=model_format,
        storage_uri=storage_uri,
        model_args=model_args,
        logger=_logger(fields, "spec.predictor.logger"),
        transformer=_transformer(fields),
        explainer_args=_explainer(fields),
        annotations={str(key): str(value) for key, value in fields.mapping("metadata.annotations").items()},
        ignored=fields.unused(),
        path=path,
    )


def _model(fields: _Fields) -> tuple[str, str, tuple[str, ...]]:
    if fields.has("spec.predictor.model"):
        at = "spec.predictor.model"
        model_format = fields.text(f"{at}.modelFormat.name")
    else:
        legacy = [name for name in _LEGACY_FORMATS if fields.has(f"spec.predictor.{name}")]
        if len(legacy) != 1:
            raise UserError(
                f"{fields.path}: spec.predictor: expected 'model' (or one of {', '.join(_LEGACY_FORMATS)}); "
                "custom containers do not run locally"
            )
        at, model_format = f"spec.predictor.{legacy[0]}", legacy[0]
    fields.text(f"{at}.protocolVersion", "")  # both are served, whichever is asked for
    return model_format, fields.text(f"{at}.storageUri"), fields.texts(f"{at}.args")


def _logger(fields: _Fields, at: str) -> LoggerSpec | None:
    if not fields.has(at):
        return None
    mode = fields.text(f"{at}.mode", "all")
    if mode not in _MODES:
        raise UserError(f"{fields.path}: {at}.mode: expected one of {', '.join(_MODES)}, got {mode!r}")
    return LoggerSpec(
        mode=mode,
        metadata_headers=fields.texts(f"{at}.metadataHeaders"),
        metadata_annotations=fields.texts(f"{at}.metadataAnnotations"),
    )


def _transformer(fields: _Fields) -> TransformerSpec | None:
    """Read a transformer of ours; one of another image stays among what has no effect here."""
    at = "spec.transformer.containers[0]"
    if not fields.has(at) or "sidelight" not in str(fields.peek(f"{at}.image")):
        return None
    fields.text(f"{at}.image", "")
    fields.text(f"{at}.name", "")
    given = fields.get(f"{at}.env")
    variables = [item for item in given if isinstance(item, dict)] if isinstance(given, list) else []
    uri = next((str(item.get("value", "")) for item in variables if item.get("name") == "STORAGE_URI"), "")
    if not uri:
        raise UserError(f"{fields.path}: {at}.env: expected STORAGE_URI with the folder of its code, got none")
    return TransformerSpec(
        storage_uri=uri, args=fields.texts(f"{at}.args"), logger=_logger(fields, "spec.transformer.logger")
    )


def _explainer(fields: _Fields) -> tuple[str, ...] | None:
    at = "spec.explainer.containers[0]"
    if not fields.has(at):
        return None
    image = fields.text(f"{at}.image", "")
    if "sidelight" not in image:
        raise UserError(
            f"{fields.path}: {at}.image: expected Sidelight's own explainer, which alone runs locally, got {image!r}"
        )
    fields.text(f"{at}.name", "")
    return fields.texts(f"{at}.args")


class _Fields:
    """Dotted access to a document that remembers what was asked for, so that the rest can be named."""

    def __init__(self, document: Document, path: Path) -> None:
        self._document = document
        self._asked = {"kind", "metadata.labels"}
        self.path = path

    def get(self, dotted: str) -> object:
        self._asked.add(dotted)
        return self._found(dotted)

    def has(self, dotted: str) -> bool:
        return self._found(dotted) is not None

    def peek(self, dotted: str) -> object:
        return self._found(dotted)

    def text(self, dotted: str, default: str | None = None) -> str:
        value = self.get(dotted)
        if value is None and default is not None:
            return default
        if not isinstance(value, str) or (not value and default is None):
            raise UserError(f"{self.path}: {dotted}: expected text, got {value!r}")
        return value

    def texts(self, dotted: str) -> tuple[str, ...]:
        value = self.get(dotted)
        if value is None:
            return ()
        if not isinstance(value, list):
            raise UserError(f"{self.path}: {dotted}: expected a list, got {value!r}")
        return tuple(str(item) for item in value)

    def mapping(self, dotted: str) -> Mapping[str, object]:
        value = self.get(dotted)
        return value if isinstance(value, dict) else {}

    def unused(self) -> tuple[str, ...]:
        return tuple(sorted(self._leaves(self._document, "")))

    def _found(self, dotted: str) -> object:
        value: object = self._document
        for key in dotted.replace("[0]", ".0").split("."):
            if key == "0":
                value = value[0] if isinstance(value, list) and value else None
            else:
                value = value.get(key) if isinstance(value, dict) else None
        return value

    def _leaves(self, value: object, at: str) -> Iterator[str]:
        if at in self._asked:
            return
        if isinstance(value, dict) and value:
            for key, item in value.items():
                yield from self._leaves(item, f"{at}.{key}" if at else str(key))
        elif isinstance(value, list) and any(isinstance(item, dict) for item in value):
            for index, item in enumerate(value):
                yield from self._leaves(item, f"{at}[{index}]")
        else:
            yield at
