"""Finds detectors by name and builds those of a monitor, each with its share of the budget."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Final

from detectors.base import Array, Detector, Setup
from detectors.budget import Budget
from detectors.errors import InvalidMonitor, InvalidReference
from detectors.settings import ColumnSettings, DetectorSettings, MonitorSettings, unknown
from streams.errors import UnknownPlugin
from streams.plugins import Folder

LIBRARY: Final = Folder(
    kind="detector",
    package="detectors.library",
    base=Detector,
    extras={"scipy": "detectors", "sklearn": "detectors", "alibi_detect": "alibi", "aif360": "fairness"},
)


def build(monitor: MonitorSettings, reference: Mapping[str, Array]) -> dict[str, Detector]:
    """Build a monitor's detectors, by name.

    Raises:
        InvalidMonitor: an unknown type or parameter, or columns that do not suit.
        InvalidReference: the reference lacks a column.
    """
    for column in (*monitor.features, *monitor.outputs):
        if column.name not in reference:
            raise InvalidReference(f"{monitor.reference}: has no column {column.name!r}; it has {', '.join(reference)}")
    share = monitor.budget.split(len(monitor.detectors))
    return {settings.name: _one(settings, monitor, reference, share) for settings in monitor.detectors}


def _one(
    settings: DetectorSettings, monitor: MonitorSettings, reference: Mapping[str, Array], budget: Budget
) -> Detector:
    try:
        found: type[Detector] = LIBRARY.find(settings.type)
    except UnknownPlugin as exc:
        raise InvalidMonitor(f"spec.detectors[{settings.name}].type", str(exc)) from exc
    accepted = [name for name, item in inspect.signature(found).parameters.items() if item.kind is item.KEYWORD_ONLY]
    for name in settings.params:
        if name not in accepted:
            place = f"spec.detectors[{settings.name}].params.{name}"
            raise InvalidMonitor(place, unknown("parameter", str(name), accepted))
    setup = Setup(columns=_columns(settings, monitor, found), reference=reference, budget=budget)
    try:
        return found(setup, **settings.params)
    except InvalidMonitor as exc:
        raise InvalidMonitor(f"spec.detectors[{settings.name}].{exc.where}", exc.problem) from exc
    except InvalidReference as exc:
        raise InvalidReference(f"spec.detectors[{settings.name}]: {exc}") from exc
    except TypeError as exc:
        raise InvalidMonitor(f"spec.detectors[{settings.name}].params", str(exc)) from exc


def _columns(settings: DetectorSettings, monitor: MonitorSettings, found: type[Detector]) -> tuple[ColumnSettings, ...]:
    everything = (*monitor.features, *monitor.outputs)
    if settings.features:
        chosen = tuple(column for column in everything if column.name in settings.features)
        for column in chosen:
            if column.kind not in found.suits:
                place = f"spec.detectors[{settings.name}].features"
                raise InvalidMonitor(
                    place, f"{settings.type} takes {' or '.join(found.suits)}, {column.name!r} is {column.kind}"
                )
        return chosen
    candidates = monitor.outputs if found.watches == "outputs" else monitor.features
    chosen = tuple(column for column in candidates if column.kind in found.suits)
    if not chosen:
        place = f"spec.detectors[{settings.name}]"
        raise InvalidMonitor(
            place, f"the monitor has no {' or '.join(found.suits)} {found.watches} for {settings.type}"
        )
    return chosen
