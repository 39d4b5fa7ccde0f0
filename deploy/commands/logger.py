"""`sidelight logger`: the sidecar. Takes the flags of KServe's agent, so that a service only changes its image."""

from __future__ import annotations

import argparse
import asyncio
import errno
import logging
import os
import secrets
import signal
import threading
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Final

from deploy import agent, sidecar, tracing
from deploy.claims import claim_store
from deploy.component import add_component_arguments, component_tls
from deploy.detours import Detours
from deploy.errors import UserError
from deploy.limits import add_limit_arguments, limits
from deploy.logs import add_log_arguments, start_logging
from deploy.privacy import collectors, private
from deploy.security import add_kafka_arguments, kafka_security
from deploy.ways import POLICIES, Destination, WaySettings, build, destinations, left_behind, watched
from logger import account, page
from logger.claims import ClaimCollector, ClaimTap
from logger.grpc.tap import GrpcTap
from logger.hold import Hold
from logger.lane import Lane
from logger.outbox import Outbox
from logger.proxy import Proxy
from logger.settings import OutboxSettings, ProxySettings, SpoolSettings, TapSettings
from logger.shipper import Shipper
from logger.tap import Seen, Tap, sampled
from logger.tracing import TracedTap
from logger.way import Way
from streams.addresses import bare, shown
from streams.traces import Traces, begun

log = logging.getLogger("sidelight.logger")

HELP = "proxy in front of a model that logs every request and response as CloudEvents on Kafka"
EXAMPLES = """\
  sidelight logger --log-url kafka://broker:9092/inference.payloads --component-port 8080
  sidelight logger --log-url kafka://broker:9092,http://broker-ingress/default/default --outbox spool \\
      --spool-dir /var/spool/sidelight
  sidelight logger --log-url kafka://127.0.0.1:9092 --port 9081 --component-port 8080 --log-mode all \\
      --inference-service iris --namespace default --metadata-headers x-client,user-agent --metrics-port 9089
  sidelight logger --log-url kafka://broker:9092 --component-port 8080 --grpc-component-port 9000
  sidelight logger --log-url kafka://broker:9092 --component-port 8080 --privacy /etc/sidelight/privacy.yaml
  sidelight logger --log-url kafka://broker:9093 --kafka-ca-file ca.crt --kafka-sasl-mechanism SCRAM-SHA-512 \\
      --kafka-username-file username --kafka-password-file password
  sidelight logger --component-port 8080 --enable-batcher --max-batchsize 32 --max-latency 50"""

# How the command's words are spelt before they are parsed.
spell = agent.spell

_NICE: Final = 5
_CLAIMED: Final = 8 << 20
_BLOCK, _BLOCK_MS = "block", 1_000


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument(
        "--log-url", default="", metavar="URL[,URL]",
        help="where events go: kafka://host:port[,host:port][/topic], http(s)://host/path, file:///folder, or several;"
        " without it nothing is logged",
    )  # fmt: skip
    parser.add_argument(
        "--outbox", choices=(*POLICIES, _BLOCK), default="drop",
        help="while a sink is away: drop the newest when memory is full (default), spool on disk, or block: drop, but"
        " answers wait for it up to --hold-ms first; `?outbox=...` in a URL is for that sink",
    )  # fmt: skip
    parser.add_argument(
        "--hold-ms", type=int, default=0, metavar="N",
        help="audit mode: the end of an answer waits until its events are safe, at most this long (default: 0, off;"
        " 1000 with --outbox block)",
    )  # fmt: skip
    parser.add_argument("--spool-dir", type=Path, metavar="DIR", help="folder of the spool, for this logger alone")
    parser.add_argument(
        "--spool-max-bytes", type=int, default=SpoolSettings().max_bytes, metavar="N", help="of each sink's spool"
    )
    parser.add_argument(
        "--spool-sync", choices=("fsync", "none"), default="fsync",
        help="fsync: events outlive a power cut (default); none: a kill -9 of this process",
    )  # fmt: skip
    parser.add_argument(
        "--host", type=bare, default="0.0.0.0", metavar="ADDRESS",  # noqa: S104 - as KServe's agent
        help="to listen on; :: is every one of IPv6 and IPv4 (default: every one of IPv4)",
    )  # fmt: skip
    parser.add_argument("--port", type=int, default=9081, help="port to listen on (default: 9081)")
    parser.add_argument("--component-port", type=int, default=8080, help="the model's port (default: 8080)")
    parser.add_argument(
        "--grpc-component-port", type=int, default=0, metavar="PORT",
        help="the model's port for gRPC, which is served on --port, too (default: --component-port)",
    )  # fmt: skip
    parser.add_argument(
        "--log-other", action="store_true",
        help="log POSTs to a model's own paths as well; predict, infer, explain, generate, OpenAI's paths always are",
    )  # fmt: skip
    parser.add_argument(
        "--grpc-log-other", action="store_true",
        help="log gRPC calls other than inference as well, as bytes; probes and metadata never are",
    )  # fmt: skip
    parser.add_argument("--log-mode", choices=("all", "request", "response"), default="all")
    parser.add_argument("--source-uri", default="", help="source of the events (default: http://localhost:PORT/)")
    parser.add_argument("--inference-service", default="", help="name of the InferenceService")
    parser.add_argument("--namespace", default="")
    parser.add_argument("--component", default="predictor")
    parser.add_argument("--endpoint", default="")
    parser.add_argument("--metadata-headers", default="", help="request headers to log, comma-separated, any case")
    parser.add_argument("--metadata-annotations", default="", help="k=v,... to put into every event")
    parser.add_argument(
        "--capture", type=int, default=0, metavar="BYTES",
        help="kept of each body; the rest is cut and marked (default: 900 KiB, with --claims 8 MiB)",
    )  # fmt: skip
    parser.add_argument(
        "--sample", type=int, default=1, metavar="N",
        help="log one call of N, chosen by its correlation id, so that all hops choose alike (default: 1, all)",
    )  # fmt: skip
    parser.add_argument(
        "--claims", default="", metavar="URL",
        help="put bodies above 900 KiB into a store and only their place into the event: file:///folder or s3://bucket/prefix",
    )  # fmt: skip
    parser.add_argument(
        "--privacy", default="", metavar="FILE",
        help="rules for bodies and headers (drop, mask, pseudonym, bucket, truncate) and encryption: docs/privacy.md",
    )  # fmt: skip
    parser.add_argument("--metrics-port", type=int, default=0, metavar="PORT", help="Prometheus page; 0 is none")
    parser.add_argument("--metrics-host", type=bare, metavar="ADDRESS", help="where that page is (default: --host)")
    parser.add_argument("--proxies", type=int, default=1, help="proxy processes that share the port (default: 1)")
    add_log_arguments(parser)
    agent.add_agent_arguments(parser)
    add_component_arguments(parser)
    add_limit_arguments(parser)
    add_kafka_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    """Do it."""
    start_logging(arguments.log_format)
    if arguments.outbox == _BLOCK:
        arguments.outbox, arguments.hold_ms = POLICIES[0], arguments.hold_ms or _BLOCK_MS
    agent.name_idle_flags(arguments)
    sinks = destinations(arguments.log_url, arguments.outbox) if arguments.log_url else ()
    if any(sink.policy == "spool" for sink in sinks) and arguments.spool_dir is None:
        raise UserError("--outbox spool: expected a folder, --spool-dir")
    tapped, outbox = _tap(arguments), OutboxSettings(hold_s=arguments.hold_ms / 1000)
    tap = private(agent.tap_for(arguments, tapped), tapped, arguments.privacy)
    settings = ProxySettings(
        host=arguments.host, port=arguments.port, upstream_port=arguments.component_port,
        grpc_upstream_port=arguments.grpc_component_port, grpc_log_other=arguments.grpc_log_other,
        log_other=arguments.log_other, upstream_tls=component_tls(arguments),
        **limits(arguments),
    )  # fmt: skip
    detours = Detours(settings, agent.batch_settings(arguments), agent.readiness_probe(arguments.component_port))
    lanes = [Lane(outbox.max_bytes // arguments.proxies & ~15) for _ in range(arguments.proxies)]
    wanted = tapped if sinks else None
    traced = bool(sinks) and tracing.wanted()
    children = [
        sidecar.Child(
            f"proxy {number}",
            partial(_proxy, settings, wanted, lane, outbox, tap, detours, number, traced=traced),
            settings.drain_s + 40,
        )
        for number, lane in enumerate(lanes)
    ]
    whole = _whole(arguments, tapped, tap)
    claimed = (ClaimCollector(whole),) if isinstance(whole, ClaimTap) else ()
    more = (*collectors(tap), *claimed, *detours.collectors())
    place = arguments.metrics_host or arguments.host, arguments.metrics_port
    served = partial(page.serve, *place, lanes, events_each=tap.events_each, more=more)
    own_page = served if arguments.metrics_port else None
    ways = _way_settings(arguments, tapped, outbox, tap.events_each)
    ship = partial(_ship, lanes, whole, sinks, ways, own_page, secrets.randbits(63), traced=traced)
    last = [sidecar.Child("shipper", ship, outbox.flush_s + 10)] if sinks else []
    if own_page is not None and not sinks:
        last = [sidecar.Child("page", partial(page.alone, own_page), 5)]
    code = sidecar.run([*children, *detours.children(), *last])
    return code or _conclude(lanes, sinks, tap.events_each)


def _way_settings(
    arguments: argparse.Namespace, tapped: TapSettings, outbox: OutboxSettings, events_each: int
) -> WaySettings:
    return WaySettings(
        outbox=outbox, spool_folder=arguments.spool_dir, capture=_record_bytes(arguments, tapped),
        spool=SpoolSettings(max_bytes=arguments.spool_max_bytes, sync=arguments.spool_sync == "fsync"), kafka={},
        security=kafka_security(arguments), ca_file=agent.sink_authorities(arguments),
        verify=not arguments.logger_tls_skip_verify, events_each=events_each,
    )  # fmt: skip


def _record_bytes(arguments: argparse.Namespace, tapped: TapSettings) -> int:
    """Give how much of a body a record may hold: what is kept of it, unless larger ones go to a store."""
    return min(tapped.capture, TapSettings().capture) if arguments.claims else tapped.capture


def _whole(arguments: argparse.Namespace, tapped: TapSettings, tap: Tap) -> Tap:
    """Put before a tap what reads gRPC calls, and before that what puts large bodies away."""
    # KServe's own events have gRPC's frames as they are.
    read = tap if arguments.events == "kserve" else GrpcTap(tap, tapped.capture)
    claims = claim_store(arguments.claims)
    if claims is None:
        return read
    return ClaimTap(read, claims, _record_bytes(arguments, tapped), f"{tapped.namespace}/{tapped.service}")


def _conclude(lanes: list[Lane], sinks: Sequence[Destination], events_each: int) -> int:
    """Say what became of everything; 1 when something was given up."""
    code = 0
    for sink, found in zip(sinks, account.read(lanes, len(sinks), events_each).ways, strict=True):
        log.info(
            "drained: %s: %d events captured, %d recovered, %d delivered, %d spooled, dropped %s, %d unwanted",
            sink.name, found.captured, found.recovered, found.delivered, found.spooled, dict(found.dropped),
            found.unwanted,
        )  # fmt: skip
        code = code or (1 if found.dropped else 0)
    return code


def _proxy(
    settings: ProxySettings, tapped: TapSettings | None, lane: Lane, outbox: OutboxSettings, tap: Tap,
    detours: Detours, number: int, *, traced: bool,
) -> int:  # fmt: skip
    import uvloop  # noqa: PLC0415 - each process loads what it alone needs

    async def serve() -> None:
        stopping = asyncio.Event()
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopping.set)
        box = Outbox(lane, outbox, tap.events_each)
        proxy = Proxy(settings, tapped.capture if tapped else 0, box.offer if tapped else _forget, lane.tally)
        proxy.chosen = partial(sampled, one_of=tapped.sample) if tapped and tapped.sample > 1 else None
        proxy.hold = Hold(lane, box, outbox.hold_s) if outbox.hold_s else None
        proxy.traced = traced
        async with detours.along(proxy):
            await proxy.serve(stopping, partial(_say_ready, settings) if number == 0 else lambda: None)

    try:
        uvloop.run(serve())
    except OSError as exc:
        if exc.errno not in {errno.EADDRINUSE, errno.EACCES, errno.EADDRNOTAVAIL}:
            raise
        raise UserError(f"--host {settings.host} --port {settings.port}: {os.strerror(exc.errno).lower()}") from exc
    return 0


def _forget(_seen: Seen) -> bool:
    """Log nothing: no sink is named."""
    return True


def _say_ready(settings: ProxySettings) -> None:
    tls = " by TLS" if settings.upstream_tls is not None else ""
    log.info("logger ready on %s, model on port %d%s", shown(settings.host, settings.port), settings.upstream_port, tls)


def _ship(
    lanes: list[Lane],
    tap: Tap,
    sinks: Sequence[Destination],
    settings: WaySettings,
    own_page: Callable[[Sequence[Way]], None] | None,
    boot: int,
    *,
    traced: bool,
) -> int:
    # The model's answers go first where processors are short.
    os.nice(_NICE)
    stopping = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stopping.set())
    ways = [build(sink, settings) for sink in sinks]
    # Its thread has to be this process's own.
    traces = begun(partial(Traces, "sidelight-logger")) if traced else None
    for path in left_behind(settings.spool_folder, sinks) if settings.spool_folder else ():
        log.warning("%s holds events of a sink that is not named any more; name it again to have them sent", path)
    if own_page is not None:
        own_page(ways)
    log.info("shipping to %s", watched(sinks))
    Shipper(lanes, TracedTap(tap, traces) if traces else tap, ways, settings.outbox, boot).run(stopping)
    if traces is not None:
        traces.close()
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
        capture=arguments.capture or (_CLAIMED if arguments.claims else TapSettings().capture),
        sample=arguments.sample,
    )
