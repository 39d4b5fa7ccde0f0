"""What every shape is. Not a plug-in: its name begins with an underscore."""

from __future__ import annotations


class Shape:
    """The base."""
