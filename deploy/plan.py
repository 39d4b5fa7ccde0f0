"""Decides which processes a local run consists of and how each is started. Pure but for the ports, which are passed in.

    client → logger → predictor      explainer → logger → predictor      assembler, detector ← Kafka

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
from deploy.manifests import ServiceManifest
from deploy.supervisor import Program
from streams.topics import Topics

_LOOPBACK = "127.0.0.1"


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanSettings:
    """What a local run needs to know beside the manifests."""

    kafka: str
    topics: Topics
    files: tuple[Path, ...]
    """The YAML files, handed to the roles that read monitors."""
    monitored: frozenset[str]
    """`namespace/name` of the services that a monitor watches."""
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
    loggers = sum(service.logger is not None for service in services)
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
        predictor_port = free_port() if service.logger else port
        programs.append(_predictor(service, predictor_port, settings))
        if service.logger:
            programs.append(_logger(service, port, predictor_port, settings, free_port()))
        urls[key] = f"http://{_LOOPBACK}:{port}"
        if service.explainer_args is not None:
            explainer_port = free_port()
            programs.append(_explainer(service, port, explainer_port, settings, free_port()))
            explainers[key] = f"http://{_LOOPBACK}:{explainer_port}"
    return Plan(programs=tuple(programs), services=urls, explainers=explainers)


def model_directory(service: ServiceManifest, volumes: Mapping[str, Path]) -> Path:
    """Give the local folder behind a storage URI: `file://` (relative to the manifest, too) and mounted `pvc://`."""
    parts = urlsplit(service.storage_uri)
    where = f"{service.path}: spec.predictor.model.storageUri"
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


def _predictor(service: ServiceManifest, port: int, settings: PlanSettings) -> Program:
    command = _sidelight(
        "predictor", "--model_name", service.name, "--model_dir", str(model_directory(service, settings.volumes)),
        "--host", _LOOPBACK, "--http_port", str(port), "--grpc_port", "0", "--runtime", service.model_format,
        *service.model_args,
    )  # fmt: skip
    base = f"http://{_LOOPBACK}:{port}"
    ready = _answers(f"{base}/v2/models/{service.name}/ready")
    return Program(name=f"predictor-{service.name}", command=command, ready=ready, metrics=f"{base}/metrics")


def _logger(service: ServiceManifest, port: int, predictor_port: int, settings: PlanSettings, metrics: int) -> Program:
    spec = service.logger
    if spec is None:
        raise ValueError("a service without a logger has no logger process")
    kept = {key: service.annotations[key] for key in spec.metadata_annotations if key in service.annotations}
    command = _sidelight(
        "logger", "--log-url", f"kafka://{settings.kafka}/{settings.topics.payloads}",
        "--host", _LOOPBACK, "--port", str(port), "--component-port", str(predictor_port),
        "--log-mode", spec.mode, "--inference-service", service.name, "--namespace", service.namespace,
        "--component", "predictor", "--metrics-port", str(metrics),
        "--metadata-headers", ",".join(spec.metadata_headers),
        "--metadata-annotations", ",".join(f"{key}={value}" for key, value in kept.items()),
        "--spool-dir", str(settings.spools / f"{service.namespace}.{service.name}"),
        *settings.kafka_flags, *settings.logger_flags,
    )  # fmt: skip
    ready = _answers(f"http://{_LOOPBACK}:{port}/v2/models/{service.name}/ready")
    return Program(name=f"logger-{service.name}", command=command, ready=ready, metrics=_page(metrics))


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
