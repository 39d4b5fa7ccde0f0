"""Reads `--log-url` and builds the logger's ways out: which sink, and what waits for it where."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final
from urllib.parse import SplitResult, parse_qsl, unquote, urlencode, urlsplit, urlunsplit

from deploy.errors import UserError
from logger.courier import Courier
from logger.settings import OutboxSettings, SpoolSettings
from logger.sinks.file import FilePublisher, FileSettings
from logger.sinks.http import HttpPublisher, HttpSettings
from logger.spool.disk import Folder
from logger.spool.journal import Journal
from logger.spool.way import SpoolWay
from logger.way import Way
from streams.credentials import KafkaSecurity
from streams.publishers.confluent import ConfluentPublisher, PublisherSettings
from streams.stage import Publisher
from streams.topics import Topics

POLICIES: Final = ("drop", "spool")
_SEVERAL: Final = re.compile(r",(?=[a-z]+://)")
_FOREVER: Final = float("inf")
_MARGIN: Final = 64 * 1024
_SCHEMES: Final = "kafka://host:port[,host:port][/topic], http(s)://host/path or file:///folder"


@dataclass(frozen=True, slots=True, kw_only=True)
class Destination:
    """One sink."""

    name: str
    """What it is called in metrics, logs and folders."""
    url: SplitResult
    policy: str


@dataclass(frozen=True, slots=True, kw_only=True)
class WaySettings:
    """What all ways share."""

    outbox: OutboxSettings
    spool: SpoolSettings
    spool_folder: Path | None
    capture: int
    events_each: int
    kafka: Mapping[str, str]
    """Further librdkafka settings."""
    security: KafkaSecurity = field(default_factory=KafkaSecurity)
    ca_file: str = ""
    verify: bool = True


def destinations(text: str, policy: str) -> tuple[Destination, ...]:
    """Read one URL or several, separated by commas; `?outbox=` on one overrides the policy for it.

    Raises:
        UserError: no sink, another scheme, an unknown policy.
    """
    found: dict[str, Destination] = {}
    for url in filter(None, _SEVERAL.split(text)):
        one = _destination(url, policy)
        if one.name in found:
            one = replace(one, name=_plain(f"{one.name}-{one.url.netloc}"))
        if any(one.url == other.url for other in found.values()):
            raise UserError(f"--log-url: {url} is named twice")
        found[one.name] = one
    if not found:
        raise UserError(f"--log-url: expected {_SCHEMES}, got {text!r}")
    return tuple(found.values())


def left_behind(folder: Path, destinations: Sequence[Destination]) -> list[Path]:
    """Give the spools in a folder that belong to no sink any more, and hold something."""
    known = {one.name for one in destinations if one.policy == "spool"}
    if not folder.is_dir():
        return []
    return [path for path in sorted(folder.iterdir()) if path.name not in known and any(path.glob("*.log"))]


def build(destination: Destination, settings: WaySettings) -> Way:
    """Make the way to a sink. Call in the process that uses it.

    Raises:
        UserError: what the sink needs is missing.
    """
    publisher, topic = _publisher(destination, settings)
    most_bytes = settings.outbox.client_kib << 10
    direct = Courier(destination.name, publisher, topic, settings.outbox.retry_s, most_bytes)
    if destination.policy == "drop":
        return direct
    if settings.spool_folder is None:
        raise UserError("--outbox spool: expected a folder, --spool-dir")
    folder = settings.spool_folder / destination.name
    lasting = Courier(destination.name, publisher, topic, _FOREVER, most_bytes)
    return SpoolWay(
        lambda: Journal(Folder(folder), settings.spool), lasting, direct, settings.spool.max_bytes,
        settings.events_each,
    )  # fmt: skip


def _destination(text: str, policy: str) -> Destination:
    url = urlsplit(text)
    if url.scheme not in {"kafka", "http", "https", "file"} or not (url.netloc or url.scheme == "file"):
        raise UserError(f"--log-url: expected {_SCHEMES}, got {text!r}")
    query = parse_qsl(url.query, keep_blank_values=True)
    chosen = dict(query).get("outbox", policy)
    if chosen not in POLICIES:
        raise UserError(f"--log-url {text}: outbox: expected one of {', '.join(POLICIES)}, got {chosen!r}")
    rest = urlencode([pair for pair in query if pair[0] != "outbox"])
    url = url._replace(query=rest)
    # A broker's address may change, and what was spooled for its topic still has to find it.
    place = _topic(url) if url.scheme == "kafka" else f"{url.netloc.rpartition('@')[2]}{url.path}"
    return Destination(name=f"{url.scheme}-{_plain(place)}", url=url, policy=chosen)


def _plain(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9.]+", "-", text).strip("-")


def _topic(url: SplitResult) -> str:
    return url.path.strip("/") or Topics().payloads


def _publisher(destination: Destination, settings: WaySettings) -> tuple[Publisher, str]:
    url, outbox = destination.url, settings.outbox
    if url.scheme == "kafka":
        # Whoever reads events knows by its id one that comes twice; no core is to be the price of a slow broker.
        kafka = PublisherSettings(
            bootstrap=url.netloc, client_id="logger", idempotent=False, linger_ms=20,
            message_max_bytes=settings.capture + _MARGIN, delivery_timeout_ms=int(outbox.retry_s * 1000),
            queue_kib=outbox.client_kib, extra=settings.kafka, security=settings.security,
        )  # fmt: skip
        return ConfluentPublisher(kafka), _topic(url)
    try:
        if url.scheme == "file":
            return FilePublisher(FileSettings(folder=Path(unquote(url.path)))), ""
        return HttpPublisher(HttpSettings(url=urlunsplit(url), ca_file=settings.ca_file, verify=settings.verify)), ""
    except OSError as exc:
        raise UserError(f"--log-url {urlunsplit(url)}: {exc}") from exc


def watched(destinations: Sequence[Destination]) -> str:
    """Give the sinks' names for a log line."""
    return ", ".join(f"{one.name} ({one.policy})" for one in destinations)
