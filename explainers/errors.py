"""Errors of the explainers package.

ExplainError
├── InvalidRequest          what was asked for cannot be explained: which field, expected, got
├── PredictorUnavailable    the predictor cannot be reached, or is overloaded: retry later
├── PredictorRefused        the predictor answered that the rows are wrong
├── PredictorMisbehaved     the predictor failed, or its answer does not fit what was asked
└── Overloaded              as many explanations as may run are running: retry later
"""

from __future__ import annotations


class ExplainError(Exception):
    """Anything that the explainers package refuses."""


class InvalidRequest(ExplainError):
    """What was asked for cannot be explained."""

    def __init__(self, where: str, problem: str) -> None:
        super().__init__(f"{where}: {problem}")
        self.where, self.problem = where, problem


class PredictorUnavailable(ExplainError):
    """The predictor cannot be reached, did not answer in time, or is overloaded."""


class PredictorRefused(ExplainError):
    """The predictor answered with a client error; its own words are in the message."""


class PredictorMisbehaved(ExplainError):
    """The predictor failed, or its answer does not fit what was asked: another number of rows, or no numbers."""


class Overloaded(ExplainError):
    """As many explanations as may run are running."""
