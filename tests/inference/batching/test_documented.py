"""docs/batching.md: its settings are accepted, and no key or metric is left out."""

from __future__ import annotations

import asyncio
import json
import re
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from inference.modelsettings import read_model_settings
from inference.settings import SETTINGS_FILE
from tests.documented import ROOT
from tests.inference.batching.models import Sums, rows, serving

_TEXT = (ROOT / "docs" / "batching.md").read_text()


def test_settings_are_accepted_and_complete(tmp_path: Path) -> None:
    """The example is read, and its keys are those of the table."""
    (block,) = re.findall(r"(?s)```json\n(.*?)```", _TEXT)
    (tmp_path / SETTINGS_FILE).write_text(block)
    given = json.loads(block)
    read = read_model_settings(tmp_path)

    assert [getattr(read, key) for key in ("max_batch", "max_latency_ms", "parallel")] == [64, 2.0, 2]
    assert re.findall(r"(?m)^\| `(\w+)` \| (?:most|how|sizes)", _TEXT) == list(given)


def test_every_metric_is_named() -> None:
    """What the page has, the document has."""

    async def page() -> str:
        async with serving(Sums()) as plane:
            await plane.infer_async("m", rows(1.0))
            plane.metrics.answered("m", "v2", 200, synthetic=False)
            plane.metrics.failed("m", "Overloaded")
            plane.metrics.shadow_failed("m", "2", "Overloaded")
            return plane.metrics.page().decode()

    families = {family.name for family in text_string_to_metric_families(asyncio.run(page()))}
    found = {name for name in families if not name.endswith("_created")}
    named = {name.removeprefix("sidelight_predictor").removesuffix("_total") for name in re.findall(r"`(\w+)`", _TEXT)}

    assert len(found) > 8
    assert {name for name in found if name.removeprefix("sidelight_predictor") not in named} == set()
