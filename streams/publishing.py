"""Sends records and waits for every answer: what a host does with a stage's effects."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

from streams.errors import Refused, Unavailable
from streams.stage import Output, Publisher

_SLICE_S: Final = 0.002
"""Short, because a host's other thread polls, too: what it has taken in wakes nobody who waits for it here."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """A record that the broker will never take, and why."""

    output: Output
    error: Refused


class Sending:
    """Records on their way to the broker, in order. One thread calls it; any thread may poll the publisher.

    While an answer is missing nothing is sent again, so a long outage makes no copies. After a failure that may pass
    everything is sent again, in order: ids make the copies recognisable, while a gap would be a loss. A refused record
    is sent once more by itself: a broker that refuses one record refuses all that came in the same request.
    """

    def __init__(self, publisher: Publisher, outputs: Sequence[Output]) -> None:
        self._publisher, self._outputs = publisher, tuple(outputs)
        self._begin()

    def wait(self, timeout_s: float) -> tuple[Refusal, ...]:
        """Send what is not sent yet; return when the broker has answered for every record. Gives what it refuses.

        Raises:
            Unavailable: not everything was answered in time, or a record failed; call again to go on.
        """
        if any(map(_passes, self._answers)):
            self._begin()
        deadline = time.monotonic() + timeout_s
        while self._sent < len(self._outputs):
            self._send(deadline)
        while len(self._answers) < len(self._outputs):
            self._look(deadline)
        self._raise_failure()
        refused = [(index, error) for index, error in self._answers if isinstance(error, Refused)]
        if len(self._outputs) == 1:
            return tuple(Refusal(self._outputs[index], error) for index, error in refused)
        return self._by_themselves(sorted(index for index, _ in refused), deadline)

    def _begin(self) -> None:
        # A list of its own for each attempt, so that a late answer to an earlier one counts nowhere. Appending is
        # atomic, which matters: answers come on whichever thread polls.
        self._answers: list[tuple[int, Exception | None]] = []
        self._sent = 0
        self._single: dict[int, Sending] = {}

    def _send(self, deadline: float) -> None:
        answers, index = self._answers, self._sent
        try:
            self._publisher.send(self._outputs[index], partial(_note, answers, index))
        except Unavailable:
            self._look(deadline)
            return
        except Refused as exc:
            answers.append((index, exc))
        self._sent += 1

    def _look(self, deadline: float) -> None:
        self._raise_failure()
        self._publisher.poll(_SLICE_S)
        missing = len(self._outputs) - len(self._answers)
        if missing and time.monotonic() > deadline:
            raise Unavailable(f"{missing} of {len(self._outputs)} records are not acknowledged yet")

    def _raise_failure(self) -> None:
        for answer in self._answers:
            if _passes(answer):
                raise Unavailable(str(answer[1])) from answer[1]

    def _by_themselves(self, indexes: Sequence[int], deadline: float) -> tuple[Refusal, ...]:
        found: list[Refusal] = []
        for index in indexes:
            single = self._single.setdefault(index, Sending(self._publisher, (self._outputs[index],)))
            found += single.wait(max(0.0, deadline - time.monotonic()))
        return tuple(found)


def publish_all(publisher: Publisher, outputs: Sequence[Output], timeout_s: float) -> None:
    """Send records in order and return when the broker has acknowledged all of them.

    Raises:
        PublishError: the first failure; some of the records may have arrived, so sending them again must be harmless.
    """
    refused = Sending(publisher, outputs).wait(timeout_s)
    if refused:
        raise refused[0].error


def _note(answers: list[tuple[int, Exception | None]], index: int, error: Exception | None) -> None:
    answers.append((index, error))


def _passes(answer: tuple[int, Exception | None]) -> bool:
    """Tell whether an answer is a failure that may pass."""
    return answer[1] is not None and not isinstance(answer[1], Refused)
