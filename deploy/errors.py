"""Errors of the deploy package.

DeployError
├── UserError       a mistake in an argument, a file or a setting: one line, exit code 2, no traceback
└── ProcessFailed   a process that the runner started did not come up or ended by itself
"""

from __future__ import annotations


class DeployError(Exception):
    """Anything that the deploy package refuses."""


class UserError(DeployError):
    """What the user gave cannot be used; the message says what, where, expected and got."""


class ProcessFailed(DeployError):
    """A supervised process failed; `name` says which and `detail` how."""

    def __init__(self, name: str, detail: str) -> None:
        super().__init__(f"{name}: {detail}")
        self.name, self.detail = name, detail
