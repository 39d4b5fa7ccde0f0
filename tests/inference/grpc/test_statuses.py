"""The table from errors to gRPC statuses is complete, and says the same as HTTP's."""

from __future__ import annotations

import pytest

from inference import errors
from inference.grpc import statuses
from inference.grpc.heads import ending
from inference.protocol import errors as protocol
from inference.rest import answers

KINDS = [
    kind
    for module in (errors, protocol)
    for kind in vars(module).values()
    if isinstance(kind, type) and issubclass(kind, Exception) and kind is not errors.InferenceError
]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_every_error_has_a_status(kind: type[Exception]) -> None:
    """No error of the domain ends as UNKNOWN."""
    assert any(base in statuses.STATUSES for base in kind.__mro__)


def test_both_transports_know_the_same_errors() -> None:
    """What REST maps, gRPC maps."""
    assert statuses.STATUSES.keys() == answers.STATUSES.keys()


def test_texts_are_bounded() -> None:
    """A long text is cut: a status travels in trailers, which clients bound at 8 KiB."""
    text = statuses.text_of(errors.InvalidInput("ä" * 5_000))

    assert text == "ä" * 2_000 + "..."


def test_texts_are_text() -> None:
    """Half of a surrogate pair, which a model's error may hold, goes as its escape: raised here, it ended no call."""
    error = RuntimeError("bad \ud800")

    assert statuses.text_of(error) == answers.text_of(error) == r"RuntimeError : bad \ud800"
    assert b"bad \\ud800" in ending(statuses.code_of(error), statuses.text_of(error), {})
    assert answers.refusal(error).body == rb'{"error":"RuntimeError : bad \\ud800"}'
