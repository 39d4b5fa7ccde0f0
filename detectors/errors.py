"""Errors of the detectors package.

DetectorError
├── InvalidMonitor      a monitor's settings: which key, expected, got
├── InvalidReference    reference data that do not fit the monitor
└── InvalidRows         rows of another shape than the detector was built for
"""

from __future__ import annotations


class DetectorError(Exception):
    """Anything that the detectors package refuses."""


class InvalidMonitor(DetectorError):
    """A monitor's settings cannot be used."""

    def __init__(self, where: str, problem: str) -> None:
        super().__init__(f"{where}: {problem}")
        self.where, self.problem = where, problem


class InvalidReference(DetectorError):
    """Reference data do not fit the monitor."""


class InvalidRows(DetectorError):
    """Rows do not have the columns that a detector was built for."""
