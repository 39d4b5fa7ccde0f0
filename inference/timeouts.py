"""Triton's parameter `timeout` of a V2 request: for how many microseconds its caller waits.

Transports heed it before the call waits, where reading the request costs little; `inference/batching/call.py` does so
for the rest, once they are read.
"""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Final

from inference.batching.terms import Terms
from inference.protocol.errors import MalformedBody
from inference.protocol.tensors import Parameters

PARAMETER: Final = "timeout"


def asked(parameters: Parameters) -> float | None:
    """Give how many seconds a caller waits; None where it does not say, or says 0.

    Raises:
        MalformedBody: no such number.
    """
    given = parameters.get(PARAMETER)
    if given is None:
        return None
    if isinstance(given, bool) or not isinstance(given, int) or given < 0:
        raise MalformedBody(f"request: parameters: {PARAMETER}", f"expected microseconds from 0 up, got {given!r}")
    return given / 1_000_000 or None


def heeded(terms: Terms, parameters: Parameters) -> Terms:
    """Give the terms of a call that begins now: the transport's deadline holds, too. Raises what `asked` raises."""
    seconds = asked(parameters)
    if seconds is None:
        return terms
    until = time.monotonic() + seconds
    return terms if terms.deadline is not None and terms.deadline < until else replace(terms, deadline=until)
