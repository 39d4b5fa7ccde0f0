"""Sends records and waits for every acknowledgement: what a host does with a stage's effects."""

from __future__ import annotations

import time
from collections.abc import Sequence

from streams.errors import PublishError, Unavailable
from streams.stage import Done, Output, Publisher


def publish_all(publisher: Publisher, outputs: Sequence[Output], timeout_s: float) -> None:
    """Send records in order and return when the broker has acknowledged all of them.

    Raises:
        PublishError: the first failure; some of the records may have arrived, so sending them again must be harmless.
    """
    deadline = time.monotonic() + timeout_s
    missing = len(outputs)
    failures: list[Exception] = []

    def done(error: Exception | None) -> None:
        nonlocal missing
        missing -= 1
        if error is not None:
            failures.append(error)

    for output in outputs:
        _send(publisher, output, done, deadline)
    while missing and not failures:
        if time.monotonic() > deadline:
            raise Unavailable(f"{missing} of {len(outputs)} records were not acknowledged in {timeout_s:.0f} s")
        publisher.poll(0.05)
    if failures:
        first = failures[0]
        raise first if isinstance(first, PublishError) else Unavailable(str(first))


def _send(publisher: Publisher, output: Output, done: Done, deadline: float) -> None:
    while True:
        try:
            publisher.send(output, done)
        except Unavailable:
            if time.monotonic() > deadline:
                raise
            publisher.poll(0.05)
        else:
            return
