"""The life cycle of alerts: findings in, opened, updated and resolved out. Pure.

There is at most one open alert per monitor, detector and key (a feature, say). Its id follows from those and from the
place in the log of the window that opened it, so a crash and a replay give the same alert.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import orjson

from detectors.base import Finding
from detectors.settings import AlertSettings
from streams.events import (
    ALERT_OPENED_TYPE,
    ALERT_RESOLVED_TYPE,
    ALERT_UPDATED_TYPE,
    COMPONENT,
    Event,
    format_time,
    stable_id,
)

_TYPES: Final = {"opened": ALERT_OPENED_TYPE, "updated": ALERT_UPDATED_TYPE, "resolved": ALERT_RESOLVED_TYPE}


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """Where a finding comes from."""

    service: str
    monitor: str
    detector: str
    type: str
    family: str


@dataclass(slots=True)
class _Track:
    """One detector's key: its recent outcomes, and its open alert."""

    recent: list[bool]
    quiet: int = 0
    alert: str = ""
    opened_us: int = 0
    sequence: int = 0
    alarms: int = 0
    """Alarming windows since the alert opened."""


class AlertBook:
    """The alerts of one monitor.

    An open alert is updated at its second, fourth, eighth alarming window and so on: what stays broken for a year does
    not send an event with every window.
    """

    def __init__(self, settings: AlertSettings) -> None:
        self._settings = settings
        self._tracks: dict[str, _Track] = {}

    def take(self, origin: Origin, finding: Finding) -> Event | None:
        """Take a finding in order; give the event that it leads to, if any."""
        track = self._tracks.setdefault(f"{origin.detector}\x1f{finding.key}", _Track([]))
        track.recent = [*track.recent, finding.alarm][-self._settings.open_of :]
        track.quiet = 0 if finding.alarm else track.quiet + 1
        if not track.alert:
            return self._open(origin, finding, track) if sum(track.recent) >= self._settings.open_n else None
        if finding.alarm:
            track.alarms += 1
            due = track.alarms & (track.alarms - 1) == 0
            return self._event(origin, finding, track, "updated") if due else None
        if track.quiet < self._settings.resolve_after:
            return None
        event = self._event(origin, finding, track, "resolved")
        self._tracks[f"{origin.detector}\x1f{finding.key}"] = _Track([])
        return event

    def open_alerts(self) -> int:
        """Give how many alerts are open."""
        return sum(bool(track.alert) for track in self._tracks.values())

    def state(self) -> dict[str, Any]:
        """Give everything as JSON-able values."""
        return {
            key: [track.recent, track.quiet, track.alert, track.opened_us, track.sequence, track.alarms]
            for key, track in self._tracks.items()
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take what `state` gave."""
        self._tracks = {key: _Track(*fields) for key, fields in state.items()}

    def withdraw(self, origins: Mapping[str, Origin], reason: str, at_us: int) -> list[tuple[Origin, Event]]:
        """Resolve what is open of a monitor that is no more, for this reason; gives the same events however often.

        Args:
            origins: of each detector by its name; what is open of others cannot be told to anybody.
            reason: in plain words.
            at_us: event time by which it ended; none ends before it began.
        """
        found = []
        for place, track in self._tracks.items():
            detector, _, key = place.partition("\x1f")
            if track.alert and detector in origins:
                origin, end_us = origins[detector], max(at_us, track.opened_us)
                nothing = {"window": None, "statistic": None, "threshold": None, "p_value": None, "alpha": None}
                told = nothing | {"message": reason, "evidence": {"reason": reason}}
                found.append((origin, _event(origin, key, track, "resolved", end_us, told)))
        self._tracks = {}
        return found

    def _open(self, origin: Origin, finding: Finding, track: _Track) -> Event:
        first = finding.first
        # The place in the log as well as the correlation id: a client may use one id for every call.
        place = (first[name] for name in ("id", "partition", "offset", "row"))
        track.alert = stable_id(origin.service, origin.monitor, origin.detector, finding.key, *place, finding.rows)
        track.opened_us, track.sequence, track.alarms = int(finding.last["time_us"]), 0, 1
        return self._event(origin, finding, track, "opened")

    def _event(self, origin: Origin, finding: Finding, track: _Track, kind: str) -> Event:
        told = {
            "message": finding.message,
            "window": {"rows": finding.rows, "first": dict(finding.first), "last": dict(finding.last)},
            "statistic": finding.statistic,
            "threshold": finding.threshold,
            "p_value": finding.p_value,
            "alpha": finding.alpha,
            "evidence": dict(finding.evidence),
        }
        return _event(origin, finding.key, track, kind, int(finding.last["time_us"]), told)


def _event(origin: Origin, key: str, track: _Track, kind: str, at_us: int, told: Mapping[str, Any]) -> Event:
    track.sequence += 1
    namespace, _, service = origin.service.partition("/")
    service, _, component = service.partition("/")
    body = {
        "alert": track.alert,
        "state": kind,
        "sequence": track.sequence,
        "alarming_windows": track.alarms,
        "service": f"{namespace}/{service}",
        "monitor": origin.monitor,
        "detector": {"name": origin.detector, "type": origin.type, "key": key},
        "family": origin.family,
        "message": told["message"],
        "opened": format_time(track.opened_us),
        **told,
    }
    return Event(
        id=stable_id(track.alert, kind, track.sequence),
        source=f"/sidelight/monitors/{namespace}/{origin.monitor}",
        type=_TYPES[kind],
        time=format_time(at_us),
        datacontenttype="application/json",
        subject=track.alert,
        extensions={
            "namespace": namespace,
            "inferenceservicename": service,
            "monitor": origin.monitor,
            "detector": origin.detector,
            **({COMPONENT: component} if component else {}),
        },
        data=orjson.dumps(body),
    )
