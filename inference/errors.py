"""Errors of the inference package; what a client sees of them is decided at each edge (`inference/rest/answers.py`).

InferenceError
├── ModelNotFound       no model, or no version of it, of this name
│   └── NothingToLoad   none that could be loaded
├── ModelNotReady       known, but not loaded now: retry later
├── InvalidInput        tensors that do not fit the model
├── Unsupported         a call that this server or this model does not offer
├── Overloaded          the queue is full: retry later
│   └── Postponed       full for calls that yield to users': explainers, synthetic calls, batch jobs
├── DeadlineExceeded    no answer in time: retry later
├── DeviceExhausted     a GPU's memory is full: retry later
├── DeviceLost          a GPU does nothing any more in this process, which must be started anew
├── ClientGone          the client went away before its answer was ready
├── BodyTooLarge        a request body above the cap
├── BodyTooSlow         a request body that did not arrive in time
├── PredictionFailed    the model itself failed
├── PredictorRefused    the predictor behind a transformer finds something wrong with the call
├── PredictorUnavailable  it cannot be reached, or is not ready: retry later
├── PredictorFailed     it failed, or gave no answer that can be read
├── ProcessSilent       one of this predictor's processes says nothing: retry later
└── ModelLoadFailed     a model directory that cannot be loaded
    └── UnsafeFormat    a file that can run code when loaded, without the flag that allows it

What is wrong with a body's form is `inference.protocol`'s ProtocolError.
"""

from __future__ import annotations

from typing import Final

FULL: Final = "too many connections; retry later"
"""What a client hears for whom there is no room, before it has asked for anything."""


class InferenceError(Exception):
    """Anything that the inference package refuses."""


class ModelNotFound(InferenceError):
    """No model carries this name, or it has no such version."""

    def __init__(self, name: str, version: str | None = None) -> None:
        which = f"Model with name {name}" + (f" and version {version}" if version is not None else "")
        super().__init__(f"{which} does not exist.")
        self.name, self.version = name, version

    @property
    def in_v2(self) -> str:
        """Say it as Triton does, whose clients look for these words; KServe's V2 clients look for none."""
        which = f"'{self.name}'" + (f" version {self.version}" if self.version is not None else "")
        return f"Request for unknown model: {which} is not found"


class NothingToLoad(ModelNotFound):
    """A model that is to be loaded, and that nobody knows."""

    @property
    def in_v2(self) -> str:
        """Say it as Triton does."""
        return f"failed to load '{self.name}', the repository has no such model"


class ModelNotReady(InferenceError):
    """The model is known but not loaded."""

    def __init__(self, name: str, reason: str = "", retry_after_s: float = 1) -> None:
        super().__init__(f"Model with name {name} is not ready." + (f" {reason}" if reason else ""))
        self.name, self.reason, self.retry_after_s = name, reason, max(1, round(retry_after_s))


class InvalidInput(InferenceError):
    """The tensors of a request do not fit the model."""


class Unsupported(InferenceError):
    """A call of the protocol that is not offered here."""


class Overloaded(InferenceError):
    """As many requests as may wait are waiting."""

    def __init__(self, waiting: int, retry_after_s: int = 1) -> None:
        super().__init__(f"overloaded: {waiting} requests are in progress or waiting; retry later")
        self.waiting, self.retry_after_s = waiting, retry_after_s


class Postponed(Overloaded):
    """Calls that yield to users' are not taken now."""


class DeadlineExceeded(InferenceError):
    """The answer was not ready in time."""

    def __init__(self, seconds: float) -> None:
        super().__init__(f"no answer within {seconds:g} s; retry later")
        self.seconds = seconds


class DeviceExhausted(InferenceError):
    """A GPU's memory is full; other calls may end soon, other models may go."""

    retry_after_s: int = 1

    def __init__(self, problem: str, device: str = "") -> None:
        """Say what is full.

        Args:
            problem: in the library's words.
            device: which one, such as `cuda:1`; empty: not known.
        """
        super().__init__(problem)
        self.device = device


class DeviceLost(InferenceError):
    """A kernel failed, for example on an index out of range: the GPU refuses this process everything from now on."""

    retry_after_s: int = 10


class ClientGone(InferenceError):
    """Nobody waits for the answer any more."""

    def __init__(self) -> None:
        super().__init__("the client went away")


class BodyTooLarge(InferenceError):
    """A request body above the cap."""

    def __init__(self, limit: int, got: int | None = None) -> None:
        shown = "more" if got is None else str(got)
        super().__init__(f"request body: expected at most {limit} bytes, got {shown}")
        self.limit, self.got = limit, got


class BodyTooSlow(InferenceError):
    """A request body that did not arrive in time."""

    def __init__(self, seconds: float) -> None:
        super().__init__(f"request body: not complete within {seconds:g} s")
        self.seconds = seconds


class PredictionFailed(InferenceError):
    """The model raised while it predicted; the message is the exception's type and text."""


class PredictorRefused(InferenceError):
    """The predictor behind a transformer found something wrong with the call; the text is its own."""

    status: int = 400
    """HTTP's number for what it is, whatever the predictor speaks."""
    retry_after_s: int = 0
    """When to come again, if that helps."""

    def __init__(self, status: int, text: str, retry_after_s: float = 0) -> None:
        super().__init__(text)
        self.status, self.retry_after_s = status, round(retry_after_s)


class PredictorUnavailable(InferenceError):
    """The predictor behind a transformer cannot be reached, or takes no calls now."""

    def __init__(self, text: str, retry_after_s: float = 1) -> None:
        super().__init__(text)
        self.retry_after_s = max(1, round(retry_after_s))


class PredictorFailed(InferenceError):
    """The predictor behind a transformer failed, or what it gave is no answer."""


class ProcessSilent(InferenceError):
    """Another process of this predictor is to be asked, and does not answer now."""

    retry_after_s: int = 1

    def __init__(self, process: int, reason: str) -> None:
        super().__init__(f"process {process} of this predictor: {reason}; retry later")
        self.process = process


class ModelLoadFailed(InferenceError):
    """A model directory that cannot be loaded; the message says which file and why."""


class UnsafeFormat(ModelLoadFailed):
    """Loading the file could run code that it brings along."""
