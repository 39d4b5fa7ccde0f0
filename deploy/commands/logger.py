"""`sidelight logger`: the sidecar. Takes the flags of KServe's agent, so that a service only changes its image."""

from __future__ import annotations

import argparse
import asyncio
import errno
import logging
import os
import signal
import sys
import threading
from functools import partial
from typing import Final
from urllib.parse import urlsplit

from prometheus_client import CollectorRegistry, start_http_server

from deploy import sidecar
from deploy.errors import UserError
from logger.courier import Courier
from logger.lane import Lane
from logger.metrics import LoggerCollector, Totals
from logger.outbox import Outbox
from logger.proxy import Proxy
from logger.settings import OutboxSettings, ProxySettings, TapSettings
from logger.shipper import Shipper
from logger.tap import Tap
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
_NICE: Final = 5


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
    parser.add_argument("--proxies", type=int, default=1, help="proxy processes that share the port (default: 1)")
    for flag in _LATER:
        parser.add_argument(flag, nargs="?", const="true", default=None, help="KServe's agent; no effect yet")


def run(arguments: argparse.Namespace) -> int:
    """Do it."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s", stream=sys.stderr)
    _name_idle_flags(arguments)
    bootstrap, topic = destination(arguments.log_url)
    tap, outbox = Tap(_tap(arguments)), OutboxSettings()
    settings = ProxySettings(host=arguments.host, port=arguments.port, upstream_port=arguments.component_port)
    lanes = [Lane(outbox.max_bytes // arguments.proxies & ~15) for _ in range(arguments.proxies)]
    publisher = PublisherSettings(
        bootstrap=bootstrap, client_id="logger", linger_ms=20, message_max_bytes=arguments.capture + _MARGIN,
        delivery_timeout_ms=int(outbox.retry_s * 1000), queue_kib=outbox.client_kib,
    )  # fmt: skip
    children = [
        sidecar.Child(f"proxy {number}", partial(_proxy, settings, arguments.capture, lane, outbox, tap, number), 60)
        for number, lane in enumerate(lanes)
    ]
    ship = partial(_ship, lanes, tap, publisher, topic, outbox, arguments.metrics_port)
    code = sidecar.run([*children, sidecar.Child("shipper", ship, outbox.flush_s + 10)])
    totals = Totals(lanes)
    log.info("drained: %d events captured, %d delivered, dropped %s", totals.captured, totals.delivered, totals.dropped)
    return code or (1 if totals.dropped else 0)


def destination(url: str) -> tuple[str, str]:
    """Give bootstrap servers and topic of a `kafka://` URL.

    Raises:
        UserError: another scheme, or no server.
    """
    parts = urlsplit(url)
    if parts.scheme != "kafka" or not parts.netloc:
        raise UserError(f"--log-url: expected kafka://host:port/topic, got {url!r}")
    return parts.netloc, parts.path.strip("/") or Topics().payloads


def _proxy(
    settings: ProxySettings, capture: int, lane: Lane, outbox: OutboxSettings, tap: Tap, number: int
) -> int:  # fmt: skip
    import uvloop  # noqa: PLC0415 - each process loads what it alone needs

    async def serve() -> None:
        stopping = asyncio.Event()
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopping.set)
        proxy = Proxy(settings, capture, Outbox(lane, outbox, tap.events_each).offer, lane.tally)
        await proxy.serve(stopping, partial(_say_ready, settings) if number == 0 else lambda: None)

    try:
        uvloop.run(serve())
    except OSError as exc:
        if exc.errno not in {errno.EADDRINUSE, errno.EACCES, errno.EADDRNOTAVAIL}:
            raise
        raise UserError(f"--host {settings.host} --port {settings.port}: {os.strerror(exc.errno).lower()}") from exc
    return 0


def _say_ready(settings: ProxySettings) -> None:
    log.info("logger ready on %s:%d, model on port %d", settings.host, settings.port, settings.upstream_port)


def _ship(
    lanes: list[Lane], tap: Tap, publisher: PublisherSettings, topic: str, outbox: OutboxSettings, metrics_port: int
) -> int:
    # The model's answers go first where processors are short.
    os.nice(_NICE)
    stopping = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stopping.set())
    courier = Courier(ConfluentPublisher(publisher), topic, outbox)
    if metrics_port:
        registry = CollectorRegistry()
        registry.register(LoggerCollector(lanes, courier))
        start_http_server(metrics_port, addr="127.0.0.1", registry=registry)
    Shipper(lanes, tap, courier, outbox).run(stopping)
    return 0


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
