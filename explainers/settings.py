"""Settings of the explain server."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerSettings:
    """How the server listens and what one request may cost."""

    model: str
    explainer: str = "kernel-shap"
    host: str = "0.0.0.0"  # noqa: S104 - in a pod, traffic and probes come from outside
    port: int = 8080
    concurrency: int = 2
    """Requests that are explained at the same time."""
    waiting: int = 16
    """Requests that may wait for their turn; one more is answered 503."""
    max_body: int = 8 << 20
    """Bytes of a request's body."""
    max_instances: int = 64
    """Instances of one request."""
    deadline_ms: int = 30_000
    """For one request, unless it asks for less. What a sampled explanation has found by then is the answer, marked
    partial; an exact one is whole or 504, for one call of the predictor brings all of it."""
    max_rows: int = 500_000
    """Rows of callbacks for one instance, unless the request asks for less."""
    background: int = 50
    """Background rows that stand for unknown features, unless the request asks for fewer."""
