"""Decides which processes a local run consists of and how each is started. Pure but for the ports, which are passed in.

    client → logger → predictor      explainer → logger → predictor      assembler, detector ← Kafka
    client → [logger →] transformer → logger → predictor

Next on the path: `deploy/local.py`, which starts them.
"""

from __future__ import annotations

import http.client
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from deploy.errors import UserError
from deploy.manifests import LoggerSpec, ServiceManifest, TransformerSpec
from deploy.supervisor import Program
from streams.events import PREDICTOR
from streams.topics import Topics

_LOOPBACK = "127.0.0.1"
_IN_THE_CLEAR = ("--ssl_certfile=", "--ssl_keyfile=")
"""Whatever a pod has there, or this process's environment: what speaks to it here is on loopback, and knows no TLS."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanSettings:
    """What a local run needs to know beside the manifests."""

    kafka: str
    topics: Topics
    files: tuple[Path, ...]
    """The YAML files, handed to the roles that read monitors."""
    monitored: frozenset[str]
    """The keys of what monitors watch: `namespace/name` for a predictor, `namespace/name/transformer`."""
    volumes: Mapping[str, Path]
    """Claim name of a `pvc://` URI → folder on this machine."""
    workers: int = 1
    """Assembler and detector processes, each; partitions spread over them."""
    host: str = "native"
    """Which stage host runs assembler and detector: native or faust."""
    port: int = 0
    """Where the first service listens; 0 takes a free port."""
    kafka_flags: tuple[str, ...] = ()
    """How the broker is reached (TLS, SASL), as words for whoever reaches it."""
    logger_flags: tuple[str, ...] = ()
    """Further words for every logger."""
    assembler_flags: tuple[str, ...] = ()
    """Further words for the assembler: where it finds what loggers sealed or put away."""
    spools: Path = Path("spool")
    """Folder of the loggers' spools, one for each."""
    idle_after: float = 2.0
    """Seconds of silence on a partition after which rows that wait for it are released."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The processes in starting order, and the addresses that people use."""

    programs: tuple[Program, ...]
    services: Mapping[str, str]
    explainers: Mapping[str, str]


def make(services: Sequence[ServiceManifest], settings: PlanSettings, free_port: Callable[[], int]) -> Plan:
    """Lay out every process.

    Raises:
        UserError: a storage URI that cannot be served here, two services of one name, or loggers with one spool.
    """
    loggers = sum(logger is not None for service in services for logger in _loggers(service))
    if loggers > 1 and any(word.startswith("--spool-dir") for word in settings.logger_flags):
        raise UserError(f"--logger-flags: --spool-dir is for one logger, not {loggers}; without it each has its own")
    programs: list[Program] = [*_workers("assembler", settings.assembler_flags, settings, free_port)]
    if settings.monitored:
        monitors = tuple(word for path in settings.files for word in ("--monitor", str(path)))
        programs += _workers("detector", monitors, settings, free_port)
    urls: dict[str, str] = {}
    explainers: dict[str, str] = {}
    for service in services:
        key = f"{service.namespace}/{service.name}"
        if key in urls:
            raise UserError(f"{service.path}: metadata.name: service {key} is described twice")
        port = settings.port if settings.port and not urls else free_port()
        entry = free_port() if service.transformer else port
        grpc_port = free_port() if service.transformer and service.transformer.asks_grpc else 0
        behind = free_port() if service.logger else entry
        programs.append(_predictor(service, behind, grpc_port, settings))
        if service.logger:
            programs.append(_logger(service, service.logger, entry, (behind, grpc_port), settings, free_port()))
        if service.transformer:
            # A logger takes gRPC on the port of HTTP, a predictor on one of its own.
            asked = grpc_port if grpc_port and not service.logger else entry
            programs += _transforming(service, service.transformer, port, asked, settings, free_port)
        urls[key] = f"http://{_LOOPBACK}:{port}"
        if service.explainer_args is not None:
            explainer_port = free_port()
            # Past a transformer, as in KServe: what is explained is an observation, and that is the predictor's.
            programs.append(_explainer(service, entry, explainer_port, settings, free_port()))
            explainers[key] = f"http://{_LOOPBACK}:{explainer_port}"
    return Plan(programs=tuple(programs), services=urls, explainers=explainers)


def model_directory(service: ServiceManifest, volumes: Mapping[str, Path]) -> Path:
    """Give the local folder behind the model's storage URI.

    Raises:
        UserError: there is none.
    """
    return _folder(service, service.storage_uri, "spec.predictor.model.storageUri", volumes)


def code_directory(service: ServiceManifest, spec: TransformerSpec, volumes: Mapping[str, Path]) -> Path:
    """Give the local folder behind the storage URI of a transformer's code.

    Raises:
        UserError: there is none.
    """
    return _folder(service, spec.storage_uri, "spec.transformer: STORAGE_URI", volumes)


def _folder(service: ServiceManifest, uri: str, field: str, volumes: Mapping[str, Path]) -> Path:
    """Follow `file://`, relative to the manifest, too, and `pvc://`, where the claim is mounted."""
    parts = urlsplit(uri)
    where = f"{service.path}: {field}"
    if parts.scheme == "file":
        path = service.path.parent / unquote(parts.netloc + parts.path)
    elif parts.scheme == "pvc":
        if parts.netloc not in volumes:
            raise UserError(
                f"{where}: claim {parts.netloc!r} has no folder here; name one: --volume {parts.netloc}=DIR"
            )
        path = volumes[parts.netloc] / unquote(parts.path.lstrip("/"))
    else:
        raise UserError(f"{where}: scheme {parts.scheme!r} is not served locally; expected file:// or pvc://")
    if not path.is_dir():
        raise UserError(f"{where}: {path} is no directory; train the model first, or name where it lies")
    return path.absolute()


def _sidelight(*words: str) -> tuple[str, ...]:
    return (sys.executable, "-m", "deploy.cli", *words)


def _workers(role: str, words: tuple[str, ...], settings: PlanSettings, free_port: Callable[[], int]) -> list[Program]:
    programs = []
    for index in range(settings.workers):
        metrics = free_port()
        page = _page(metrics)
        command = _sidelight(
            role, "--kafka", settings.kafka, "--prefix", settings.topics.prefix, "--host", settings.host,
            "--metrics-port", str(metrics), "--idle-after", str(settings.idle_after),
            "--instance", f"{role}-{index}", *settings.kafka_flags, *words,
        )  # fmt: skip
        ready = _answers(page)
        programs.append(Program(name=f"{role}-{index}", command=command, ready=ready, metrics=page))
    return programs


def _predictor(service: ServiceManifest, port: int, grpc_port: int, settings: PlanSettings) -> Program:
    command = _sidelight(
        "predictor", "--model_name", service.name, "--model_dir", str(model_directory(service, settings.volumes)),
        "--host", _LOOPBACK, "--http_port", str(port), "--grpc_port", str(grpc_port), "--runtime", service.model_format,
        *(_shadow_flags(service, settings) if service.logger else ()), *service.model_args, *_IN_THE_CLEAR,
    )  # fmt: skip
    base = f"http://{_LOOPBACK}:{port}"
    ready = _answers(f"{base}/v2/models/{service.name}/ready")
    return Program(name=f"predictor-{service.name}", command=command, ready=ready, metrics=f"{base}/metrics")


def _shadow_flags(service: ServiceManifest, settings: PlanSettings) -> tuple[str, ...]:
    """Have what shadow versions answer logged where the logger writes, and by its rules."""
    rules = [word for word in settings.logger_flags if word.startswith("--privacy=")]
    return (
        "--log-shadows", f"kafka://{settings.kafka}/{settings.topics.payloads}",
        "--inference-service", service.name, "--namespace", service.namespace,
        *(rules[-1:] or ("--privacy=none",)), *settings.kafka_flags,
    )  # fmt: skip


def _transforming(
    service: ServiceManifest,
    spec: TransformerSpec,
    port: int,
    asked: int,
    settings: PlanSettings,
    free_port: Callable[[], int],
) -> list[Program]:
    own = free_port() if spec.logger else port
    command = _sidelight(
        "predictor", *spec.args, "--model_name", service.name,
        "--model_dir", str(code_directory(service, spec, settings.volumes)), "--host", _LOOPBACK,
        "--http_port", str(own), "--grpc_port", "0", "--predictor_host", f"{_LOOPBACK}:{asked}", *_IN_THE_CLEAR,
    )  # fmt: skip
    base = f"http://{_LOOPBACK}:{own}"
    ready = _answers(f"{base}/v2/models/{service.name}/ready")
    programs = [Program(name=f"transformer-{service.name}", command=command, ready=ready, metrics=f"{base}/metrics")]
    if spec.logger:
        programs.append(_logger(service, spec.logger, port, (own, 0), settings, free_port(), "transformer"))
    return programs


def _loggers(service: ServiceManifest) -> tuple[LoggerSpec | None, ...]:
    return service.logger, service.transformer.logger if service.transformer else None


def _logger(
    service: ServiceManifest,
    spec: LoggerSpec,
    port: int,
    behind: tuple[int, int],
    settings: PlanSettings,
    metrics: int,
    component: str = PREDICTOR,
) -> Program:
    name = service.name if component == PREDICTOR else f"{service.name}.{component}"
    grpc = ("--grpc-component-port", str(behind[1])) if behind[1] else ()
    kept = {key: service.annotations[key] for key in spec.metadata_annotations if key in service.annotations}
    command = _sidelight(
        "logger", "--log-url", f"kafka://{settings.kafka}/{settings.topics.payloads}",
        "--host", _LOOPBACK, "--port", str(port), "--component-port", str(behind[0]), *grpc,
        "--log-mode", spec.mode, "--inference-service", service.name, "--namespace", service.namespace,
        "--component", component, "--metrics-port", str(metrics),
        "--metadata-headers", ",".join(spec.metadata_headers),
        "--metadata-annotations", ",".join(f"{key}={value}" for key, value in kept.items()),
        "--spool-dir", str(settings.spools / f"{service.namespace}.{name}"),
        *settings.kafka_flags, *settings.logger_flags,
    )  # fmt: skip
    ready = _answers(f"http://{_LOOPBACK}:{port}/v2/models/{service.name}/ready")
    return Program(name=f"logger-{name}", command=command, ready=ready, metrics=_page(metrics))


def _explainer(service: ServiceManifest, port: int, own_port: int, settings: PlanSettings, metrics: int) -> Program:
    monitored = f"{service.namespace}/{service.name}" in settings.monitored
    monitor = tuple(word for path in settings.files for word in ("--monitor", str(path))) if monitored else ()
    command = _sidelight(
        "explainer", "--model_name", service.name, "--predictor_host", f"{_LOOPBACK}:{port}",
        "--host", _LOOPBACK, "--http_port", str(own_port), "--metrics-port", str(metrics),
        *monitor, *(service.explainer_args or ()),
    )  # fmt: skip
    ready = _answers(f"http://{_LOOPBACK}:{own_port}/v2/health/ready")
    return Program(name=f"explainer-{service.name}", command=command, ready=ready, metrics=_page(metrics))


def _page(port: int) -> str:
    return f"http://{_LOOPBACK}:{port}/metrics"


def _answers(url: str) -> Callable[[], bool]:
    parts = urlsplit(url)

    def ready() -> bool:
        connection = http.client.HTTPConnection(parts.hostname or _LOOPBACK, parts.port, timeout=1.0)
        try:
            connection.request("GET", parts.path)
            return connection.getresponse().status == http.client.OK
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    return ready
