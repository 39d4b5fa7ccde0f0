"""Where the predictor behind a transformer is, and how it is asked."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from streams.addresses import shown


class Protocol(StrEnum):
    """What the predictor is asked in; KServe's names."""

    V1 = "v1"
    V2 = "v2"
    GRPC = "grpc-v2"


@dataclass(frozen=True, slots=True, kw_only=True)
class UpstreamSettings:
    """One predictor, which serves the model under the transformer's own name."""

    host: str
    """Name or address."""
    port: int
    protocol: Protocol = Protocol.V1
    tls: bool = False
    """Encrypted; certificates are checked against the system's authorities, or those of
    SSL_CERT_FILE; gRPC reads GRPC_DEFAULT_SSL_ROOTS_FILE_PATH in its place."""
    timeout_s: float = 600.0
    """For one call with all its retries. The caller's own limit and the server's hold, too."""
    retries: int = 0
    """How often a call is repeated that did not reach the predictor, or that it was too busy for. Never what it began
    to work on without an answer: that may still cost it, and would cost it again."""
    max_piece: int = 1 << 20
    """Bytes of one piece of a text, with what is said around it: an event, or a message. More is a 502."""
    connections: int = 64
    """Idle HTTP connections that are kept."""
    check_health: bool = False
    """Whether a transformer is ready only while its predictor is."""
    check_every_s: float = 2.0
    """How often the predictor is asked whether it is ready."""

    @property
    def address(self) -> str:
        """Give host and port as URLs have them."""
        return shown(self.host, self.port)
