"""Sends records and waits for every acknowledgement: what a host does with a stage's effects."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Final

from streams.errors import PublishError, Unavailable
from streams.stage import Done, Output, Publisher

_SLICE_S: Final = 0.05


class Sending:
    """Records on their way to the broker, in order. One thread calls it; any thread may poll the publisher.

    While an answer is missing nothing is sent again, so a long outage makes no copies. After a failure everything is
    sent again, in order: ids make the copies recognisable, while a gap would be a loss.
    """

    def __init__(self, publisher: Publisher, outputs: Sequence[Output]) -> None:
        self._publisher, self._outputs = publisher, tuple(outputs)
        self._begin()

    def wait(self, timeout_s: float) -> None:
        """Send what is not sent yet and return when the broker has acknowledged every record.

        Raises:
            Unavailable: not everything was acknowledged in time; call again to go on waiting.
            PublishError: a record failed; call again to send everything anew.
        """
        if any(error is not None for error in self._answers):
            self._begin()
        deadline = time.monotonic() + timeout_s
        while self._sent < len(self._outputs):
            self._send(deadline)
        while len(self._answers) < len(self._outputs):
            self._look(deadline)
        _raise_first(self._answers)

    def _begin(self) -> None:
        # A list of its own for each attempt, so that a late answer to an earlier one counts nowhere. Appending is
        # atomic, which matters: answers come on whichever thread polls.
        self._answers: list[Exception | None] = []
        self._done: Done = self._answers.append
        self._sent = 0

    def _send(self, deadline: float) -> None:
        try:
            self._publisher.send(self._outputs[self._sent], self._done)
        except Unavailable:
            self._look(deadline)
        else:
            self._sent += 1

    def _look(self, deadline: float) -> None:
        _raise_first(self._answers)
        if time.monotonic() > deadline:
            missing = len(self._outputs) - len(self._answers)
            raise Unavailable(f"{missing} of {len(self._outputs)} records are not acknowledged yet")
        self._publisher.poll(_SLICE_S)


def publish_all(publisher: Publisher, outputs: Sequence[Output], timeout_s: float) -> None:
    """Send records in order and return when the broker has acknowledged all of them.

    Raises:
        PublishError: the first failure; some of the records may have arrived, so sending them again must be harmless.
    """
    Sending(publisher, outputs).wait(timeout_s)


def _raise_first(answers: Sequence[Exception | None]) -> None:
    for error in answers:
        if error is not None:
            raise error if isinstance(error, PublishError) else Unavailable(str(error)) from error
