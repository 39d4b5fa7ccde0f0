"""No class at all; what is imported does not count."""

from tests.streams.shapes.long_square import LongSquare as Borrowed

__all__ = ["Borrowed"]
