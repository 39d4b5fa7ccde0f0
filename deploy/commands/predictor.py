"""`sidelight predictor`: serve a model directory, with KServe's own arguments. Next: `inference/server.py`."""

from __future__ import annotations

import argparse
import logging
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Final

from deploy import environment, gpus, siblings
from deploy.errors import UserError
from deploy.kinds import at_least, boolean, seconds
from deploy.listening import listening
from deploy.models import add_model_arguments, add_repository_arguments, open_repository
from deploy.shadows import add_shadow_arguments, open_shadow_log
from deploy.upstream import THREADS, add_upstream_arguments, open_link, upstream_settings, without_host
from inference.certificate import Certificate
from inference.protocol.cloudevents import EventSettings
from inference.server import PredictorServer
from inference.settings import CertificateFiles, Dialect, ServerSettings
from inference.siblings import Siblings
from streams.addresses import bare
from streams.errors import BadCredentials

log = logging.getLogger(__name__)

HELP = "serve a model over HTTP and gRPC: KServe V1 and V2 (Open Inference Protocol)"
EXAMPLES = """\
  sidelight predictor --model_name income --model_dir model/ --http_port 8080
  sidelight predictor --model_name a --model_dir models/a --model_name b --model_dir s3://bucket/models/b.tar.gz
  sidelight predictor --model_repository models/ --max_memory 4Gi --repository_poll_s 10
  sidelight predictor --model_name income --model_dir transformer/ --trusted --predictor_host income-predictor:80
  curl -d '{"instances": [[39, 13, 1]]}' localhost:8080/v1/models/income:predict
"""
_DEFAULTS: Final = ServerSettings()
_GRPC_PORT: Final = 8081
"""KServe's."""
_TLS_PORT: Final = 8443
"""KServe's for HTTP with a certificate and a key."""
_CERTIFICATE: Final = "KSERVE_TLS_CERT_FILE"
_KEY: Final = "KSERVE_TLS_KEY_FILE"

# Arguments of KServe's servers that change nothing here; each is answered with one line that says why.
_WITHOUT_EFFECT: Final = {
    "max_asyncio_workers": "one event loop never computes, so it needs no workers",
    "enable_latency_logging": "latencies are on /metrics",
    "configure_logging": "the log goes to stderr",
    "log_config_file": "the log goes to stderr",
    "access_log_format": "there is no access log; the logger records payloads",
    "event_loop": "uvloop is always used",
    "protocol": "V1 and V2 are both served",
    "nthread": "a prediction runs on one thread; --max_threads sets how many run at once",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments; those with underscores are KServe's."""
    add_model_arguments(parser)
    add_repository_arguments(parser)
    server = parser.add_argument_group("server")
    server.add_argument(
        "--host", type=bare, default=_DEFAULTS.host,
        help="address to listen on; :: is every one of IPv6 and IPv4 (default: %(default)s)",
    )  # fmt: skip
    server.add_argument("--http_port", type=at_least(0), default=_DEFAULTS.port, help="default: %(default)s; 0: any")
    server.add_argument("--workers", type=at_least(1), default=1, help="processes (default: %(default)s)")
    server.add_argument(
        "--max_threads", type=at_least(1), metavar="N",
        help=f"predictions at once (default: {_DEFAULTS.threads}, a transformer's: {THREADS})",
    )  # fmt: skip
    server.add_argument(
        "--dialect", type=Dialect, choices=list(Dialect), default=_DEFAULTS.dialect,
        help="whose way is followed where KServe's and Triton's servers answer differently (default: %(default)s)",
    )  # fmt: skip
    server.add_argument("--enable_docs_url", type=boolean, default=_DEFAULTS.docs, metavar="BOOL", help="serve /docs")
    server.add_argument(
        "--timeout_keep_alive", "--timeout-keep-alive", type=at_least(1), default=_DEFAULTS.keep_alive_s,
        metavar="SECONDS", help="how long idle connections stay (default: %(default)s)",
    )  # fmt: skip
    _add_tls(parser.add_argument_group("TLS", "of HTTP and gRPC; files are read again when they change"))
    _add_grpc(parser.add_argument_group("gRPC"))
    _add_limits(parser.add_argument_group("limits"))
    add_upstream_arguments(parser)
    add_shadow_arguments(parser)
    accepted = parser.add_argument_group("accepted from KServe, without effect")
    for name, reason in _WITHOUT_EFFECT.items():
        accepted.add_argument(*dict.fromkeys((f"--{name}", f"--{name.replace('_', '-')}")), help=reason, metavar="X")


def _add_tls(options: argparse._ArgumentGroup) -> None:
    for name, text in (
        ("ssl_certfile", f"PEM of the certificate and its chain (default: ${_CERTIFICATE}); turns TLS on"),
        ("ssl_keyfile", f"PEM of its private key (default: ${_KEY}, or else in the certificate's file)"),
    ):
        options.add_argument(f"--{name}", f"--{name.replace('_', '-')}", metavar="FILE", help=text)


def _add_grpc(options: argparse._ArgumentGroup) -> None:
    for name, kind, default, metavar, text in (
        ("grpc_port", at_least(0), None, "PORT", f"default: {_GRPC_PORT}, or any with --http_port 0; 0: any"),
        ("enable_grpc", boolean, True, "BOOL", "serve gRPC (default: true)"),
        ("grpc_max_receive_message_length", _length, None, "BYTES", "of a request (default, and -1: as --max-body)"),
        ("grpc_max_send_message_length", _length, None, "BYTES", "of an answer (default, and -1: no bound)"),
    ):
        words = dict.fromkeys((f"--{name}", f"--{name.replace('_', '-')}"))
        options.add_argument(*words, type=kind, default=default, metavar=metavar, help=text)


def _add_limits(limits: argparse._ArgumentGroup) -> None:
    for flag, kind, default, text in (
        ("--max-queue", at_least(0), _DEFAULTS.queue, "requests that wait for a thread; beyond: 503"),
        (
            "--max-connections",
            at_least(1),
            _DEFAULTS.connections,
            "of HTTP, and as many of gRPC; one more replaces an idle one, or is sent away",
        ),
        ("--max-body", at_least(1), _DEFAULTS.max_body, "bytes of a request body; beyond: 413"),
        ("--request-timeout", seconds, _DEFAULTS.timeout_s, "seconds until a request is given up with 503"),
        (
            "--body-timeout",
            seconds,
            _DEFAULTS.body_timeout_s,
            "seconds for a body to arrive, or for an answer to be read",
        ),
        ("--drain-timeout", seconds, _DEFAULTS.drain_s, "seconds that requests in progress get after SIGTERM"),
        ("--drain-delay", seconds, _DEFAULTS.drain_delay_s, "seconds to keep accepting, not ready, after SIGTERM"),
    ):
        limits.add_argument(flag, type=kind, default=default, help=f"{text} (default: %(default)s)")


def run(arguments: argparse.Namespace) -> int:
    """Load the model, then serve until SIGTERM or SIGINT."""
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    for name, reason in _WITHOUT_EFFECT.items():
        if getattr(arguments, name) is not None:
            log.info("--%s has no effect: %s", name, reason)
    for name in without_host(arguments):
        log.info("--%s has no effect without --predictor_host", name)
    settings = _settings(arguments)
    if arguments.workers > 1:
        return siblings.run(arguments.workers, settings, partial(_serve, arguments))
    return _serve(arguments, settings)


def _serve(arguments: argparse.Namespace, settings: ServerSettings, others: Siblings | None = None) -> int:
    shadows = open_shadow_log(arguments)
    link = open_link(arguments)
    gpu, notes = (0, []) if others is None else (_gpu(others.index), others.notes.all())
    repository = open_repository(arguments, link, gpu, notes)
    try:
        server = PredictorServer(repository, settings, others)
    except BadCredentials as exc:
        raise UserError(str(exc)) from exc
    if shadows is not None:
        server.keep_shadows(shadows.offer, shadows)
    repository.watch()
    server.run(None if others else listening(settings.host, settings.port))
    repository.close()
    if shadows is not None:
        shadows.close()
    if link is not None:
        link.close()
    log.info("stopped")
    return 1 if server.lost else 0


def _gpu(process: int) -> int:
    """Give the number of the GPU that one of several processes takes for models that name none."""
    count = gpus.visible(environment.inherited().get("CUDA_VISIBLE_DEVICES"), gpus.present())
    number = gpus.share(process, count)
    if count > 1:
        log.info("process %d takes GPU %d of %d for models that name none", process, number, count)
    return number


def _settings(arguments: argparse.Namespace) -> ServerSettings:
    behind = upstream_settings(arguments)
    tls = _tls(arguments)
    return ServerSettings(
        host=arguments.host,
        port=http_port(arguments.http_port, tls),
        tls=tls,
        threads=arguments.max_threads or (_DEFAULTS.threads if behind is None else THREADS),
        queue=arguments.max_queue,
        timeout_s=arguments.request_timeout,
        body_timeout_s=arguments.body_timeout,
        max_body=arguments.max_body,
        connections=arguments.max_connections,
        keep_alive_s=arguments.timeout_keep_alive,
        drain_s=arguments.drain_timeout,
        drain_delay_s=arguments.drain_delay,
        depends=behind is not None and behind.check_health,
        dialect=arguments.dialect,
        docs=arguments.enable_docs_url,
        traces=environment.traces(),
        events=_events(),
        grpc_port=_grpc_port(arguments),
        grpc_required=arguments.grpc_port is not None,
        grpc_max_receive=arguments.grpc_max_receive_message_length or arguments.max_body,
        grpc_max_send=arguments.grpc_max_send_message_length or _DEFAULTS.grpc_max_send,
    )


def _events() -> EventSettings:
    """Take what KServe's servers read from the environment."""
    merge = environment.text("CE_MERGE", "false").lower() == "true"
    settings = EventSettings(source=environment.text("CE_SOURCE"), merge=merge)
    kind = environment.text("CE_TYPE")
    return replace(settings, type=kind) if kind else settings


def _tls(arguments: argparse.Namespace) -> CertificateFiles | None:
    """Give the files of the certificate, which an empty word turns off.

    Raises:
        UserError: they cannot be used as they are now.
    """
    given = arguments.ssl_certfile, arguments.ssl_keyfile
    certificate, key = (
        environment.text(name) if word is None else word for word, name in zip(given, (_CERTIFICATE, _KEY), strict=True)
    )
    if not certificate:
        if key:
            raise UserError(f"--ssl_keyfile {key}: a key needs its certificate; name it with --ssl_certfile")
        return None
    files = CertificateFiles(certificate=Path(certificate), key=Path(key) if key else None)
    try:
        Certificate(files)
    except BadCredentials as exc:
        raise UserError(f"TLS: {exc}") from exc
    return files


def http_port(asked: int, tls: CertificateFiles | None) -> int:
    """Give the port for HTTP. As in KServe, 8080 becomes 8443 whether it was said or not, once both files are named."""
    if tls is None or tls.key is None or asked != _DEFAULTS.port:
        return asked
    log.info(
        "HTTP is on port %d in place of %d, as KServe's servers do it with a certificate and a key; any other"
        " --http_port is taken as it is",
        _TLS_PORT, asked,
    )  # fmt: skip
    return _TLS_PORT


def _grpc_port(arguments: argparse.Namespace) -> int | None:
    if not arguments.enable_grpc:
        return None
    if arguments.grpc_port is not None:
        return int(arguments.grpc_port)
    return _GRPC_PORT if arguments.http_port else 0


def _length(text: str) -> int | None:
    return None if text == "-1" else at_least(1)(text)
