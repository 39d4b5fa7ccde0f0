"""A predictor's data plane without a server in front, for commands that call models themselves."""

from __future__ import annotations

import math
import sys

import threadpoolctl

from inference.dataplane import DataPlane
from inference.metrics import PredictorMetrics
from inference.repository import Repository
from inference.settings import ServerSettings
from inference.tracing import Tracing
from streams.traces import begun


def open_plane(repository: Repository, threads: int, *, traces: bool = False) -> DataPlane:
    """Open a plane for the few calls that its one caller makes at a time: none is refused, none times out."""
    metrics = PredictorMetrics(lambda: plane.batcher.in_progress)
    settings = ServerSettings(threads=threads, timeout_s=math.inf, queue=sys.maxsize, queue_bytes=sys.maxsize)
    plane = DataPlane(repository, metrics, settings, enter=_one_native_thread)
    if traces:
        plane.tracing = begun(Tracing)
    return plane


def _one_native_thread() -> None:
    threadpoolctl.threadpool_limits(limits=1)
