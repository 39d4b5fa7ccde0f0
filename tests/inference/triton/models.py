"""Writes a repository with the models of Triton's published client examples."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

_CLASSES: Final[dict[str, tuple[str, dict[str, Any]]]] = {
    "simple": ("AddSub", {"datatype": "INT32"}),
    "simple_int8": ("AddSub", {"datatype": "INT8"}),
    "simple_string": ("AddSub", {"datatype": "BYTES"}),
    "simple_identity": ("Identity", {"datatype": "BYTES"}),
    "custom_identity_int32": ("Identity", {"datatype": "INT32"}),
    "simple_sequence": ("Sequence", {"kind": "plain"}),
    "simple_dyna_sequence": ("Sequence", {"kind": "dynamic"}),
    "simple_string_dyna_sequence": ("Sequence", {"kind": "named"}),
}


def write(folder: Path, *names: str) -> Path:
    """Write those models, or all."""
    for name in names or _CLASSES:
        kind, arguments = _CLASSES[name]
        options = {"model": f"tests.inference.triton.classes:{kind}", "arguments": arguments}
        (folder / name).mkdir(parents=True)
        (folder / name / "sidelight.json").write_text(json.dumps({"runtime": "custom", "options": options}))
    return folder
