"""The explainer command: a background from a file or a monitor, and mistakes in one line."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import httpx
import numpy as np
import pandas as pd
import pytest

from inference.runtime import RUNTIMES
from tests.inference.serving import DEADLINE_S, ROOT, eventually, predictor

_URL = re.compile(r"running on (http://\S+)")


def command(*words: str) -> list[str]:
    """Give the command line of an explainer for model `m`."""
    return [
        sys.executable, "-m", "deploy.cli", "explainer", "--model_name", "m", "--host", "127.0.0.1",
        "--http_port", "0", *words,
    ]  # fmt: skip


def test_background_from_a_file(tmp_path: Path) -> None:
    """The file's columns are the features; values and base add up to what the predictor says."""
    model = tmp_path / "model"
    model.mkdir()
    RUNTIMES.find("sklearn").example(model)
    names = ["sepal length", "sepal width", "petal length", "petal width"]
    rows = np.random.default_rng(0).uniform(0.1, 7, size=(40, 4))
    pd.DataFrame(rows, columns=names).to_csv(tmp_path / "background.csv", index=False)
    instance = [5.0, 3.4, 1.5, 0.2]
    log = tmp_path / "explainer.log"
    with predictor(model, tmp_path) as server, log.open("wb") as output, server.client() as client:
        host = server.url.removeprefix("http://")
        words = command("--predictor_host", host, "--background_file", str(tmp_path / "background.csv"))
        process = subprocess.Popen(words, cwd=ROOT, stdout=output, stderr=output)
        try:
            eventually(lambda: process.poll() is not None or bool(_URL.search(log.read_text())), "the explainer's port")
            found = _URL.search(log.read_text())
            assert found is not None, log.read_text()
            url = f"{found.group(1)}/v1/models/m:explain"
            answer = httpx.post(url, json={"instances": [instance]}, timeout=DEADLINE_S)
            predicted = client.post("/v1/models/m:predict", json={"instances": [instance]}).json()["predictions"][0]
        finally:
            process.terminate()
            code = process.wait(DEADLINE_S)

    assert answer.status_code == 200, answer.text
    explanation = answer.json()["explanations"][0]
    assert explanation["feature_names"] == names
    assert sum(explanation["values"][0]) + explanation["base_values"][0] == pytest.approx(predicted, abs=1e-9)
    assert code == 0


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("a,b\n", "expected rows, got none"),
        ("a,b\n1,2\n3,\n", "column 'b' has missing values"),
        (None, "cannot be read"),
    ],
)
def test_unusable_backgrounds_are_one_line(tmp_path: Path, content: str | None, says: str) -> None:
    """A file that is empty, incomplete or not there ends the start with its name and the reason."""
    path = tmp_path / "background.csv"
    if content is not None:
        path.write_text(content)
    words = command("--predictor_host", "127.0.0.1:1", "--background_file", str(path))
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=DEADLINE_S, check=False)

    assert done.returncode == 2
    assert str(path) in done.stderr
    assert says in done.stderr
    assert "Traceback" not in done.stderr


def test_a_background_is_asked_for() -> None:
    """Neither a monitor nor a file: the command says which arguments give one."""
    done = subprocess.run(
        command("--predictor_host", "127.0.0.1:1"), cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )

    assert done.returncode == 2
    assert "--monitor --background_file" in done.stderr
