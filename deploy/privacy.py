"""Reads the files of privacy rules and of keys. What is in them: `logger/privacy/rules.py`, `streams/keyring.py`."""

from __future__ import annotations

import argparse
import logging
import secrets
from pathlib import Path

from prometheus_client.registry import Collector

from deploy.errors import UserError
from logger.errors import BadRules
from logger.privacy.metrics import PrivacyCollector
from logger.privacy.rules import Privacy, read
from logger.privacy.tap import PrivateTap
from logger.settings import TapSettings
from logger.tap import Tap
from streams import envelope
from streams.errors import BadKeys
from streams.keyring import Keyring

log = logging.getLogger(__name__)


def private(tap: Tap, settings: TapSettings, path: str) -> Tap:
    """Give a tap that follows a privacy file, if one is named; else the tap itself.

    Raises:
        UserError: the file, or one that it names, cannot be used.
        MissingExtra: it asks for encryption, and the library is not installed.
    """
    if not path:
        return tap
    privacy = rules_from(Path(path))
    log.info("privacy rules from %s%s", path, _sealed(privacy))
    try:
        return PrivateTap(tap, settings, privacy, secrets.token_bytes)
    except BadKeys as exc:
        raise UserError(f"{path}: encryption.key: {exc}") from exc


def collectors(tap: Tap) -> tuple[Collector, ...]:
    """Give what a tap that cleans shows on the Prometheus page."""
    return (PrivacyCollector(tap.cleaner),) if isinstance(tap, PrivateTap) else ()


def rules_from(path: Path) -> Privacy:
    """Read a privacy file; the file of keys that it names lies beside it, unless its path is absolute.

    Raises:
        UserError: either cannot be used; the message names file and field.
    """
    try:
        return read(_text(path), lambda name: keyring_from(path.parent / name))
    except BadRules as exc:
        raise UserError(f"{path}: {exc}") from exc


def keyring_from(path: Path) -> Keyring:
    """Read a file of keys.

    Raises:
        UserError: it cannot be used; the message names file and line.
    """
    try:
        return Keyring.parse(_text(path))
    except BadKeys as exc:
        raise UserError(f"{path}: {exc}") from exc


def add_keys_argument(parser: argparse.ArgumentParser) -> None:
    """Declare `--keys` of the commands that open encrypted payloads."""
    parser.add_argument(
        "--keys", default="", metavar="FILE", help="keys of encrypted payloads: an id and a key in base64 on each line"
    )


def opening_keys(arguments: argparse.Namespace) -> Keyring:
    """Give the keys of `--keys`, none without it.

    Raises:
        UserError: the file cannot be used.
        MissingExtra: the library that opens payloads is not installed.
    """
    if not arguments.keys:
        return Keyring()
    envelope.require()
    return keyring_from(Path(arguments.keys))


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as exc:
        raise UserError(f"{path}: cannot be read: {exc.strerror}") from exc
    except UnicodeDecodeError as exc:
        raise UserError(f"{path}: is no text in UTF-8") from exc


def _sealed(privacy: Privacy) -> str:
    return "" if privacy.encryption is None else f"; payloads are encrypted with key {privacy.encryption.key_id}"
