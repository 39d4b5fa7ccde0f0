"""Reads what the documentation tells people to type."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
_FENCE = re.compile(r"```\w*\n(.*?)```", re.DOTALL)
_INDENTED = re.compile(r"(?:(?<=\n\n)|\A)((?: {4}.*\n?|\n(?= {4}))+)")
_COMMENT = re.compile(r"(^|\s)#\s.*$")
_INLINE = re.compile(r"`(sidelight [^`]+)`")


def blocks(text: str) -> Iterator[str]:
    """Give the code blocks of a Markdown text, fenced ones and indented ones, without their indent."""
    for found in _FENCE.finditer(text):
        yield found.group(1)
    for found in _INDENTED.finditer(_FENCE.sub("", text)):
        yield re.sub(r"(?m)^ {4}", "", found.group(1))


def commands(text: str) -> Iterator[str]:
    """Give the command lines in a block, whole where a backslash continues them, without comments."""
    for line in text.replace("\\\n", " ").splitlines():
        if line := _COMMENT.sub("", line).strip():
            yield line


def ours(text: str) -> Iterator[list[str]]:
    """Give the words of every `sidelight ...` in a block, up to a pipe; and of lines of the logger's flags alone."""
    for line in commands(text):
        for part in line.split(" | "):
            words = shlex.split(part)
            if words[0] == "sidelight":
                yield words[1:]
    if text.startswith("--"):
        yield ["logger", *shlex.split(text)]


def inline(text: str) -> Iterator[list[str]]:
    """Give the words of every `sidelight ...` between back quotes, which may be a part of a command line."""
    for found in _INLINE.finditer(re.sub(r"\n +", "\n", text)):
        yield found.group(1).split()[1:]
