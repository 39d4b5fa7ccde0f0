"""Finds plug-ins by file name: one file in a folder is one plug-in, and the file's name, with dashes, is its name.

Listing imports nothing; finding imports that one file. Code from outside is named `package.module:Class`.
"""

from __future__ import annotations

import importlib
import pkgutil
from dataclasses import dataclass
from typing import Any

from streams.errors import MissingExtra, UnknownPlugin


@dataclass(frozen=True, slots=True)
class Folder:
    """A package whose modules are plug-ins of one kind. Each module holds one class that is a subclass of `base`."""

    kind: str
    """What the plug-ins are, for messages: `detector`, `explainer`, `runtime`."""
    package: str
    base: type
    extras: dict[str, str]
    """Top-level module of a library → the extra that installs it."""

    def names(self) -> tuple[str, ...]:
        """List the plug-ins' names, sorted, without importing any."""
        package = importlib.import_module(self.package)
        modules = (module.name for module in pkgutil.iter_modules(package.__path__))
        return tuple(sorted(name.replace("_", "-") for name in modules if not name.startswith("_")))

    def find(self, name: str) -> type[Any]:
        """Import one plug-in and give its class.

        Raises:
            UnknownPlugin: no file carries this name.
            MissingExtra: its library is not installed.
        """
        if ":" in name:
            module, _, attribute = name.partition(":")
            if not all(part.isidentifier() for part in module.split(".")):
                raise UnknownPlugin(self.kind, name, self.names())
            return self._checked(name, getattr(self._import(name, module), attribute, None))
        if name not in self.names():
            raise UnknownPlugin(self.kind, name, self.names())
        module = self._import(name, f"{self.package}.{name.replace('-', '_')}")
        own = [
            value
            for value in vars(module).values()
            if isinstance(value, type) and issubclass(value, self.base) and value.__module__ == module.__name__
        ]
        return self._checked(name, own[0] if len(own) == 1 else None)

    def _import(self, name: str, module: str) -> Any:  # noqa: ANN401 - a module has no narrower type
        try:
            return importlib.import_module(module)
        except ModuleNotFoundError as exc:
            library = (exc.name or "").partition(".")[0]
            if library in self.extras:
                raise MissingExtra(f"{self.kind} {name!r}", self.extras[library], library) from exc
            if exc.name is not None and f"{module}.".startswith(f"{exc.name}."):
                raise UnknownPlugin(self.kind, name, self.names()) from exc
            raise

    def _checked(self, name: str, found: object) -> type[Any]:
        if isinstance(found, type) and issubclass(found, self.base):
            return found
        raise UnknownPlugin(self.kind, f"{name} (no single subclass of {self.base.__name__})", self.names())
