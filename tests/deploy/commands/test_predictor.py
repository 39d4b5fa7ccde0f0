"""The predictor command: KServe's arguments, mistakes in one line, unsafe files refused."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import joblib
import pytest
import skops.io

from inference.runtime import RUNTIMES
from tests.inference.serving import ROOT, eventually, predictor, served
from tests.inference.shelves import ANSWERING, write

ONE = {"instances": [[1.0, 2.0]]}
V2 = {"inputs": [{"name": "x", "shape": [1, 2], "datatype": "FP64", "data": [1.0, 2.0]}]}


def _ended(*words: str) -> tuple[int, str]:
    command = [sys.executable, "-m", "deploy.cli", "predictor", *words]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    return done.returncode, done.stderr


def test_arguments_of_kserve_are_taken(tmp_path: Path) -> None:
    """What a ServingRuntime passes is accepted; what has no effect here is said in one line each."""
    model = tmp_path / "model"
    model.mkdir()
    RUNTIMES.find("sklearn").example(model)
    words = (
        "--grpc_port", "0", "--workers=1", "--max_threads", "2", "--enable_docs_url=No", "--nthread", "1",
        "--framework=sklearn", "--grpc_max_send_message_length", "-1", "--grpc_max_receive_message_length=-1",
    )  # fmt: skip
    with predictor(model, tmp_path, *words) as server, server.client() as client:
        ready = client.get("/v2/models/m/ready")
        docs = client.get("/docs")
        server.terminate()
        code = server.process.wait(60)
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
        (("--model_dir", ".", "--runtime", "prophet"), "unknown runtime 'prophet'; known: "),
        (("--model_dir", ".", "--http_port", "many"), "expected a whole number from 0 up, got 'many'"),
        (("--model_dir", ".", "--max-body", "0"), "expected a whole number from 1 up, got '0'"),
        (("--model_dir", ".", "--request-timeout", "-1"), "expected seconds, got '-1'"),
        (("--model_dir", ".", "--enable_docs_url", "maybe"), "expected true or false, got 'maybe'"),
        (("--model_dir", ".", "--bogus", "1"), "unrecognized arguments: --bogus 1"),
        ((), "no model: name one with --model_name NAME --model_dir DIR"),
        (("--model_name", "a", "--model_dir", ".", "--model_dir", "."), "expected one for each, got 1 and 2"),
        (("--model", "a"), "--model: expected NAME=DIR, got 'a'"),
        (("--model", "a=x", "--model", "a=y"), "--model: 'a' is named twice"),
        (("--model_dir", "pvc://claim/m"), "claim 'claim' has no folder here; name one: --volume claim=DIR"),
        (("--model_dir", "ftp://host/m"), "scheme 'ftp' is not known; expected a path or one of file, pvc, http"),
        (
            ("--model_dir", ".", "--ssl_certfile", "/nowhere/tls.crt"),
            "TLS: /nowhere/tls.crt: no such file or directory",
        ),
        (
            ("--model_dir", ".", "--ssl_keyfile", "tls.key"),
            "--ssl_keyfile tls.key: a key needs its certificate",
        ),
        (("--model_dir", ".", "--volume", "claim"), "--volume: expected CLAIM=DIR, got 'claim'"),
        (("--model_repository", "/nowhere"), "--model_repository: /nowhere: No such file or directory"),
        (("--model_repository", ".", "--max_memory", "lots"), "expected bytes, such as 500Mi or 4Gi, got 'lots'"),
        (("--model_repository", ".", "--repository_poll_s", "-1"), "expected seconds, got '-1'"),
    ],
)
def test_mistakes_are_one_line(words: tuple[str, ...], says: str) -> None:
    """A mistake ends with code 2, what was expected and got, and no traceback."""
    code, output = _ended(*words)

    assert code == 2
    assert says in output
    assert "Traceback" not in output


@pytest.mark.parametrize("name", ["sklearn", "SKLearn", "skops", "triton"])
def test_formats_go_by_kserves_names(tmp_path: Path, name: str) -> None:
    """What a manifest calls the format chooses the runtime; a server of several formats leaves it to the file."""
    model = tmp_path / "model"
    model.mkdir()
    RUNTIMES.find("sklearn").example(model)
    with predictor(model, tmp_path, "--runtime", name) as server, server.client() as client:
        metadata = client.get("/v2/models/m").json()

    assert metadata["platform"].startswith("sklearn")


def test_several_models_on_one_command_line(tmp_path: Path) -> None:
    """By KServe's own arguments, and by name and folder; each answers under its name."""
    for number, name in enumerate(("m", "a", "b")):
        write(tmp_path / name, number)
    words = ("--model_name", "a", "--model_dir", str(tmp_path / "a"), "--model", f"b={tmp_path / 'b'}")
    with predictor(tmp_path / "m", tmp_path, *words, "--runtime", ANSWERING) as server, server.client() as client:
        answers = {name: client.post(f"/v1/models/{name}:predict", json=ONE).json() for name in ("m", "a", "b")}
        listed = client.get("/v2/models").json()

    assert answers == {name: {"predictions": [number]} for number, name in enumerate(("m", "a", "b"))}
    assert listed == {"models": ["m", "a", "b"]}


def test_a_repository_is_served_on_demand(tmp_path: Path) -> None:
    """Models of a folder are loaded by the first request for them, new ones by a load call, broken ones not at all."""
    shelf = tmp_path / "shelf"
    for number in range(5):
        write(shelf / f"m{number}", number)
    write(shelf / "broken", "bad")
    words = ("--model_repository", str(shelf), "--runtime", ANSWERING, "--max_memory", "4Gi")
    with predictor(write(tmp_path / "m", 7), tmp_path, *words) as server, server.client() as client:
        ready = {name: client.get(f"/v2/models/{name}/ready").status_code for name in ("m3", "broken", "none")}
        first = client.post("/v1/models/m3:predict", json=ONE)
        metadata = [client.get(f"/v2/models/{name}").status_code for name in ("m3", "m4")]
        refused = client.post("/v1/models/broken:predict", json=ONE)
        states = {entry["name"]: entry["state"] for entry in client.post("/v2/repository/index").json()}
        write(shelf / "new", 9)
        missing = client.post("/v1/models/new:predict", json=ONE).status_code
        loaded = client.post("/v2/repository/models/new/load").json()
        new = client.post("/v1/models/new:predict", json=ONE).json()
        page = client.get("/metrics").text

    assert ready == {"m3": 200, "broken": 200, "none": 404}
    assert (first.json(), first.headers["x-sidelight-model-version"]) == ({"predictions": [3]}, "1")
    assert metadata == [200, 200]
    assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
    assert "Model with name broken is not ready. ModelLoadFailed: " in refused.json()["error"]
    assert (states["m"], states["m3"], states["m1"], states["broken"]) == (
        "READY", "READY", "UNAVAILABLE", "UNAVAILABLE"
    )  # fmt: skip
    assert (missing, loaded, new) == (404, {"name": "new", "load": True}, {"predictions": [9]})
    assert 'sidelight_models{state="known"} 8.0' in page
    assert "sidelight_model_load_seconds_count 4.0" in page
    assert "sidelight_model_load_failures_total 1.0" in page
    assert "sidelight_memory_bound_bytes 4.294967296e+09" in page


def test_a_folder_of_models_is_a_repository(tmp_path: Path) -> None:
    """KServe's servers take a --model_dir without a model for a folder of models; so does this one."""
    write(tmp_path / "shelf" / "a" / "3", 5)
    write(tmp_path / "shelf" / "b", 6)
    command = [
        sys.executable, "-m", "deploy.cli", "predictor", "--model_dir", str(tmp_path / "shelf"), "--host", "127.0.0.1",
        "--http_port", "0", "--runtime", ANSWERING,
    ]  # fmt: skip
    with served(command, tmp_path / "log") as server, server.client() as client:
        answers = [client.post(f"/v2/models/{name}/infer", json=V2).json() for name in ("a", "b")]

    assert [(each["model_version"], each["outputs"][0]["data"]) for each in answers] == [("3", [5.0]), ("1", [6.0])]


def test_a_rollout_splits_requests(tmp_path: Path) -> None:
    """A canary gets its share by correlation id, a pinned version is what it says, a shadow's failures cost nothing."""
    folder = tmp_path / "m"
    for number in (1, 2, 3):
        write(folder / str(number), number)
    write(folder / "4", "nan")
    (folder / "rollout.yaml").write_text(
        "{stable: 1, aliases: {best: 2}, canary: {version: 2, percent: 30}, shadows: [{version: 4}]}"
    )
    with predictor(folder, tmp_path, "--runtime", ANSWERING) as server, server.client() as client:

        def asked(identity: str, path: str = "/v2/models/m/infer") -> tuple[str, str, float]:
            found = client.post(path, json=V2, headers={"x-request-id": identity})
            body = found.json()
            return found.headers["x-sidelight-model-version"], body["model_version"], body["outputs"][0]["data"][0]

        first, second = ([asked(f"caller-{number}") for number in range(100)] for _ in range(2))
        pinned = [asked("x", f"/v2/models/m/versions/{name}/infer") for name in ("3", "best", "stable")]
        missing = client.post("/v2/models/m/versions/9/infer", json=V2)
        eventually(lambda: _shadowed(client.get("/metrics").text) == 200, "the copies are answered")

    assert first == second
    assert set(first) == {("1", "1", 1.0), ("2", "2", 2.0)}
    assert 15 <= sum(version == "2" for version, _, _ in first) <= 45
    assert pinned == [("3", "3", 3.0), ("2", "2", 2.0), ("1", "1", 1.0)]
    assert (missing.status_code, missing.json()) == (
        404, {"error": "Request for unknown model: 'm' version 9 is not found"}
    )  # fmt: skip


def _shadowed(page: str) -> int:
    lines = [
        line for line in page.splitlines() if line.startswith("sidelight_predictor_rows_total") and "shadow" in line
    ]
    return int(float(lines[0].rpartition(" ")[2])) if lines else 0


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


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--inference-service", "s"), "expected --privacy FILE with the logger's rules, or --privacy none"),
        (("--inference-service", "s", "--privacy", "no.yaml"), "no.yaml: cannot be read"),
        (("--privacy", "none"), "expected --inference-service"),
    ],
)
def test_shadows_are_logged_under_rules_that_were_chosen(tmp_path: Path, words: tuple[str, ...], said: str) -> None:
    """Payloads leave the predictor only where it was said which rules hold for them, and whose they are."""
    code, output = _ended("--model_dir", str(tmp_path), "--log-shadows", "kafka://127.0.0.1:1/t", *words)

    assert code == 2
    assert said in output


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
