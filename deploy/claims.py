"""Reads `--claims` of the commands that put away or fetch large bodies."""

from __future__ import annotations

from deploy.errors import UserError
from streams.claims import ClaimStore, store


def claim_store(url: str) -> ClaimStore | None:
    """Give the store that a URL names, None for an empty one.

    Raises:
        UserError: the URL names none.
        MissingExtra: what the store needs is not installed.
    """
    if not url:
        return None
    try:
        return store(url)
    except ValueError as exc:
        raise UserError(f"--claims: {exc}") from exc
