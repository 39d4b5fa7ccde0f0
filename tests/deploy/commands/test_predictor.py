"""The predictor command: KServe's arguments, mistakes in one line, unsafe files refused."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import joblib
import pytest
import skops.io

from inference.runtime import RUNTIMES
from tests.inference.serving import ROOT, predictor


def _ended(*words: str) -> tuple[int, str]:
    command = [sys.executable, "-m", "deploy.cli", "predictor", *words]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    return done.returncode, done.stderr


def test_arguments_of_kserve_are_taken(tmp_path: Path) -> None:
    """What a ServingRuntime passes is accepted; what has no effect here is said in one line each."""
    model = tmp_path / "model"
    model.mkdir()
    RUNTIMES.find("sklearn").example(model)
    words = ("--grpc_port", "0", "--workers=1", "--max_threads", "2", "--enable_docs_url=false", "--nthread", "1")
    with predictor(model, tmp_path, *words) as server, server.client() as client:
        ready = client.get("/v2/models/m/ready")
        docs = client.get("/docs")
        server.terminate()
        code = server.process.wait(30)
    log = server.log.read_text()

    assert (ready.status_code, docs.status_code, code) == (200, 404, 0)
    assert "gRPC on 127.0.0.1:" in log
    assert "--nthread has no effect" in log
    assert "models: m" in log
    assert "stopped" in log


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--model_dir", "/nowhere/model"), "/nowhere/model: no such directory"),
        (("--model_dir", "."), ".: expected a model file"),
        (("--model_dir", ".", "--runtime", "prophet"), "unknown runtime 'prophet'; known: lightgbm, sklearn, xgboost"),
        (("--model_dir", ".", "--workers", "2"), "--workers: this version runs 1 process, got 2"),
        (("--model_dir", ".", "--http_port", "many"), "expected a whole number from 0 up, got 'many'"),
        (("--model_dir", ".", "--max-body", "0"), "expected a whole number from 1 up, got '0'"),
        (("--model_dir", ".", "--request-timeout", "-1"), "expected seconds, got '-1'"),
        (("--model_dir", ".", "--enable_docs_url", "maybe"), "expected true or false, got 'maybe'"),
        (("--model_dir", ".", "--bogus", "1"), "unrecognized arguments: --bogus 1"),
        ((), "the following arguments are required: --model_dir"),
    ],
)
def test_mistakes_are_one_line(words: tuple[str, ...], says: str) -> None:
    """A mistake ends with code 2, what was expected and got, and no traceback."""
    code, output = _ended(*words)

    assert code == 2
    assert says in output
    assert "Traceback" not in output


def test_pickles_need_the_flag(tmp_path: Path) -> None:
    """A joblib file ends the start with the flag that allows it; with the flag the process serves."""
    model = tmp_path / "model"
    model.mkdir()
    RUNTIMES.find("sklearn").example(model)
    joblib.dump(skops.io.load(model / "model.skops"), model / "model.joblib")
    (model / "model.skops").unlink()
    code, output = _ended("--model_dir", str(model))
    with predictor(model, tmp_path, "--trusted") as server, server.client() as client:
        answer = client.post("/v1/models/m:predict", json={"instances": [[5.0, 3.4, 1.5, 0.2]]})

    assert code == 2
    assert "model.joblib: loading .joblib runs whatever code the file holds" in output
    assert "--trusted" in output
    assert answer.json() == {"predictions": [0]}


def test_taken_port_is_said(tmp_path: Path) -> None:
    """A port that somebody else has ends the start with an error that names it."""
    model = tmp_path / "model"
    model.mkdir()
    RUNTIMES.find("sklearn").example(model)
    with predictor(model, tmp_path) as server:
        port = server.url.rpartition(":")[2]
        code, output = _ended("--model_dir", str(model), "--host", "127.0.0.1", "--http_port", port)

    assert code != 0
    assert "address already in use" in output
