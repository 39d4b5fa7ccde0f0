"""Tells a runtime that asks another server for whom it predicts, so that the other server learns it, too.

Set on the worker thread by `inference/batching/prediction.py`; coroutines and `asyncio.to_thread` see it as well. Read
by `inference/upstream/link.py`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from inference.batching.terms import USUAL, Terms
from inference.runtime import Runtime

if TYPE_CHECKING:
    from inference.batching.call import Call


@dataclass(frozen=True, slots=True)
class Caller:
    """Whose call it is."""

    model: str
    """The model that was asked."""
    terms: Terms


_CALLER: Final[ContextVar[Caller | None]] = ContextVar("caller", default=None)


def caller() -> Caller | None:
    """Give the caller of the prediction in progress; None outside of one, and for runtimes that do not forward."""
    return _CALLER.get()


def on_behalf_of(runtime: Runtime, calls: Sequence[Call]) -> AbstractContextManager[None]:
    """Name the callers while the runtime predicts for them, if it wants to know."""
    return _named(calls) if runtime.forwards else nullcontext()


def together(terms: Sequence[Terms]) -> Terms:
    """Give the terms of calls that were joined: what they agree on, the earliest deadline, and whether all yield."""
    first, *others = terms
    if not others:
        return first
    deadlines = [each.deadline for each in terms if each.deadline is not None]
    heads = [dict(each.headers.items()) for each in others]
    agreed = {name: value for name, value in first.headers.items() if all(head.get(name) == value for head in heads)}
    return replace(
        USUAL,
        deadline=min(deadlines, default=None),
        yielding=all(each.yielding for each in terms),
        headers=agreed,
        protocol=first.protocol,
        traceparent=first.traceparent if all(each.traceparent == first.traceparent for each in others) else "",
    )


@contextmanager
def _named(calls: Sequence[Call]) -> Iterator[None]:
    # A call's own deadline knows the server's limit, too.
    terms = together([replace(call.terms, deadline=call.deadline) for call in calls])
    token = _CALLER.set(Caller(calls[0].model, terms))
    try:
        yield
    finally:
        _CALLER.reset(token)
