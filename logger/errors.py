"""Errors of the logger package.

LoggerError
├── BadProbe        a readiness probe that cannot be read or run
├── BadRules        a privacy file that cannot be used as it is
└── SpoolInUse      another process has the spool's folder
"""

from __future__ import annotations


class LoggerError(Exception):
    """Anything that the logger package refuses."""


class SpoolInUse(LoggerError):
    """A spool has one writer."""

    def __init__(self, folder: str) -> None:
        super().__init__(f"spool {folder}: another process uses it; give each logger a folder of its own")


class BadRules(LoggerError):
    """A privacy file says something that cannot be meant; the text names the field, expected and got."""


class BadProbe(LoggerError):
    """A readiness probe says something that cannot be run here; the text says what, expected and got."""
