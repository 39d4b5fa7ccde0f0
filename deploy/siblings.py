"""Runs `sidelight predictor --workers N`: processes that share the ports, supervised by one that does nothing else.

What each does is said in `inference/siblings.py`. Used by `deploy/commands/predictor.py`.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Final

from deploy import sidecar
from deploy.errors import UserError
from deploy.sidecar import Child
from inference.settings import ServerSettings
from inference.siblings import Siblings
from streams.addresses import bound, shown

_GRACE_S: Final = 25.0
"""For the end of a process, after its drain: `unload_wait_s` for models that are being loaded, as long for those that
are to let go of what they hold, and then some."""


def run(count: int, settings: ServerSettings, serve: Callable[[ServerSettings, Siblings], int]) -> int:
    """Run `serve` in as many processes until SIGTERM or SIGINT; give the worst exit code.

    Raises:
        UserError: a port is taken.
    """
    with ExitStack() as kept:
        folder = Path(kept.enter_context(tempfile.TemporaryDirectory(prefix="sidelight-")))
        settings = replace(settings, port=_reserved(settings.host, settings.port, kept))
        if settings.grpc_port is not None:
            settings = replace(settings, grpc_port=_reserved(settings.host, settings.grpc_port, kept))
        children = [
            Child(
                f"predictor {index}",
                partial(serve, settings, Siblings(folder=folder, index=index, count=count)),
                settings.drain_s + _GRACE_S,
            )
            for index in range(count)
        ]
        return sidecar.run(children)


def _reserved(host: str, port: int, kept: ExitStack) -> int:
    """Make sure that nobody else has a port, and keep it so; 0 takes a free one."""
    try:
        # Not shared: two predictors on one port would take each other's calls.
        bound(host, port, shared=False).close()
        held = kept.enter_context(bound(host, port, shared=True))
    except OSError as exc:
        raise UserError(f"cannot listen on {shown(host, port)}: {exc.strerror or exc}") from exc
    number: int = held.getsockname()[1]
    return number
