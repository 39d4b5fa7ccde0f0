"""V1 over a real socket."""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path

import httpx
import pytest

from tests.inference.rest.conftest import MAX_BODY
from tests.inference.serving import GATED, predictor

PREDICT = "/v1/models/m:predict"
ROW = [5.0, 3.4, 1.5, 0.2]
OTHER = [6.6, 3.0, 5.6, 2.0]


def test_alive(client: httpx.Client) -> None:
    """The root says that the process lives, as KServe's servers do."""
    answer = client.get("/")

    assert (answer.status_code, answer.json()) == (200, {"status": "alive"})


def test_models_are_listed(client: httpx.Client) -> None:
    """The list names every model."""
    assert client.get("/v1/models").json() == {"models": ["m"]}


def test_model_readiness(client: httpx.Client) -> None:
    """A loaded model is ready."""
    answer = client.get("/v1/models/m")

    assert (answer.status_code, answer.json()) == (200, {"name": "m", "ready": True})


@pytest.mark.parametrize("key", ["instances", "inputs"])
def test_predicts_lists(client: httpx.Client, key: str) -> None:
    """Both of V1's keys carry rows, and the answer has one prediction per row in order."""
    answer = client.post(PREDICT, json={key: [ROW, OTHER, ROW]})

    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/json"
    assert answer.json() == {"predictions": [0, 2, 0]}


@pytest.mark.parametrize("encode", [gzip.compress, zlib.compress], ids=["gzip", "deflate"])
def test_compressed_bodies(client: httpx.Client, encode: object) -> None:
    """A compressed body predicts like a plain one."""
    assert callable(encode)
    name = "gzip" if encode is gzip.compress else "deflate"
    content = encode(b'{"instances": [[5.0, 3.4, 1.5, 0.2]]}')
    answer = client.post(PREDICT, content=content, headers={"content-encoding": name})

    assert answer.json() == {"predictions": [0]}


def test_request_id_is_echoed(client: httpx.Client) -> None:
    """The caller's request id comes back, on errors too."""
    for body, status in (({"instances": [ROW]}, 200), ({}, 400)):
        answer = client.post(PREDICT, json=body, headers={"x-request-id": "abc-1"})

        assert (answer.status_code, answer.headers["x-request-id"]) == (status, "abc-1")


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"", "body: no JSON"),
        (b"{", "body: no JSON"),
        (b"\xff\xfe", "body: no JSON"),
        (b"[1]", "body: expected a JSON object, got list"),
        (b"{}", "body: expected 'instances' or 'inputs', got an object with no keys"),
        (b'{"rows": []}', "body: expected 'instances' or 'inputs', got an object with 'rows'"),
        (b'{"instances": 3}', "instances: expected a list, got int"),
        (b'{"instances": {"a": 1}}', "instances: expected a list, got dict"),
        (b'{"instances": []}', "instances: expected at least one, got none"),
        (b'{"instances": [[1, 2]]}', "input 'instances': expected shape [rows, 4], got [1, 2]"),
        (b'{"instances": [1, 2]}', "input 'instances': expected shape [rows, 4], got [2]"),
        (b'{"instances": [[1, 2, 3, 4], [1, 2]]}', "instances: row 1: expected 4 values like row 0, got 2 values"),
        (b'{"instances": [[1, 2, 3, 4], 5]}', "instances: row 1: expected 4 values like row 0, got a single value"),
        (b'{"instances": [[1, 2, 3, {}]]}', "instances: expected numbers, texts or null, got dict"),
        (b'{"instances": [[1, 2, 3, null]]}', "contains NaN"),
        (b'{"instances": [{"a": 1}, [2]]}', "instances[1]: expected an object like the first, got list"),
        (b'{"instances": [{"a": 1}, {"b": 1}]}', "instances[1]: expected the keys ['a'], got ['b']"),
        (b'{"instances": [{"a": 1, "b": 2}]}', "the model file names no features"),
    ],
)
def test_bad_bodies(client: httpx.Client, body: bytes, says: str) -> None:
    """A body that cannot be predicted on is answered with 400, what and where."""
    answer = client.post(PREDICT, content=body)

    assert answer.status_code == 400
    assert list(answer.json()) == ["error"]
    assert says in answer.json()["error"]


@pytest.mark.parametrize(
    ("content", "encoding", "says"),
    [
        (b"plain", "gzip", "no valid gzip data"),
        (gzip.compress(b"{}", mtime=0)[:-9], "gzip", "end too early"),
        (b"{}", "br", "content-encoding: expected one of gzip"),
    ],
)
def test_bad_encodings(client: httpx.Client, content: bytes, encoding: str, says: str) -> None:
    """A body that does not follow its content encoding is answered with 400."""
    answer = client.post(PREDICT, content=content, headers={"content-encoding": encoding})

    assert answer.status_code == 400
    assert says in answer.json()["error"]


def test_large_bodies_are_refused(client: httpx.Client) -> None:
    """Declared, chunked or hidden in gzip: a body above the cap is answered with 413 and never held whole."""
    large = b" " * (MAX_BODY + 1)
    answers = [
        client.post(PREDICT, content=large),
        client.post(PREDICT, content=iter([large[:1000]] * 200)),
        client.post(PREDICT, content=gzip.compress(large, mtime=0), headers={"content-encoding": "gzip"}),
    ]

    assert [answer.status_code for answer in answers] == [413] * 3
    assert all("expected at most 100000 bytes" in answer.json()["error"] for answer in answers)
    assert client.post(PREDICT, json={"instances": [ROW]}).status_code == 200


def test_unknown_model(client: httpx.Client) -> None:
    """A name that no model carries is answered with KServe's 404."""
    gone = {"error": "Model with name other does not exist."}
    for answer in (
        client.get("/v1/models/other"),
        client.post("/v1/models/other:predict", json={"instances": [ROW]}),
        client.post("/v1/models/other:explain", json={"instances": [ROW]}),
    ):
        assert (answer.status_code, answer.json()) == (404, gone)


def test_explain_is_not_offered(client: httpx.Client) -> None:
    """Asking a predictor to explain is answered with 501 and where to ask."""
    answer = client.post("/v1/models/m:explain", json={"instances": [ROW]})

    assert answer.status_code == 501
    assert "explainer" in answer.json()["error"]


def test_unknown_paths_and_methods(client: httpx.Client) -> None:
    """What is not served is answered with the protocol's error object; what is no protocol's path, as KServe does."""
    missing = client.get("/v2/modells")
    foreign = client.get("/v3/models")
    wrong = client.put(PREDICT, json={})

    assert (missing.status_code, missing.json()) == (404, {"error": "Not Found: GET /v2/modells"})
    assert (foreign.status_code, foreign.json()) == (404, {"detail": "Not Found"})
    assert (wrong.status_code, wrong.json()) == (405, {"error": f"Method Not Allowed: PUT {PREDICT}"})


def test_documentation_when_asked_for(client: httpx.Client) -> None:
    """With --enable_docs_url the OpenAPI document lists the inference paths with their parameters."""
    paths = client.get("/openapi.json").json()["paths"]

    assert client.get("/docs").status_code == 200
    assert paths["/v2/models/{model}/infer"]["post"]["parameters"][0]["name"] == "model"
    assert "/v1/models/{model}:predict" in paths


def test_a_model_that_explains_itself_is_asked(tmp_path: Path) -> None:
    """Its answer comes as it is; its failure is 500 with its own words; a bad body is 400."""
    model = tmp_path / "model"
    model.mkdir()
    with predictor(model, tmp_path, "--runtime", GATED) as server, server.client() as client:
        call = "/v1/models/m:explain"
        found = client.post(call, json={"instances": [[1, 2], [3, 4]]})
        bad = client.post(call, json={"rows": []})
        (model / "fail").touch()
        failed = client.post(call, json={"instances": [[1]]})

    assert (found.status_code, found.json()) == (200, {"explanations": [[1, 2], [3, 4]]})
    assert bad.status_code == 400
    assert failed.status_code == 500
    assert "the gate fell" in failed.json()["error"]
