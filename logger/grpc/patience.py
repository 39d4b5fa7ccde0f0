"""How long a call may take, by the settings that requests of HTTP/1.1 have, too. Looked at every half second.

Who is waited for decides which limit acts: a client that does not take its answer, a model that does not take the
request, a client within a message, a model that has the whole request, and else whoever was last heard.
"""

from __future__ import annotations

from typing import Final

from inference.http2.status import Code
from logger.grpc.call import Call
from logger.settings import ProxySettings

_TIMEOUT: Final = 408
_GRACE_S: Final = 1.0
"""A client ends its call itself when its deadline is over; what it leaves behind is ended after this."""


def sweep(call: Call, now: float, settings: ProxySettings, *, starved: bool) -> int:
    """Give up on a call that takes too long.

    Args:
        call: the call.
        now: the monotonic clock.
        settings: the limits.
        starved: the client may send nothing at all, for its connection's window is used up.

    Returns:
        The status under which HTTP/1.1 counts such a refusal; 0 when it does not.
    """
    timeout = call.timeout
    if settings.total_s and now - call.began > settings.total_s:
        call.refuse(Code.DEADLINE_EXCEEDED, f"no whole answer within {settings.total_s:g} s")
    elif timeout is not None and now - call.began > timeout + _GRACE_S:
        call.refuse(Code.DEADLINE_EXCEEDED, f"the call's own deadline of {timeout:g} s is over")
    elif call.down is not None and call.down.stuck:
        # The model cannot be heard meanwhile.
        if now - call.down.stuck > settings.send_s:
            call.cut()
    elif call.up.stuck:
        call.pace = None
        if now - call.up.stuck > settings.answer_s:
            call.refuse(Code.DEADLINE_EXCEEDED, f"the model has read nothing for {settings.answer_s:g} s")
    elif not _keeps_pace(call, now, settings, starved=starved):
        call.refuse(Code.DEADLINE_EXCEEDED, f"expected at least {settings.min_rate} bytes of a message a second")
        return _TIMEOUT
    else:
        _sweep_silence(call, now, settings)
    return 0


def _sweep_silence(call: Call, now: float, settings: ProxySettings) -> None:
    """Give up on a model that does not begin its answer, or on both when neither says anything."""
    if call.asked and not call.answer_begun:
        if now - call.asked > settings.first_byte_s:
            call.refuse(Code.DEADLINE_EXCEEDED, f"no answer from the model within {settings.first_byte_s:g} s")
    elif not call.answer_whole and now - call.heard > settings.answer_s:
        call.refuse(Code.DEADLINE_EXCEEDED, f"nothing was heard for {settings.answer_s:g} s")


def _keeps_pace(call: Call, now: float, settings: ProxySettings, *, starved: bool) -> bool:
    """Tell whether a message comes fast enough, looked at over stretches of `body_s`; between messages all is well."""
    received = call.meter.received
    if starved or call.asked or not call.meter.within:
        call.pace = None
    elif call.pace is None:
        call.pace = (now, received)
    elif now - call.pace[0] >= settings.body_s:
        fair = received - call.pace[1] >= settings.min_rate * settings.body_s
        call.pace = (now, received)
        return fair
    return True
