"""The only place that reads the process's environment. Everything else gets settings as arguments."""

from __future__ import annotations

import os
from pathlib import Path

_environ = os.environ  # noqa: TID251 - this file is the one that may


def text(name: str, default: str = "") -> str:
    """Give a variable's text, or the default."""
    return _environ.get(name, default)


def traces() -> bool:
    """Say whether OpenTelemetry's own variables want traces exported, and how we can: over OTLP/HTTP.

    An endpoint is enough, or the exporter by its name; what else they say is read by OpenTelemetry's SDK.
    """
    if text("OTEL_SDK_DISABLED").lower() == "true":
        return False
    exporters = [name.strip() for name in text("OTEL_TRACES_EXPORTER").split(",") if name.strip()]
    if exporters:
        return "otlp" in exporters
    return bool(text("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT") or text("OTEL_EXPORTER_OTLP_ENDPOINT"))


def one_native_thread() -> None:
    """Keep libraries that are loaded from now on from starting threads of their own, unless the user has a say in it.

    They would spin, waiting for each other, under every load and prediction: on two cores that makes both ten times
    slower. Several predictions at once are what keeps the cores busy.
    """
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        _environ.setdefault(name, "1")


def home() -> Path:
    """Give the folder for what outlives a run (Kafka's jars and data, run files): SIDELIGHT_HOME or ~/.sidelight."""
    return Path(text("SIDELIGHT_HOME") or Path.home() / ".sidelight").absolute()


def inherited() -> dict[str, str]:
    """Give a copy of the whole environment, for a child process."""
    return dict(_environ)
