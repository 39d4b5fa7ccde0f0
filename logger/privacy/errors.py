"""Why a body is withheld. Never leaves the package: the cleaner makes length and digest of it."""

from __future__ import annotations

from typing import Final

REASONS: Final = (
    "truncated", "encoding", "gzip", "inflated", "header-length", "not-json", "too-deep", "shape", "missing", "tensor",
    "column", "binary", "too-large", "failed-call", "fault",
)  # fmt: skip
"""The closed list."""


class Unreadable(Exception):
    """The rules cannot be applied to a body with certainty."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason
