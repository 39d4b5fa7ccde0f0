"""Settings of a monitor, and how they are read from an `InferenceMonitor` document. The file is read elsewhere."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, Literal

from detectors.budget import Budget
from detectors.errors import InvalidMonitor
from streams.events import PREDICTOR, SHADOW

Kind = Literal["numeric", "categorical"]

API_VERSION: Final = "sidelight.dev/v1alpha1"
_COMPONENTS: Final = (PREDICTOR, "transformer", SHADOW)
_UNITS: Final = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}
_PERIOD: Final = re.compile(r"(\d+)\s*([smhd]|observations)")


@dataclass(frozen=True, slots=True, kw_only=True)
class ColumnSettings:
    """One feature or output."""

    name: str
    kind: Kind = "numeric"
    source: str = ""
    """Observation column after `in.` or `out.`, with an optional `[index]`; empty: by name, else by position."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DetectorSettings:
    """One detector of a monitor."""

    name: str
    type: str
    features: tuple[str, ...] = ()
    """Columns to look at; empty: all that suit the detector."""
    params: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))


@dataclass(frozen=True, slots=True, kw_only=True)
class AlertSettings:
    """When an alert opens and resolves."""

    open_n: int = 1
    """Alarming windows, among the last `open_of`, that open an alert. More means later and steadier."""
    open_of: int = 1
    resolve_after: int = 3
    """Quiet windows in a row after which an alert resolves."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MonitorSettings:
    """A monitor: one service, its columns, its reference, its detectors and what they may cost in false alarms."""

    name: str
    namespace: str
    service: str
    reference: Path
    features: tuple[ColumnSettings, ...]
    outputs: tuple[ColumnSettings, ...]
    detectors: tuple[DetectorSettings, ...]
    budget: Budget
    alerts: AlertSettings
    component: str = PREDICTOR
    """Whose rows: the predictor's, the transformer's before it, or those of shadow versions. A call passes through all
    of them, each with an answer of its own."""
    version: str = ""
    """Only rows that this version of the model answered, as a predictor's rollout names it. Empty: all rows."""

    @property
    def key(self) -> str:
        """Give the key of its rows on the observations topic; see `streams.events.Event.observed_as`."""
        return self.target if self.component == PREDICTOR else f"{self.target}/{self.component}"

    @property
    def target(self) -> str:
        """Give the service that it watches, `namespace/name`."""
        return f"{self.namespace}/{self.service}"


def whole(where: str, value: object, least: int, most: int | None = None) -> int:
    """Give a whole number from `least` up, to `most` if there is one; refuse all else, naming `where`."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least or (most is not None and value > most):
        bounds = f"from {least} up" if most is None else f"from {least} to {most}"
        raise InvalidMonitor(where, f"expected a whole number {bounds}, got {value!r}")
    return value


def fraction(where: str, value: object, least: float) -> float:
    """Give a number from `least` to below 1; refuse all else, naming `where`."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value < 1:
        raise InvalidMonitor(where, f"expected a number from {least:g} to below 1, got {value!r}")
    return float(value)


def unknown(what: str, name: str, known: Sequence[str]) -> str:
    """Say that a name is unknown, which one was probably meant, and which there are."""
    spelling = {item.lower(): item for item in known}
    meant = difflib.get_close_matches(name.lower(), spelling, n=1)
    guess = f" did you mean {spelling[meant[0]]!r}?" if meant else ""
    return f"unknown {what} {name!r};{guess} known: {', '.join(known) or 'none'}"


def monitor_from_mapping(document: Mapping[str, Any], base: Path) -> MonitorSettings:
    """Read a monitor from a parsed document; paths in it are relative to `base`.

    Raises:
        InvalidMonitor: an unknown key or an unsuitable value; the message names the key, expected and got.
    """
    top = _Section(document, "", ("apiVersion", "kind", "metadata", "spec"))
    if top.text("apiVersion") != API_VERSION:
        raise InvalidMonitor("apiVersion", f"expected {API_VERSION}, got {top.text('apiVersion')!r}")
    metadata = top.section("metadata", ("name", "namespace", "labels", "annotations"))
    spec = top.section(
        "spec",
        (
            "inferenceService",
            "component",
            "modelVersion",
            "reference",
            "features",
            "outputs",
            "budget",
            "detectors",
            "alerts",
        ),
    )
    features = tuple(_column(item) for item in spec.sections("features", ("name", "type", "source")))
    outputs = tuple(_column(item) for item in spec.sections("outputs", ("name", "type", "source")))
    names = [column.name for column in (*features, *outputs)]
    _unique(names, "spec.features and spec.outputs")
    if not spec.sections("detectors", ("name", "type", "features", "params")):
        raise InvalidMonitor("spec.detectors", "expected at least one detector, got none")
    detectors = tuple(
        _detector(item, names) for item in spec.sections("detectors", ("name", "type", "features", "params"))
    )
    _unique([detector.name for detector in detectors], "spec.detectors")
    return MonitorSettings(
        name=metadata.text("name"),
        namespace=metadata.text("namespace", "default"),
        service=spec.text("inferenceService"),
        reference=base / spec.section("reference", ("path",)).text("path"),
        features=features,
        outputs=outputs,
        detectors=detectors,
        budget=_budget(spec),
        alerts=_alerts(spec),
        component=_component(spec),
        version=spec.text("modelVersion", ""),
    )


def _component(spec: _Section) -> str:
    component = spec.text("component", PREDICTOR)
    if component not in _COMPONENTS:
        raise InvalidMonitor("spec.component", f"expected one of {', '.join(_COMPONENTS)}, got {component!r}")
    return component


def _column(section: _Section) -> ColumnSettings:
    kind = section.text("type", "numeric")
    if kind not in {"numeric", "categorical"}:
        raise InvalidMonitor(section.at("type"), f"expected numeric or categorical, got {kind!r}")
    return ColumnSettings(
        name=section.text("name"),
        kind="numeric" if kind == "numeric" else "categorical",
        source=section.text("source", ""),
    )


def _detector(section: _Section, names: Sequence[str]) -> DetectorSettings:
    features = tuple(section.texts("features"))
    for name in features:
        if name not in names:
            raise InvalidMonitor(section.at("features"), unknown("column", name, names))
    kind = section.text("type")
    return DetectorSettings(
        name=section.text("name", kind), type=kind, features=features, params=section.mapping("params")
    )


def _budget(spec: _Section) -> Budget:
    section = spec.section("budget", ("falseAlarms", "per"))
    alarms = section.number("falseAlarms", 1)
    if not 0 < alarms < math.inf:
        raise InvalidMonitor(section.at("falseAlarms"), f"expected a number above 0, got {alarms}")
    period = section.text("per", "30d")
    found = _PERIOD.fullmatch(period)
    if found is None or int(found.group(1)) == 0:
        raise InvalidMonitor(
            section.at("per"), f"expected a time such as 30d or 12h, or '1000000 observations', got {period!r}"
        )
    if found.group(2) == "observations":
        return Budget(false_alarms=alarms, rows=int(found.group(1)))
    return Budget(false_alarms=alarms, period_us=int(found.group(1)) * _UNITS[found.group(2)] * 1_000_000)


def _alerts(spec: _Section) -> AlertSettings:
    section = spec.section("alerts", ("openAfter", "resolveAfter"))
    opening = section.section("openAfter", ("n", "of"))
    defaults = AlertSettings()
    open_n = opening.whole("n", defaults.open_n)
    settings = AlertSettings(
        open_n=open_n,
        open_of=opening.whole("of", max(defaults.open_of, open_n)),
        resolve_after=section.whole("resolveAfter", defaults.resolve_after),
    )
    if settings.open_n > settings.open_of:
        raise InvalidMonitor(opening.at("n"), f"expected 1 to {settings.open_of}, got {settings.open_n}")
    return settings


def _unique(names: Sequence[str], where: str) -> None:
    for name in names:
        if names.count(name) > 1:
            raise InvalidMonitor(where, f"the name {name!r} is used twice")


class _Section:
    """One mapping of the document, with its place in it; unknown keys are refused on sight."""

    def __init__(self, fields: object, place: str, known: Sequence[str]) -> None:
        if not isinstance(fields, Mapping):
            raise InvalidMonitor(place or "document", f"expected a mapping, got {type(fields).__name__}")
        odd = [str(key) for key in fields if key not in known]
        if odd:
            raise InvalidMonitor(place or "document", unknown("key", odd[0], known))
        self._fields, self._place = fields, place

    def at(self, key: str) -> str:
        return f"{self._place}.{key}" if self._place else key

    def text(self, key: str, default: str | None = None) -> str:
        value = self._fields.get(key, default)
        if isinstance(value, bool) or not isinstance(value, str | int) or (value == "" and default != ""):
            raise InvalidMonitor(self.at(key), f"expected text, got {'nothing' if value is None else repr(value)}")
        return str(value)

    def number(self, key: str, default: float) -> float:
        value = self._fields.get(key, default)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise InvalidMonitor(self.at(key), f"expected a number, got {value!r}")
        return value

    def whole(self, key: str, default: int) -> int:
        return whole(self.at(key), self._fields.get(key, default), 1)

    def texts(self, key: str) -> list[str]:
        value = self._fields.get(key, [])
        if not isinstance(value, list):
            raise InvalidMonitor(self.at(key), f"expected a list, got {value!r}")
        return [str(item) for item in value]

    def mapping(self, key: str) -> Mapping[str, Any]:
        value = self._fields.get(key, {})
        if not isinstance(value, Mapping):
            raise InvalidMonitor(self.at(key), f"expected a mapping, got {value!r}")
        return value

    def section(self, key: str, known: Sequence[str]) -> _Section:
        return _Section(self._fields.get(key, {}), self.at(key), known)

    def sections(self, key: str, known: Sequence[str]) -> list[_Section]:
        value = self._fields.get(key, [])
        if not isinstance(value, list):
            raise InvalidMonitor(self.at(key), f"expected a list, got {value!r}")
        return [_Section(item, f"{self.at(key)}[{index}]", known) for index, item in enumerate(value)]
