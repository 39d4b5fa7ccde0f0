"""Loads a class that comes with a model: from a Python file in its directory, or from an installed package.

Importing runs the code, so nothing is imported without the operator's trust. Two models may both bring a `model.py`:
each directory is a package of its own, read anew at every load. Used by `inference/runtimes/custom.py` and `torch.py`.
"""

from __future__ import annotations

import importlib
import itertools
import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, SourceFileLoader
from importlib.util import spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any, Final

from inference.errors import ModelLoadFailed, UnsafeFormat
from inference.runtime import Source

_numbers: Final = itertools.count()


class ModelCode:
    """One class, and the modules that were imported for it."""

    def __init__(self, name: str, source: Source) -> None:
        """Import `module:Class`.

        Raises:
            UnsafeFormat: the operator does not trust the model's code.
            ModelLoadFailed: no such module or class, or its code failed.
        """
        module, _, attribute = name.partition(":")
        self.directory = source.path if source.path.is_dir() else source.path.parent
        self.where = f"{self.directory}: {name}"
        if not attribute.isidentifier() or not all(part.isidentifier() for part in module.split(".")):
            raise ModelLoadFailed(f"{self.where}: expected module:Class")
        file = _file(self.directory, module.split("."))
        self.where = f"{file}: {attribute}" if file is not None else self.where
        if not source.trust.code:
            raise UnsafeFormat(f"{self.where}: a model's class runs whatever code it holds; if you trust it: --trusted")
        self._folder = _Folder(f"_sidelight_model_{next(_numbers)}", self.directory) if file is not None else None
        self.kind = self._imported(module, attribute)

    def build(self, arguments: dict[str, Any]) -> Any:  # noqa: ANN401 - the class is the user's
        """Construct an instance.

        Raises:
            ModelLoadFailed: the class refused.
        """
        try:
            return self.kind(**arguments)
        except (Exception, SystemExit) as exc:
            raise ModelLoadFailed(f"{self.where}(): {type(exc).__name__}: {exc}") from exc

    def forget(self) -> None:
        """Let go of the modules that came from the model's directory."""
        if self._folder is not None:
            self._folder.close()

    def _imported(self, module: str, attribute: str) -> type[Any]:
        try:
            if self._folder is not None:
                module = self._folder.open(module)
            found = getattr(importlib.import_module(module), attribute, None)
        except (Exception, SystemExit) as exc:
            self.forget()
            raise ModelLoadFailed(f"{self.where}: {type(exc).__name__}: {exc}") from exc
        if not isinstance(found, type):
            self.forget()
            raise ModelLoadFailed(f"{self.where}: the module has no such class")
        return found


class _Folder(MetaPathFinder):
    """Imports the files of a directory as the modules of one package, which no other model shares."""

    def __init__(self, package: str, directory: Path) -> None:
        self._package = package
        self._directory = directory

    def open(self, module: str) -> str:
        """Make the package importable; give the module's full name."""
        package = ModuleType(self._package)
        package.__path__ = []
        sys.modules[self._package] = package
        sys.meta_path.insert(0, self)
        return f"{self._package}.{module}"

    def close(self) -> None:
        """Forget the package and all of its modules."""
        if self in sys.meta_path:
            sys.meta_path.remove(self)
        for name in list(sys.modules):
            if f"{name}.".startswith(f"{self._package}."):
                del sys.modules[name]

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Find a module of this package; called by the import system."""
        del path, target
        if not fullname.startswith(f"{self._package}."):
            return None
        file = _file(self._directory, fullname.split(".")[1:])
        if file is None:
            return None
        inner = [str(file.parent)] if file.name == "__init__.py" else None
        loader = _Uncached(fullname, str(file))
        return spec_from_file_location(fullname, file, loader=loader, submodule_search_locations=inner)


class _Uncached(SourceFileLoader):
    """Reads the source at every load, and writes nothing into the model's directory."""

    def path_stats(self, path: str) -> dict[str, Any]:
        """Have the import system find no compiled copy."""
        raise OSError(path)


def _file(directory: Path, parts: Sequence[str]) -> Path | None:
    path = directory.joinpath(*parts)
    for file in (path.with_suffix(".py"), path / "__init__.py"):
        if file.is_file():
            return file
    return None
