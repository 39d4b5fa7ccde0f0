"""Every error that the domain can raise has a status, and an answer in the protocol's form."""

from __future__ import annotations

from collections.abc import Iterator

import orjson
import pytest

from inference.errors import BodyTooLarge, InferenceError, ModelNotReady, Overloaded, Postponed
from inference.protocol.errors import ProtocolError
from inference.rest import answers
from streams.errors import MissingExtra, UnknownPlugin


def _leaves(kind: type[Exception]) -> Iterator[type[Exception]]:
    for child in kind.__subclasses__():
        yield child
        yield from _leaves(child)


@pytest.mark.parametrize("kind", [*_leaves(InferenceError), *_leaves(ProtocolError), MissingExtra, UnknownPlugin])
def test_every_error_has_a_status(kind: type[Exception]) -> None:
    """A new error class without a line in the table fails here, instead of becoming a bare 500."""
    # Any test runtime's own errors are no part of the product.
    status = answers.status_of(kind.__new__(kind))

    assert status is not None
    assert 400 <= status < 600


def test_the_root_is_not_mapped() -> None:
    """The table names errors one by one: a line for the root would make the test above empty."""
    assert InferenceError not in answers.STATUSES
    assert Exception not in answers.STATUSES


def test_bugs_are_told_apart() -> None:
    """What nobody expected is a 500 with type and text, as KServe's servers answer."""
    answer = answers.refusal(KeyError("x"))

    assert answer.status_code == 500
    assert orjson.loads(answer.body) == {"error": "KeyError : 'x'"}


def test_retry_later_is_said() -> None:
    """Errors that pass by themselves carry Retry-After."""
    assert answers.refusal(Overloaded(3)).headers["retry-after"] == "1"
    assert answers.refusal(Overloaded(3, retry_after_s=7)).headers["retry-after"] == "7"
    assert answers.refusal(ModelNotReady("m")).headers["retry-after"] == "1"
    postponed = answers.refusal(Postponed(3, retry_after_s=2))
    assert (postponed.status_code, postponed.headers["retry-after"]) == (429, "2")


def test_unread_bodies_close_the_connection() -> None:
    """After a body that was not read to its end, the connection is not used again."""
    assert answers.refusal(BodyTooLarge(10)).headers["connection"] == "close"
