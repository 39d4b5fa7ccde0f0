"""Arrays and JSON in one blob: how detectors put their state away. No pickle, so nothing in it can run."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


def pack(fields: Mapping[str, Any], arrays: Mapping[str, Array]) -> bytes:
    """Write JSON-able fields and arrays of numbers or text."""
    sink = io.BytesIO()
    header = np.frombuffer(json.dumps(dict(fields)).encode(), np.uint8)
    np.savez(sink, allow_pickle=False, **{"": header, **{f"a.{name}": array for name, array in arrays.items()}})
    return sink.getvalue()


def unpack(blob: bytes) -> tuple[dict[str, Any], dict[str, Array]]:
    """Read what `pack` wrote."""
    with np.load(io.BytesIO(blob), allow_pickle=False) as archive:
        fields = json.loads(archive[""].tobytes())
        return fields, {name[2:]: archive[name] for name in archive.files if name.startswith("a.")}
