"""Which version of a model answers a request: aliases, a canary's share, shadow copies. Pure.

A model's folder may say it in `rollout.yaml`; without that file the highest number is what answers. Used by
`inference/repository.py`, which switches to a new rollout only when the versions that it names are loaded.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any, Final

import yaml

from inference.errors import ModelLoadFailed

ROLLOUT_FILES: Final = ("rollout.yaml", "rollout.json")
STABLE: Final = "stable"
"""The alias that answers when a caller asks for no version."""
LATEST: Final = "latest"
"""The alias of the highest number in the folder."""
UNNUMBERED: Final = ""
"""The one version of a model whose folder has no numbered folders."""
_ALIAS: Final = re.compile(r"[A-Za-z][A-Za-z0-9._-]*")
_WHOLE: Final = 1 << 64


@dataclass(frozen=True, slots=True)
class Choice:
    """What becomes of one request."""

    version: str | None
    """The version that answers; None: the only one there is."""
    shadows: tuple[str, ...] = ()
    """Versions that get a copy of the request; no caller gets their answers."""
    steady: bool = False
    """Whether it is the same for all requests that ask for the same version, or for none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """A version's part of the requests."""

    version: str
    percent: float = 100.0
    header: str = ""
    """What decides, so that one caller meets one version. Empty, or absent in a request: the correlation id decides."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rollout:
    """A rollout file as it was written; names of versions may be aliases."""

    stable: str = LATEST
    aliases: Mapping[str, str] = field(default_factory=dict)
    canary: Share | None = None
    shadows: tuple[Share, ...] = ()


class Routes:
    """A rollout over the versions that a model has; decides for each request."""

    def __init__(self, model: str, versions: Iterable[str], rollout: Rollout | None = None) -> None:
        """Resolve the rollout's aliases.

        Raises:
            ModelLoadFailed: it names a version or an alias that the model does not have.
        """
        self.versions = tuple(versions)
        self._model = model.encode()
        rollout = rollout or Rollout()
        aliases = {LATEST: max(self.versions, key=_order), **rollout.aliases}
        resolved = {name: self._resolved(model, name, aliases) for name in aliases}
        self.aliases = {**resolved, STABLE: self._resolved(model, rollout.stable, aliases)}
        self._canary = self._share(model, rollout.canary, aliases) if rollout.canary else None
        self._shadows = tuple(self._share(model, share, aliases) for share in rollout.shadows)
        self._plain = Choice(self.aliases[STABLE] or None, steady=True)

    @property
    def wanted(self) -> tuple[str, ...]:
        """List the versions that must be loaded before these routes may be taken, the stable one first."""
        shares = ((self._canary,) if self._canary else ()) + self._shadows
        return tuple(dict.fromkeys((self.aliases[STABLE], *(share.version for share in shares))))

    def find(self, version: str | None) -> str | None:
        """Give the version that a caller means by a number, an alias or nothing; None when there is none."""
        if version is None:
            return self.aliases[STABLE]
        version = self.aliases.get(version, version)
        return version if version in self.versions else None

    def choose(self, key: bytes, headers: Mapping[str, str], draw: Callable[[], float]) -> Choice:
        """Decide for a request that asks for no version.

        Args:
            key: the correlation id.
            headers: of the request, names in lower case (or a mapping that does not mind).
            draw: a number from 0 up to 1, for requests that bring nothing to stick to.
        """
        if self._canary is None and not self._shadows:
            return self._plain
        version = self._plain.version
        if self._canary is not None and self._falls(self._canary, b"canary", key, headers, draw):
            version = self._canary.version
        shadows = tuple(
            share.version
            for share in self._shadows
            if share.version != version and self._falls(share, b"shadow", key, headers, draw)
        )
        return Choice(version, shadows)

    def _falls(
        self, share: Share, kind: bytes, key: bytes, headers: Mapping[str, str], draw: Callable[[], float]
    ) -> bool:
        if share.header and (named := headers.get(share.header)):
            key = named.encode()
        if not key:
            return draw() * 100 < share.percent
        # The model's name keeps one caller from being the canary of every model. The share only grows with percent:
        # who was in at 5 % is in at 10 %.
        digest = blake2b(b"\0".join((kind, self._model, key)), digest_size=8).digest()
        return int.from_bytes(digest, "big") * 100 < share.percent * _WHOLE

    def _share(self, model: str, share: Share, aliases: Mapping[str, str]) -> Share:
        return Share(
            version=self._resolved(model, share.version, aliases), percent=share.percent, header=share.header.lower()
        )

    def _resolved(self, model: str, name: str, aliases: Mapping[str, str]) -> str:
        seen = []
        while name in aliases and name not in seen:
            seen.append(name)
            name = aliases[name]
        if name not in self.versions:
            known = ", ".join(self.versions)
            raise ModelLoadFailed(f"model {model}: rollout: no version {name!r}; the folder has {known}")
        return name


def routes_of(model: str, versions: tuple[str, ...], rollout: Rollout | None) -> Routes:
    """Give a model's routes; of thousands, most have one version without a number and no rollout, and share theirs.

    Raises:
        ModelLoadFailed: see `Routes`.
    """
    return Routes(model, versions, rollout) if rollout or versions != (UNNUMBERED,) else _ONLY


def parse(text: bytes, where: str) -> Rollout:
    """Read a rollout file; JSON is YAML, too.

    Raises:
        ModelLoadFailed: no mapping, an unknown key, or a value that does not fit; the text names file and key.
    """
    try:
        given = yaml.safe_load(text)
    except (yaml.YAMLError, UnicodeDecodeError) as exc:
        raise ModelLoadFailed(f"{where}: no valid YAML: {exc}") from exc
    fields = _mapping(given, where, ("stable", "aliases", "canary", "shadows"))
    aliases = _mapping(fields.get("aliases", {}), f"{where}: aliases")
    for alias in aliases:
        if not _ALIAS.fullmatch(str(alias)) or alias in {STABLE, LATEST}:
            raise ModelLoadFailed(
                f"{where}: aliases: expected a word that starts with a letter, not {STABLE} or {LATEST}, got {alias!r}"
            )
    shadows = fields.get("shadows", [])
    if not isinstance(shadows, list):
        raise ModelLoadFailed(f"{where}: shadows: expected a list, got {shadows!r}")
    return Rollout(
        stable=_version(fields.get("stable", LATEST), f"{where}: stable"),
        aliases={str(alias): _version(value, f"{where}: aliases.{alias}") for alias, value in aliases.items()},
        canary=_share(fields["canary"], f"{where}: canary") if fields.get("canary") is not None else None,
        shadows=tuple(_share(share, f"{where}: shadows[{index}]") for index, share in enumerate(shadows)),
    )


def _share(given: object, where: str) -> Share:
    fields = _mapping(given, where, ("version", "percent", "header"))
    if "version" not in fields:
        raise ModelLoadFailed(f"{where}: expected a version, got {given!r}")
    percent = fields.get("percent", 100)
    if isinstance(percent, bool) or not isinstance(percent, int | float) or not 0 <= percent <= 100:  # noqa: PLR2004 - percent
        raise ModelLoadFailed(f"{where}: percent: expected a number from 0 to 100, got {percent!r}")
    header = fields.get("header", "")
    if not isinstance(header, str):
        raise ModelLoadFailed(f"{where}: header: expected a header's name, got {header!r}")
    return Share(version=_version(fields["version"], f"{where}: version"), percent=float(percent), header=header)


def _version(given: object, where: str) -> str:
    if isinstance(given, bool) or not isinstance(given, str | int) or given == "":
        raise ModelLoadFailed(f"{where}: expected a version or an alias, got {given!r}")
    return str(given)


def _mapping(given: object, where: str, known: tuple[str, ...] | None = None) -> dict[Any, Any]:
    if not isinstance(given, dict):
        raise ModelLoadFailed(f"{where}: expected a mapping, got {given!r}")
    unknown = [key for key in given if known is not None and key not in known]
    if unknown:
        raise ModelLoadFailed(f"{where}: unknown key {unknown[0]!r}; known: {', '.join(known or ())}")
    return given


def _order(version: str) -> tuple[int, str]:
    return (int(version), version) if version.isdecimal() else (-1, version)


_ONLY: Final = Routes("", (UNNUMBERED,))
