"""Errors of the codecs.

ProtocolError           a body that does not follow its protocol; `where` is the field, the text says expected and got
├── MalformedBody       no JSON, or JSON of the wrong shape
├── UnknownDatatype     a tensor's datatype that V2 does not define
└── BadTensor           shape, size and data of a tensor do not fit together
"""

from __future__ import annotations


class ProtocolError(Exception):
    """A body does not follow its protocol."""

    def __init__(self, where: str, problem: str) -> None:
        super().__init__(f"{where}: {problem}")
        self.where, self.problem = where, problem


class MalformedBody(ProtocolError):
    """No JSON, or JSON of the wrong shape."""


class UnknownDatatype(ProtocolError):
    """A datatype that V2 does not define."""


class BadTensor(ProtocolError):
    """Shape, size and data of a tensor do not fit together."""
