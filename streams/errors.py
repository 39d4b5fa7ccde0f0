"""Errors of the streams package.

StreamError
├── InvalidEvent        a message that is no CloudEvent, or not a valid one: never retried, goes to the dead letters
├── UnknownPlugin       a name that no file carries
├── MissingExtra        a name whose library is not installed
├── BadKeys             a file of keys that cannot be used
├── Sealed              an event's data is encrypted and cannot be opened here: never retried
├── ClaimFailed         a body that lies in a store does not exist, or is none that may be fetched: never retried
├── BadCredentials      a certificate, a password file or a client setting that cannot be used
├── NotNow              a stage needs something that is away: its host tries the same records again
│   └── ClaimsAway      the store of bodies does not answer, or not as it should
└── PublishError        a record that did not reach the broker
    ├── Unavailable     retry later: broker away, queue full, timeout
    └── Refused         never: too large, not authorised, unknown topic
"""

from __future__ import annotations


class StreamError(Exception):
    """Anything that the streams package refuses."""


class InvalidEvent(StreamError):
    """A message is no valid CloudEvent. `reason` is a short word from a closed list, `detail` says what and where."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


class ClaimFailed(StreamError):
    """A store will never give this body; the text names its place."""


class UnknownPlugin(StreamError):
    """No file of the folder carries this name."""

    def __init__(self, kind: str, name: str, known: tuple[str, ...]) -> None:
        super().__init__(f"unknown {kind} {name!r}; known: {', '.join(known) or 'none'}")
        self.kind, self.name, self.known = kind, name, known


class MissingExtra(StreamError):
    """A library that an optional part needs is not installed."""

    def __init__(self, what: str, extra: str, module: str) -> None:
        super().__init__(f"{what} needs {module!r}: pip install 'sidelight[{extra}]'")
        self.what, self.extra, self.module = what, extra, module


class BadCredentials(StreamError):
    """A Kafka client's credentials cannot be used. The message names files and properties, never their values."""


class BadKeys(StreamError):
    """A file of keys, or a key in it, cannot be used. The text names lines and ids, never a key."""


class Sealed(StreamError):
    """An event's data cannot be opened. `reason` is a short word from a closed list, `detail` says what and where."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


class NotNow(StreamError):
    """A stage cannot do its work now; the same records are given to it again. `kind` says in a word what is away."""

    def __init__(self, text: str, kind: str = "stage") -> None:
        super().__init__(text)
        self.kind = kind


class ClaimsAway(NotNow):
    """A store does not take or give bodies now; the text names the place of the one that was asked for."""

    def __init__(self, text: str) -> None:
        super().__init__(text, "claims")


class PublishError(StreamError):
    """A record did not reach the broker."""


class Unavailable(PublishError):
    """The broker cannot take the record now; the same record may be sent again."""


class Refused(PublishError):
    """The broker will never take this record."""
