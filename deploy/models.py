"""The arguments that say which models a command works with, for commands without a server of their own."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

from deploy.errors import UserError
from inference.directory import open_model
from inference.errors import ModelLoadFailed
from inference.repository import Loaded, Repository
from inference.settings import Trust, read_model_settings


def add_model_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments, spelt as the predictor's."""
    group = parser.add_argument_group("model")
    group.add_argument("--model_name", default="model", help="its name (default: model)")
    group.add_argument("--model_dir", type=Path, metavar="DIR", help="folder with one model file")
    group.add_argument("--runtime", metavar="NAME", help="which runtime reads it (default: found from the file)")
    group.add_argument("--trusted", action="store_true", help="load pickle and joblib: they run the code they hold")
    group.add_argument(
        "--trusted-types", type=_words, default=(), metavar="TYPE,...", help="types that a .skops file may build, too"
    )


def add_further_models_argument(parser: argparse.ArgumentParser) -> None:
    """Declare the argument that names several models."""
    parser.add_argument(
        "--model", action="append", default=[], metavar="NAME=DIR", help="one more model; repeatable"
    )  # fmt: skip


def open_repository(arguments: argparse.Namespace) -> Repository:
    """Load every model that the arguments name.

    Raises:
        UserError: none is named, one is named twice, or one cannot be loaded.
    """
    folders = _folders(arguments)
    trust = Trust(pickle=arguments.trusted, types=arguments.trusted_types)
    repository = Repository({name: _loader(folder, trust, arguments.runtime) for name, folder in folders.items()})
    for name in folders:
        try:
            repository.load(name)
        except ModelLoadFailed as exc:
            raise UserError(f"model {name!r}: {exc}") from exc
    return repository


def _folders(arguments: argparse.Namespace) -> dict[str, Path]:
    found: dict[str, Path] = {}
    if arguments.model_dir is not None:
        found[arguments.model_name] = arguments.model_dir
    for text in getattr(arguments, "model", ()):
        name, equals, folder = text.partition("=")
        if not (name and equals and folder):
            raise UserError(f"--model: expected NAME=DIR, got {text!r}")
        if name in found:
            raise UserError(f"--model: {name!r} is named twice")
        found[name] = Path(folder)
    if not found:
        raise UserError("no model: name one with --model_name NAME --model_dir DIR")
    return found


def _loader(folder: Path, trust: Trust, runtime: str | None) -> Callable[[], Loaded]:
    def load() -> Loaded:
        settings = read_model_settings(folder)
        return Loaded(open_model(folder, trust, runtime), settings.version, settings)

    return load


def _words(text: str) -> tuple[str, ...]:
    return tuple(word for word in text.split(",") if word)
