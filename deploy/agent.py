"""The flags and the environment of KServe's agent 0.20, as KServe's controller passes them, and what they mean here."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from deploy import environment
from deploy.errors import UserError
from logger.batching.settings import BatchSettings
from logger.compat import KServeTap
from logger.errors import BadProbe
from logger.readiness import Probe, parse
from logger.settings import TapSettings
from logger.tap import Tap

log = logging.getLogger("sidelight.logger")

EVENTS: Final = ("sidelight", "kserve")
_CA_FOLDER: Final = Path("/etc/tls/logger")
"""Where KServe mounts the authorities of the logger's sinks; the flag names a file in there."""
# Read, and of no effect: what they are about is not part of this logger, or has other bounds here.
_IDLE: Final = {
    "enable-puller": True, "config-dir": False, "model-dir": False, "workers": False, "log-store-path": False,
    "log-store-format": False, "log-marshaller-url": False, "log-marshaller-port": False, "log-batch-size": False,
    "log-batch-interval": False,
}  # fmt: skip
# Every flag of the agent, and whether it is a boolean.
_FLAGS: Final = _IDLE | {
    "port": False, "component-port": False, "log-url": False, "source-uri": False, "log-mode": False,
    "inference-service": False, "namespace": False, "endpoint": False, "component": False, "metadata-headers": False,
    "metadata-annotations": False, "enable-batcher": True, "max-batchsize": False, "max-latency": False,
    "logger-ca-cert-file": False, "logger-tls-skip-verify": True,
}  # fmt: skip
# What Go's flag packages take for a boolean.
_TRUTHS: Final = {
    "1": True, "t": True, "T": True, "true": True, "TRUE": True, "True": True,
    "0": False, "f": False, "F": False, "false": False, "FALSE": False, "False": False,
}  # fmt: skip


def spell(words: Sequence[str]) -> list[str]:
    """Spell the agent's flags in one way, however they were given.

    One dash or two, `=` or two words, a boolean alone or with its value in a word of its own, values that begin with a
    dash: all come out as `--flag=value`. An empty value is none. Words that are no flag of the agent stay as they are.
    """
    found, left = [], list(words)
    while left:
        word = left.pop(0)
        name, equals, value = word.lstrip("-").partition("=")
        if not word.startswith("-") or len(word) - len(word.lstrip("-")) > len("--") or name not in _FLAGS:
            found.append(word)
            continue
        if not equals:
            boolean = _FLAGS[name]
            follows = bool(left) and (not boolean or left[0] in _TRUTHS or not left[0])
            if not follows and not boolean:
                found.append(f"--{name}")
                continue
            value = left.pop(0) if follows else "true"
        if value:
            found.append(f"--{name}={value}")
    return found


def add_agent_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare those of the agent's arguments that are not about logging itself."""
    defaults = BatchSettings()
    group = parser.add_argument_group("batching")
    group.add_argument(
        "--enable-batcher", type=_truth, nargs="?", const=True, default=False, metavar="BOOL",
        help="join V1 and V2 calls that fit together into one call of the model: docs/agent.md",
    )  # fmt: skip
    group.add_argument(
        "--max-batchsize", type=_above_zero, default=defaults.max_rows, metavar="ROWS",
        help="most rows of a batch (default: %(default)s)",
    )  # fmt: skip
    group.add_argument(
        "--max-latency", type=_above_zero, default=defaults.max_latency_ms, metavar="MS",
        help="how long a call waits for company, in milliseconds (default: %(default)s, as KServe's agent)",
    )  # fmt: skip
    group.add_argument(
        "--batch-early", type=_truth, nargs="?", const=True, default=False, metavar="BOOL",
        help="do not wait while no call of the same kind is on its way to the model",
    )  # fmt: skip
    group = parser.add_argument_group("as KServe's agent")
    group.add_argument(
        "--events", choices=EVENTS, default=EVENTS[0],
        help="kserve: exactly the events of KServe's agent, without status, path and our other extensions",
    )  # fmt: skip
    group.add_argument(
        "--logger-ca-cert-file", default="", metavar="FILE",
        help=f"authorities to trust for https sinks; a bare name lies in {_CA_FOLDER}",
    )  # fmt: skip
    group.add_argument(
        "--logger-tls-skip-verify", type=_truth, nargs="?", const=True, default=False, metavar="BOOL",
        help="trust any https sink; for tests",
    )  # fmt: skip
    for name in _IDLE:
        group.add_argument(f"--{name}", nargs="?", const="true", default="", metavar="...", help="accepted, no effect")


def name_idle_flags(arguments: argparse.Namespace) -> None:
    """Say once which of the flags that were given have no effect."""
    values = {name: getattr(arguments, name.replace("-", "_")) for name in _IDLE}
    given = [name for name, value in values.items() if value and _TRUTHS.get(value, True)]
    if given:
        log.warning("accepted, and without effect here: %s", ", ".join(f"--{name}" for name in given))


def tap_for(arguments: argparse.Namespace, settings: TapSettings) -> Tap:
    """Give the tap that makes the events asked for."""
    return KServeTap(settings) if arguments.events == "kserve" else Tap(settings)


def batch_settings(arguments: argparse.Namespace) -> BatchSettings | None:
    """Give the batcher's settings; None when there is none."""
    if not arguments.enable_batcher:
        return None
    return BatchSettings(
        max_rows=arguments.max_batchsize, max_latency_ms=arguments.max_latency, early=arguments.batch_early
    )


def sink_authorities(arguments: argparse.Namespace) -> str:
    """Give the file of authorities for https sinks; empty for the system's.

    Raises:
        UserError: there is no such file: going on would trust others than the user named.
    """
    if not arguments.logger_ca_cert_file:
        return ""
    path = _CA_FOLDER / arguments.logger_ca_cert_file
    if not path.is_file():
        raise UserError(f"--logger-ca-cert-file: {path}: no such file")
    return str(path)


def readiness_probe(component_port: int) -> Probe | None:
    """Read SERVING_READINESS_PROBE; None when it is not set.

    Raises:
        UserError: it cannot be read, or not be run from here.
    """
    text = environment.text("SERVING_READINESS_PROBE")
    if not text:
        return None
    try:
        return parse(text, component_port)
    except BadProbe as exc:
        raise UserError(f"SERVING_READINESS_PROBE: {exc}") from exc


def _truth(text: str) -> bool:
    if text not in _TRUTHS:
        raise argparse.ArgumentTypeError(f"expected true or false, got {text!r}")
    return _TRUTHS[text]


def _above_zero(text: str) -> int:
    if not (text.isascii() and text.isdigit() and int(text[:10]) > 0):
        raise argparse.ArgumentTypeError(f"expected a whole number from 1 up, got {text!r}")
    return int(text[:10])
