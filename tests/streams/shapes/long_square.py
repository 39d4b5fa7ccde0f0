"""One class of its own beside an imported one: a good plug-in."""

from __future__ import annotations

from tests.streams.shapes._base import Shape


class LongSquare(Shape):
    """The one."""


class Corner:
    """No shape."""
