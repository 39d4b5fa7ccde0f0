"""Whether a V2 server takes binary tensors, as far as is known: JSON is what all of them take."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import Final

from inference.upstream.http import HttpAnswer

_BINARY: Final = "binary_tensor_data"
_KEPT_S: Final = 60.0
"""How long what the server says of itself is believed: it may be replaced by another."""
_DOUBT_S: Final = 1.0
"""How long it is not asked again after an answer that says nothing of it: a gateway may give that each time."""
_REFUSED_KEPT_S: Final = 600.0
"""The same for what it did, whatever it says."""
_OF_THE_CALL: Final = frozenset({
    HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN, HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_MANY_REQUESTS,
})  # fmt: skip
"""Answers that say something of the caller or of this moment, and nothing of what the server takes."""


class Binary:
    """Asks the server's metadata once a minute. Thread-safe.

    Args:
        ask: gives the server's metadata, in a caller's name and in so many seconds.
        clock: gives seconds.
    """

    def __init__(
        self, ask: Callable[[Mapping[str, str], float], HttpAnswer], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._ask, self._clock = ask, clock
        self._known, self._until = False, -math.inf
        self._worked = False

    def taken(self, head: Mapping[str, str], left_s: float) -> bool:
        """Say whether to send it."""
        if self._clock() >= self._until:
            answer = self._ask(head, left_s)
            if answer.status in _OF_THE_CALL or answer.status >= HTTPStatus.INTERNAL_SERVER_ERROR:
                self._until = self._clock() + _DOUBT_S
                return self._known
            self._known = answer.status == HTTPStatus.OK and _BINARY in answer.body.decode("utf-8", "replace")
            self._until = self._clock() + _KEPT_S
        return self._known

    def worked(self) -> None:
        """Take note of an answer to binary tensors."""
        self._worked = True

    def doubtful(self, status: int) -> bool:
        """Say whether a call was perhaps refused for its form alone, so that JSON may be answered."""
        return status == HTTPStatus.UNSUPPORTED_MEDIA_TYPE or (status == HTTPStatus.BAD_REQUEST and not self._worked)

    def refused(self) -> None:
        """Take note that JSON was answered where binary tensors were not."""
        self._known, self._worked = False, False
        self._until = self._clock() + _REFUSED_KEPT_S
