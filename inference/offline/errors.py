"""Errors of batch prediction.

OfflineError        something about files or columns that a person has to change; the text says which and what
"""

from __future__ import annotations


class OfflineError(Exception):
    """A batch prediction that cannot begin, or cannot go on."""
