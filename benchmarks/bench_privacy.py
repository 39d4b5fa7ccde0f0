"""What privacy rules cost: CPU per KiB of body in the shipper's process, against reading and writing the same JSON.

The baselines, `json.loads` and `json.dumps` of the standard library and of orjson, are measured in the same run. One
thread; takes about fifteen seconds.
"""

from __future__ import annotations

import base64
import gzip
import json
import os
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import orjson

from logger.heads import Fields
from logger.privacy.rules import Privacy, read
from logger.privacy.tap import PrivateTap
from logger.settings import TapSettings
from logger.tap import Body, Letter, Seen, Tap
from streams.keyring import Keyring

ROUNDS: Final = 5
ROUND_S: Final = 0.25
AT: Final = 1_760_000_000_000_000
SETTINGS: Final = TapSettings(service="s", namespace="n", mode="request")
KEYS: Final = "\n".join(f"{name} {base64.b64encode(os.urandom(32)).decode()}" for name in ("customers", "payloads"))


@dataclass(frozen=True, slots=True)
class Case:
    """One kind of body, and the rules for it."""

    name: str
    body: bytes
    path: str
    fields: Fields
    rules: tuple[dict[str, Any], ...]
    size: int
    """Bytes of the body, not compressed."""


def rows(size: int) -> bytes:
    """Make a V1 body of about so many bytes: rows with two personal fields and six others."""
    row = {
        "email": "jane.doe@example.org",
        "age": 41,
        "a": 1.25,
        "b": 0.5,
        "c": 17,
        "d": "north",
        "e": True,
        "f": 2.125,
    }
    count = max(1, size // len(orjson.dumps(row)))
    return orjson.dumps({"instances": [row] * count})


def tensor(size: int) -> tuple[bytes, Fields]:
    """Make a V2 body with one binary tensor of sixteen columns."""
    width = 16
    count = max(1, size // (width * 4))
    raw = struct.pack(f"<{count * width}f", *([1.5] * count * width))
    item = {"name": "x", "datatype": "FP32", "shape": [count, width], "parameters": {"binary_data_size": len(raw)}}
    head = orjson.dumps({"inputs": [item]})
    return head + raw, [(b"inference-header-content-length", b"%d" % len(head))]


def cases(size: int) -> list[Case]:
    """Give the cases of one size."""
    json_type = (b"content-type", b"application/json")
    v1, (v2, length) = rows(size), tensor(size)
    mask = ({"pointer": "/instances/*/email", "action": "mask"},)
    names = ({"pointer": "/instances/*/email", "action": "pseudonym", "key": "customers"},)
    bucket = ({"pointer": "/instances/*/age", "action": "bucket", "width": 10},)
    column = ({"tensor": "x", "column": 3, "action": "bucket", "width": 10},)
    return [
        Case("V1 JSON, mask", v1, "/v1/models/m:predict", [json_type], mask, len(v1)),
        Case("V1 JSON, pseudonym and bucket", v1, "/v1/models/m:predict", [json_type], names + bucket, len(v1)),
        Case(
            "V1 JSON in gzip, mask", gzip.compress(v1), "/v1/models/m:predict",
            [json_type, (b"content-encoding", b"gzip")], mask, len(v1),
        ),
        Case("V2 binary, bucket in one column", v2, "/v2/models/m/infer", length, column, len(v2)),
    ]  # fmt: skip


def privacy(case: Case, *, sealed: bool) -> Privacy:
    """Read the rules."""
    text = json.dumps({"keys": "k", "rules": case.rules, **({"encryption": {"key": "payloads"}} if sealed else {})})
    return read(text, lambda _path: Keyring.parse(KEYS))


def micros(work: Callable[[], object]) -> float:
    """Give the CPU time of one call in microseconds, the best of some rounds."""
    best = float("inf")
    for _ in range(ROUNDS):
        count, begin = 0, time.process_time()
        while (spent := time.process_time() - begin) < ROUND_S / ROUNDS:
            for _ in range(20):
                work()
            count += 20
        best = min(best, spent / count)
    return best * 1e6


def letters(tap: Tap, case: Case) -> list[Letter]:
    """Make the event of a request."""
    seen = Seen("c1", "POST", case.path, case.fields, AT, status=200)
    seen.request = Body([case.body], len(case.body), len(case.body))
    return tap.letters(seen, AT)


def main() -> None:
    """Print the table."""
    plain = Tap(SETTINGS)
    print("us of CPU per body: plain tap, with rules, encrypted too; what rules add per KiB of body, and JSON alone")
    names = ("tap", "rules", "sealed", "json", "orjson", "rules/KiB", "json/KiB")
    print(f"{'body':34}{'KiB':>7}" + "".join(f"{name:>10}" for name in names))
    for size in (150, 1 << 10, 32 << 10):
        for case in cases(size):
            cleaning = PrivateTap(plain, SETTINGS, privacy(case, sealed=False), os.urandom)
            sealing = PrivateTap(plain, SETTINGS, privacy(case, sealed=True), os.urandom)
            times = [micros(lambda tap=tap, case=case: letters(tap, case)) for tap in (plain, cleaning, sealing)]  # type: ignore[misc] # defaults
            text = rows(size)
            times.append(micros(lambda text=text: json.dumps(json.loads(text))))  # type: ignore[misc] # a default
            times.append(micros(lambda text=text: orjson.dumps(orjson.loads(text))))  # type: ignore[misc] # a default
            kib = case.size / 1024
            times += [(times[1] - times[0]) / kib, times[3] / (len(text) / 1024)]
            print(f"{case.name:34}{kib:7.2f}" + "".join(f"{value:10.1f}" for value in times))
            if cleaning.cleaner.counts.keys() != {"redacted"}:
                raise SystemExit(f"{case.name}: expected redacted bodies only, got {dict(cleaning.cleaner.counts)}")


if __name__ == "__main__":
    main()
