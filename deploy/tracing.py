"""Whether a process records spans, by OpenTelemetry's own variables; and those of a stage."""

from __future__ import annotations

import logging

from deploy import environment
from streams.errors import MissingExtra
from streams.stage import Stage, StageFactory
from streams.traced import TracedStage
from streams.traces import Traces, available

log = logging.getLogger(__name__)


def wanted() -> bool:
    """Say whether there are traces to record; without the SDK there are none, which the log says."""
    if not environment.traces():
        return False
    try:
        available()
    except MissingExtra as exc:
        # The variables may be there for all containers of a cluster: no reason to end.
        log.warning("no spans are recorded: %s", exc)
        return False
    return True


def traced(factory: StageFactory, name: str) -> StageFactory:
    """Have the stages of a factory record spans, if that is wanted."""
    if not wanted():
        return factory
    traces = Traces(f"sidelight-{name}")

    def made(partition: int) -> Stage:
        return TracedStage(factory(partition), name, traces)

    return made
