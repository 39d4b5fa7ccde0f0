"""`sidelight logger`: the sidecar. Takes the flags of KServe's agent, so that a service only changes its image."""

from __future__ import annotations

import argparse
import asyncio
import logging
import signal
import sys
from typing import Final
from urllib.parse import urlsplit

import uvloop
from prometheus_client import CollectorRegistry, start_http_server

from deploy.errors import UserError
from logger.courier import Courier
from logger.metrics import LoggerCollector
from logger.outbox import Outbox
from logger.proxy import Proxy
from logger.settings import OutboxSettings, ProxySettings, TapSettings
from logger.tap import count
from streams.publishers.confluent import ConfluentPublisher, PublisherSettings
from streams.topics import Topics

log = logging.getLogger("sidelight.logger")

HELP = "proxy in front of a model that logs every request and response as CloudEvents on Kafka"
EXAMPLES = """\
  sidelight logger --log-url kafka://broker:9092/inference.payloads --component-port 8080
  sidelight logger --log-url kafka://127.0.0.1:9092 --port 9081 --component-port 8080 --log-mode all \\
      --inference-service iris --namespace default --metadata-headers x-client,user-agent --metrics-port 9089"""

# Flags of KServe's agent 0.20 that are read and have no effect yet; each that is set is named once at start.
_LATER: Final = (
    "--enable-puller", "--config-dir", "--model-dir", "--workers", "--log-store-path", "--log-store-format",
    "--log-marshaller-url", "--log-marshaller-port", "--log-batch-size", "--log-batch-interval", "--enable-batcher",
    "--max-batchsize", "--max-latency", "--logger-ca-cert-file", "--logger-tls-skip-verify",
)  # fmt: skip
_MARGIN: Final = 64 * 1024


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("--log-url", required=True, help="kafka://host:port[,host:port][/topic]")
    parser.add_argument("--host", default="0.0.0.0", help="address to listen on (default: all)")  # noqa: S104 - as KServe's agent
    parser.add_argument("--port", type=int, default=9081, help="port to listen on (default: 9081)")
    parser.add_argument("--component-port", type=int, default=8080, help="the model's port (default: 8080)")
    parser.add_argument("--log-mode", choices=("all", "request", "response"), default="all")
    parser.add_argument("--source-uri", default="", help="source of the events (default: http://localhost:PORT/)")
    parser.add_argument("--inference-service", default="", help="name of the InferenceService")
    parser.add_argument("--namespace", default="")
    parser.add_argument("--component", default="predictor")
    parser.add_argument("--endpoint", default="")
    parser.add_argument("--metadata-headers", default="", help="request headers to log, comma-separated, any case")
    parser.add_argument("--metadata-annotations", default="", help="k=v,... to put into every event")
    parser.add_argument("--capture", type=int, default=TapSettings().capture, help="bytes kept of each body")
    parser.add_argument("--metrics-port", type=int, default=0, metavar="PORT", help="Prometheus page; 0 is none")
    for flag in _LATER:
        parser.add_argument(flag, nargs="?", const="true", default=None, help="KServe's agent; no effect yet")


def run(arguments: argparse.Namespace) -> int:
    """Do it."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s", stream=sys.stderr)
    _name_idle_flags(arguments)
    bootstrap, topic = destination(arguments.log_url)
    tap = _tap(arguments)
    outbox_settings = OutboxSettings()
    outbox = Outbox(outbox_settings, count(tap))
    publisher = ConfluentPublisher(
        PublisherSettings(
            bootstrap=bootstrap, client_id="logger", linger_ms=20, message_max_bytes=tap.capture + _MARGIN
        )
    )
    courier = Courier(outbox, publisher, tap, outbox_settings, topic)
    settings = ProxySettings(host=arguments.host, port=arguments.port, upstream_port=arguments.component_port)
    uvloop.run(_serve(settings, tap, outbox, courier, arguments.metrics_port))
    left = sum(outbox.dropped().values())
    log.info(
        "drained: %d events captured, %d delivered, dropped %s", outbox.captured, outbox.delivered, outbox.dropped()
    )
    return 1 if left else 0


def destination(url: str) -> tuple[str, str]:
    """Give bootstrap servers and topic of a `kafka://` URL.

    Raises:
        UserError: another scheme, or no server.
    """
    parts = urlsplit(url)
    if parts.scheme != "kafka" or not parts.netloc:
        raise UserError(f"--log-url: expected kafka://host:port/topic, got {url!r}")
    return parts.netloc, parts.path.strip("/") or Topics().payloads


async def _serve(
    settings: ProxySettings, tap: TapSettings, outbox: Outbox, courier: Courier, metrics_port: int
) -> None:
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    proxy = Proxy(settings, tap.capture, outbox.offer)
    if metrics_port:
        registry = CollectorRegistry()
        registry.register(LoggerCollector(proxy, outbox, courier))
        start_http_server(metrics_port, addr="127.0.0.1", registry=registry)
    courier.start()
    log.info("logger ready on %s:%d, model on port %d", settings.host, settings.port, settings.upstream_port)
    await proxy.serve(stopping)
    await asyncio.to_thread(courier.stop)


def _tap(arguments: argparse.Namespace) -> TapSettings:
    annotations = {}
    for pair in filter(None, arguments.metadata_annotations.split(",")):
        key, equals, value = pair.partition("=")
        if not equals:
            raise UserError(f"--metadata-annotations: expected k=v,..., got {pair!r}")
        annotations[key] = value
    return TapSettings(
        mode=arguments.log_mode,
        source=arguments.source_uri or f"http://localhost:{arguments.port}/",
        service=arguments.inference_service,
        namespace=arguments.namespace,
        component=arguments.component,
        endpoint=arguments.endpoint,
        metadata_headers=frozenset(
            filter(None, (name.strip().lower() for name in arguments.metadata_headers.split(",")))
        ),
        annotations=annotations,
        capture=arguments.capture,
    )


def _name_idle_flags(arguments: argparse.Namespace) -> None:
    for flag in _LATER:
        value = getattr(arguments, flag.removeprefix("--").replace("-", "_"))
        if value not in {None, "", "false", "False", "0"}:
            log.warning("%s %s: accepted, and without effect in this version", flag, value)
