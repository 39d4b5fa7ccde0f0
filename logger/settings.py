"""Settings of the proxy and of its outbox."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelTls:
    """Whom the proxy takes for a model that wants its connections encrypted, and what it shows to the model."""

    ca_file: str = ""
    """PEM of the authorities that may have signed its certificate, read again when replaced; empty: the system's."""
    server_name: str = ""
    """The name that its certificate has to have; empty: the address that is connected to."""
    cert_file: str = ""
    """PEM of the proxy's own certificate, read again when replaced; empty: none is shown."""
    key_file: str = ""
    """PEM of its key; empty: it lies in `cert_file`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProxySettings:
    """How the proxy listens, forwards and gives up."""

    host: str = "0.0.0.0"  # noqa: S104 - in a pod, traffic and probes come from outside
    port: int = 9081
    upstream_host: str = "127.0.0.1"
    upstream_port: int = 8080
    upstream_socket: str = ""
    """Path of the model's unix socket; when given, host and port are not used."""
    upstream_tls: ModelTls | None = None
    """How connections to the model are encrypted, of HTTP and of gRPC; None: they are in the clear."""
    max_target: int = 16 * 1024
    """Bytes of the request target; more is 414."""
    max_head: int = 64 * 1024
    """Bytes of request line and headers, and of all that frames a chunked body; more is 431. The model's, too: 502."""
    max_headers: int = 128
    """Header fields; more is 431, or 502 in an answer."""
    max_body: int = 2 << 30
    """Bytes of a request's content that are passed on, whatever is captured of it; more is 413. 0 is no limit.
    Over gRPC, of one message: a stream of them may be as long as it likes."""
    max_connections: int = 4_096
    """Open client connections; one more is answered 503 and closed."""
    max_per_address: int = 0
    """Open connections of one client address; one more is 429. 0, no limit: behind a gateway all have its address."""
    max_requests: int = 100_000
    """Requests on one connection; the last answer says that it closes, so that load spreads anew. 0 is no limit."""
    max_idle_upstream: int = 256
    """Idle connections kept to the model."""
    idle_upstream_s: float = 60.0
    """How long a connection to the model is kept idle."""
    head_s: float = 30.0
    """From a request's first byte to the end of its head; slower is 408."""
    idle_s: float = 75.0
    """How long a client connection may be silent between requests."""
    min_rate: int = 240
    """Bytes of content that a client has to send in a second, over `body_s`; slower is 408. 0 is no limit."""
    body_s: float = 30.0
    """Over how long the rate of content is looked at."""
    send_s: float = 60.0
    """How long a client may take nothing of its answer; longer, and the connection is cut."""
    connect_s: float = 5.0
    """For connecting to the model; longer is 503."""
    continue_s: float = 1.0
    """How long a client that expects `100 Continue` waits for the model's own before the proxy gives it."""
    first_byte_s: float = 600.0
    """From a whole request to the first byte of its answer, as KServe's own default; longer is 504."""
    answer_s: float = 600.0
    """Longest silence of the model within its answer, or without reading the request; longer is 504, or cut."""
    total_s: float = 0.0
    """From a request's beginning to its answer's end; longer is 504, or cut. 0, no limit: silence is limited, above."""
    drain_s: float = 20.0
    """How long a stop may wait for running requests."""
    grpc_upstream_port: int = 0
    """The model's port for gRPC; 0 is where HTTP goes."""
    grpc_streams: int = 128
    """Calls that one gRPC connection may have open; a client that is told so makes others wait."""
    log_other: bool = False
    """Whether POSTs to a model's own paths are logged as well; probes, metrics and metadata never are."""
    grpc_log_other: bool = False
    """Whether gRPC calls other than inference are logged, as bytes; probes and metadata never are."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TapSettings:
    """What is logged, and under which names."""

    mode: str = "all"
    """`all`, `request` or `response`."""
    source: str = "http://localhost:9081/"
    """`source` of the events; KServe's agent has this default."""
    service: str = ""
    namespace: str = ""
    component: str = "predictor"
    endpoint: str = ""
    metadata_headers: frozenset[str] = frozenset()
    """Request headers copied into `metadata`, lower case; credentials never are, whatever is named here."""
    annotations: Mapping[str, str] = field(default_factory=dict)
    capture: int = 900 * 1024
    """Bytes kept of each body; the rest is cut and marked. A record must stay below the broker's 1 MiB."""
    sample: int = 1
    """Log one call of so many, chosen by its correlation id: every hop of a call chooses alike."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OutboxSettings:
    """What may wait for the broker. A lost record is cheaper than a late prediction."""

    capacity: int = 200_000
    """Events that may wait; one more is dropped and counted."""
    max_bytes: int = 48 << 20
    """Exchanges that may wait, all proxies together; near the end an event is kept without its body, and counted."""
    client_kib: int = 8 * 1024
    """KiB of events in the Kafka client, beside those."""
    retry_s: float = 60.0
    """How long delivery of an event is tried again before it is dropped and counted."""
    flush_s: float = 10.0
    """How long a stop waits for the broker."""
    hold_s: float = 0.0
    """Audit mode: how long the end of an answer waits until its events are safe; 0 is no such mode."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SpoolSettings:
    """What may wait on disk."""

    max_bytes: int = 1 << 30
    """Bytes on disk; beyond it records stay in memory until there is room."""
    segment_bytes: int = 16 << 20
    """A file of this size is not written to any more; a file goes when all in it is delivered."""
    sync: bool = True
    """Whether a record counts as safe only when it will outlive a power cut; else a kill -9 is all that it outlives."""
