"""Needs a library that an extra brings, and that is not installed."""

from sidelight_rounding.deep import anything  # type: ignore[import-not-found] # that is the point

__all__ = ["anything"]
