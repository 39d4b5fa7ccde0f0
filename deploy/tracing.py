"""Whether a process records spans, by OpenTelemetry's own variables; and those of a stage."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

from deploy import environment
from streams.errors import MissingExtra
from streams.stage import Stage, StageFactory
from streams.traced import TracedStage
from streams.traces import Traces, available, begun

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


@contextmanager
def traced(factory: StageFactory, name: str) -> Iterator[StageFactory]:
    """Have the stages of a factory record spans in the block, if that is wanted."""
    traces = begun(partial(Traces, f"sidelight-{name}")) if wanted() else None
    if traces is None:
        yield factory
        return

    def made(partition: int) -> Stage:
        return TracedStage(factory(partition), name, traces)

    try:
        yield made
    finally:
        traces.close()
