"""Certificates and keys in PEM files: loads them with errors that say which file, and again when one was replaced.

Used for Kafka's clients (`credentials.py`), for what the predictor serves (`inference/certificate.py`), and towards the
model (`logger/connector.py`).
"""

from __future__ import annotations

import logging
import ssl
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Generic, TypeVar

from streams.errors import BadCredentials

log = logging.getLogger(__name__)

T = TypeVar("T")


class Reread(Generic[T]):
    """What was made of files, and is made anew when one of them was replaced.

    Args:
        files: those that are looked at.
        make: makes it of them.
        taken: what the log says when it was made anew.
        refused: what the log says, before the reason, of files that cannot be used.

    Raises:
        BadCredentials: the files cannot be used.
    """

    def __init__(self, files: Iterable[Path], make: Callable[[], T], *, taken: str, refused: str) -> None:
        self._files, self._make, self._taken, self._refused = tuple(files), make, taken, refused
        # Before they are read: what is replaced meanwhile is read again.
        self._stamp = self._stamps()
        self.newest = make()

    def look(self) -> None:
        """Make it anew if need be. Called again and again; files that cannot be used change nothing."""
        stamp = self._stamps()
        if stamp == self._stamp:
            return
        self._stamp = stamp
        try:
            self.newest = self._make()
        except BadCredentials as exc:
            log.error("%s: %s", self._refused, exc)  # noqa: TRY400 - not ours
        else:
            log.info("%s", self._taken)

    def _stamps(self) -> tuple[tuple[int, ...] | None, ...]:
        return tuple(map(stamp, self._files))


def check_readable(file: str) -> None:
    """Name a file that is not there, or not for us: of two, nobody else would say which.

    Raises:
        BadCredentials: it cannot be opened.
    """
    try:
        with Path(file).open("rb"):
            pass
    except OSError as exc:
        raise BadCredentials(f"{file}: {(exc.strerror or str(exc)).lower()}") from exc


def load_authorities(context: ssl.SSLContext, file: str) -> None:
    """Have a context trust the authorities of a file.

    Raises:
        BadCredentials: it holds no certificate.
    """
    try:
        context.load_verify_locations(file)
    except OSError as exc:
        raise _refused(file, exc) from exc


def load_chain(context: ssl.SSLContext, certificate: str, key: str, password: str = "") -> None:
    """Have a context prove who it is. Nobody is asked for a pass phrase that is missing.

    Raises:
        BadCredentials: no certificate, no key, or not of each other.
    """
    try:
        context.load_cert_chain(certificate, key, password)
    except OSError as exc:
        raise _refused(f"{certificate} with {key}", exc) from exc


def load_identity(context: ssl.SSLContext, certificate: str, key: str) -> None:
    """Do the same, and name the one file that is wrong where it is one alone. A key may lie in the certificate's file.

    Raises:
        BadCredentials: a file is missing, or no certificate, or no key that belongs to it.
    """
    for file in (certificate, key or certificate):
        check_readable(file)
    # By itself first: together with its key, everything that is wrong has one name.
    load_authorities(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), certificate)
    load_chain(context, certificate, key or certificate)


def stamp(path: Path) -> tuple[int, ...] | None:
    """Give something that is another when a file is another; a swapped symbolic link counts. None: no file."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


def _refused(which: str, problem: OSError) -> BadCredentials:
    reason = problem.reason if isinstance(problem, ssl.SSLError) and problem.reason else ""
    return BadCredentials(
        f"{which}: expected PEM that belongs together: {(reason or problem.strerror or str(problem)).lower()}"
    )
