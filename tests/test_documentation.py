"""What the documentation tells people to type is what the commands take."""

from __future__ import annotations

import argparse
import re
import shlex
import tomllib
from pathlib import Path
from typing import NoReturn

import pytest

from deploy.cli import load, names, parser_of
from tests.documented import ROOT, blocks, commands, inline, ours

DOCUMENTS = [
    ROOT / "README.md",
    *sorted(ROOT.glob("docs/*.md")),
    ROOT / "detectors" / "README.md",
    ROOT / "CHANGELOG.md",
]


class Strict(argparse.ArgumentParser):
    """Fails where the command would end with exit code 2."""

    def error(self, message: str) -> NoReturn:
        """Fail."""
        raise AssertionError(f"{self.prog}: {message}")


def parse(words: list[str]) -> argparse.Namespace:
    """Read a command line of ours as the command itself does."""
    assert words, "sidelight alone"
    assert words[0] in names(), f"unknown command: {words[0]}"
    command = load(words[0])
    return parser_of(words[0], command, Strict).parse_args(getattr(command, "spell", list)(words[1:]))


def flags(name: str) -> set[str]:
    """Give every flag of a command."""
    parser = parser_of(name, load(name), Strict)
    return {flag for action in parser._actions for flag in action.option_strings}  # the parser has no other list


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_command_lines_can_be_typed(path: Path) -> None:
    """Every `sidelight ...` in a code block is read by the real parser; in running text its flags are known ones."""
    text = path.read_text()
    for block in blocks(text):
        for words in ours(block):
            parse(words)
    for words in inline(text):
        if words[0] in {"COMMAND", "..."}:
            continue
        assert words[0] in names(), words
        assert {word.partition("=")[0] for word in words if word.startswith("-")} <= flags(words[0]), words


@pytest.mark.parametrize("name", names())
def test_examples_of_the_help_can_be_typed(name: str) -> None:
    """So can every example that a command's own help shows."""
    found = list(ours(load(name).EXAMPLES))

    assert found
    for words in found:
        parse(words)


def test_the_documents_hold_command_lines() -> None:
    """What is checked above is there: the quick start by name, and many more."""
    found = [words for path in DOCUMENTS for block in blocks(path.read_text()) for words in ours(block)]

    assert {"up", "payloads", "status", "alerts", "explain", "logger", "assembler"} <= {words[0] for words in found}
    assert len(found) >= 12


@pytest.mark.parametrize(
    "line",
    [
        "sidelight logger --log-url kafka://broker:9092 --outbx spool",
        "sidelight logger --log-url kafka://broker:9092 \\\n        --spool-sync sometimes",
        "sidelight up --port 8080",
        "sidelight payload",
        "--log-url kafka://broker:9092 --component-prt 80",
    ],
)
def test_a_wrong_flag_would_be_found(line: str) -> None:
    """Misspelt, with a value that is none, with something missing, of a command that is none."""
    text = f"As follows:\n\n    {line}\n\nAnd so on.\n"
    with pytest.raises(AssertionError):
        [parse(words) for block in blocks(text) for words in ours(block)]


def test_other_command_lines_of_the_readme() -> None:
    """What is not ours names targets of the Makefile, files, and extras that exist."""
    text = (ROOT / "README.md").read_text()
    lines = [line for block in blocks(text) for line in commands(block)]
    targets = set(re.findall(r"(?m)^([a-z]+):", (ROOT / "Makefile").read_text()))
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    made = [line.split()[1] for line in lines if line.startswith("make ")]
    scripts = [shlex.split(line)[1] for line in lines if line.startswith("python ")]
    named = re.findall(r"pip install '\.\[([a-z,-]+)\]'", text)

    assert made
    assert set(made) <= targets
    assert scripts
    assert all((ROOT / script).is_file() for script in scripts)
    assert named
    assert set(",".join(named).split(",")) <= set(extras)
