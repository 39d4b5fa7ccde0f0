"""Needs a library that no extra brings, of which this module's package has the first letters."""

import te  # type: ignore[import-not-found] # that is the point

__all__ = ["te"]
