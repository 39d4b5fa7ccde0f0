"""Certificates and keys in PEM files: loads them with errors that say which file, and tells when one was replaced.

Used for Kafka's clients (`credentials.py`) and for what the predictor serves (`inference/certificate.py`).
"""

from __future__ import annotations

import ssl
from pathlib import Path

from streams.errors import BadCredentials


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
