"""Two classes: nobody can say which one is meant, but each can be named from outside."""

from __future__ import annotations

from tests.streams.shapes._base import Shape


class Left(Shape):
    """One."""


class Right(Shape):
    """The other."""
