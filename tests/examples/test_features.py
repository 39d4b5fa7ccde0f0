"""The example of a feature store, command by command as docs/transformers.md has it, against Feast's own server."""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import numpy as np
import pytest
import xgboost

from deploy import environment
from deploy.kafka.ports import free_port
from inference.settings import SETTINGS_FILE
from tests.documented import ROOT, blocks, commands
from tests.inference.serving import eventually, served

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]

_FOLDER = ROOT / "examples" / "features"
_FEAST = Path(sys.prefix) / "feast" / "bin" / "feast"
_STORE_PORT = "6566"
_START_S = 300.0
"""Feast's imports alone take six seconds of a processor."""


def _documented() -> list[list[str]]:
    """Give the words of each command, programs by the names of this environment's."""
    (block,) = (text for text in blocks((ROOT / "docs" / "transformers.md").read_text()) if "feast apply" in text)
    programs = {
        "../../.venv/bin/python": (sys.executable,),
        "../../.venv/feast/bin/feast": (str(_FEAST),),
        "sidelight": (sys.executable, "-m", "deploy.cli"),
    }
    lines = [shlex.split(line) for line in commands(block)]
    return [[*programs.get(first, (first,)), *words] for first, *words in lines]


@contextmanager
def _feast(folder: Path, *words: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run a command of Feast's."""
    # Optimised, it spends half the time on its imports: what checks its own types is left out.
    variables = environment.inherited() | {"PYTHONOPTIMIZE": "1"}
    log = folder.parent / "feast.log"
    with log.open("ab") as output:
        process = subprocess.Popen(words, cwd=folder, stdout=output, stderr=output, env=variables)
    try:
        yield process
    finally:
        process.terminate()
        process.wait(60)


@pytest.mark.skipif(not _FEAST.exists(), reason="no .venv/feast: `make setup` makes it")
def test_the_example_runs_against_feast_itself(tmp_path: Path) -> None:
    """Features go from a Parquet file through Feast's SQLite store and its server to a model that is served."""
    folder, store = tmp_path / "features", free_port()
    shutil.copytree(_FOLDER, folder, ignore=shutil.ignore_patterns("model", "*.db", "*.parquet"))
    settings = json.loads((folder / SETTINGS_FILE).read_text())
    settings["transformer"]["arguments"] |= {"store": f"http://127.0.0.1:{store}", "timeout_s": 60}
    (folder / SETTINGS_FILE).write_text(json.dumps(settings))
    changes, prepare, apply, materialize, serve, predictor, curl = _documented()
    subprocess.run(prepare, cwd=folder, check=True)
    for words in (apply, materialize):
        with _feast(folder, *words) as feast:
            code = feast.wait(_START_S)

            assert code == 0, (tmp_path / "feast.log").read_text()
    serve[serve.index(_STORE_PORT)] = str(store)
    predictor[predictor.index("model/")] = str(folder / "model")
    with _feast(folder, *serve) as feast:
        eventually(lambda: _answers(store) or feast.poll() is not None, "the feature server", _START_S)
        words = [*predictor, "--host", "127.0.0.1", "--http_port", "0", "--enable_grpc", "false"]
        with served(words, tmp_path / "predictor.log") as server, server.client() as client:
            path = curl[-1].removeprefix("localhost:8080")
            one = client.post(path, content=curl[curl.index("-d") + 1]).json()
            several = client.post(path, json={"instances": [{"driver_id": each} for each in (1003, 7)]}).json()
    booster = xgboost.Booster(model_file=folder / "model" / "model.json")
    expected = booster.inplace_predict(np.array([[0.5, 10.0], [0.7, 30.0], [np.nan] * 2])).tolist()

    assert changes == ["cd", "examples/features"]
    assert one["predictions"] + several["predictions"] == pytest.approx(expected, rel=1e-6)


def _answers(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/health", timeout=5).is_success
    except httpx.TransportError:
        return False
