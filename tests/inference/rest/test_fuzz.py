"""Requests drawn from the Open Inference Protocol's REST schema, bent and broken: never a 500, always {"error": text}.

Sources: the specification's required APIs and its JSON objects, for requests and answers; KServe's V1.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, Final
from urllib.parse import quote

import httpx
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from tests.inference.serving import predictor

JSON: Final = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=4),
    max_leaves=12,
)
DATATYPES: Final = (
    "BOOL", "UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64", "FP16", "BF16", "FP32", "FP64",
    "BYTES",
)  # fmt: skip
PARAMETERS: Final = st.dictionaries(
    st.sampled_from(["binary_data_size", "binary_data", "binary_data_output", "content_type", "synthetic", "other"]),
    st.booleans() | st.integers(-2, 100) | st.text(max_size=4) | JSON,
    max_size=3,
)
VALUES: Final = st.lists(st.integers(-3, 300) | st.floats(width=32) | st.booleans() | st.text(max_size=3), max_size=8)
SPECIFIED: Final = {
    "/v2": "get", "/v2/": "get", "/v2/health/live": "get", "/v2/health/ready": "get", "/v2/models/{}": "get",
    "/v2/models/{}/versions/{}": "get", "/v2/models/{}/ready": "get", "/v2/models/{}/versions/{}/ready": "get",
    "/v2/models/{}/infer": "post", "/v2/models/{}/versions/{}/infer": "post", "/v2/models/{}/generate": "post",
    "/v2/models/{}/versions/{}/generate": "post", "/v2/models/{}/generate_stream": "post",
    "/v2/models/{}/versions/{}/generate_stream": "post",
}  # fmt: skip
"""The paths that the specification's two OpenAPI files name; without a version, those of its text."""
OTHERS: Final = {
    "/v1/models/{}:predict": "post", "/v1/models/{}:explain": "post", "/v1/models/{}": "get", "/v2/models": "get",
    "/v2/models/{}/explain": "post", "/v2/models/{}/versions/{}/explain": "post", "/v2/repository/index": "post",
    "/v2/repository/models/{}/load": "post", "/v2/repository/models/{}/unload": "post", "/metrics": "get",
}  # fmt: skip
ALLOWED: Final = {200, 400, 404, 405, 413, 501, 503}
"""501: a call that the model does not offer; 503: a model that is not loaded."""
NAMES: Final = st.just("m") | st.text(min_size=1, max_size=5)


@st.composite
def requests(draw: st.DrawFn) -> dict[str, Any]:
    """Draw a V2 request that is right in some places."""
    tensors = st.fixed_dictionaries(
        {
            "name": st.sampled_from(["input-0", "a", ""]) | JSON,
            "shape": st.sampled_from([[1, 4], [2, 4], [0, 4], [4]]) | st.lists(st.integers(-1, 5), max_size=4) | JSON,
            "datatype": st.sampled_from(DATATYPES) | JSON,
        },
        optional={"data": VALUES | st.lists(VALUES, max_size=3) | JSON, "parameters": PARAMETERS | JSON},
    )
    return draw(
        st.fixed_dictionaries(
            {"inputs": st.lists(tensors, max_size=3) | JSON},
            optional={
                "id": st.text(max_size=4) | JSON,
                "parameters": PARAMETERS | JSON,
                "outputs": st.lists(
                    st.fixed_dictionaries(
                        {"name": st.sampled_from(["output-0", "b"]) | JSON, "parameters": PARAMETERS}
                    ),
                    max_size=2,
                )
                | JSON,
            },
        )
    )


@st.composite
def shaped(draw: st.DrawFn) -> dict[str, Any]:
    """Draw a V2 request whose tensors fit their shapes, for whatever the model says of them."""
    tensors = []
    for name in draw(st.lists(st.sampled_from(["input-0", "a", "b"]), min_size=1, max_size=2, unique=True)):
        shape = draw(st.sampled_from([[1, 4], [2, 4], [0, 4], [3], [1, 1], [2, 2, 2]]))
        datatype = draw(st.sampled_from(DATATYPES))
        values = {"BOOL": st.booleans(), "BYTES": st.text(max_size=4)}
        numbers = st.integers(0, 100) | st.floats(-1e300, 1e300) if datatype.startswith("FP") else st.integers(0, 100)
        count = shape[0] * (shape[1] if len(shape) > 1 else 1) * (shape[2] if len(shape) > 2 else 1)
        data = draw(st.lists(values.get(datatype, numbers), min_size=count, max_size=count))
        tensors.append({"name": name, "shape": shape, "datatype": datatype, "data": data})
    return {"inputs": tensors}


V1_BODIES: Final = st.fixed_dictionaries(
    {},
    optional={
        "instances": st.lists(VALUES | JSON, max_size=4) | JSON,
        "inputs": st.lists(st.dictionaries(st.sampled_from("abcd"), st.floats(width=32)), max_size=3) | JSON,
        "signature_name": JSON,
    },
)
TEXTS: Final = st.fixed_dictionaries({}, optional={"text_input": st.text(max_size=4) | JSON, "parameters": JSON})
BODIES: Final = st.one_of(
    shaped().map(json.dumps), requests().map(json.dumps), V1_BODIES.map(json.dumps), TEXTS.map(json.dumps),
    JSON.map(json.dumps), st.binary(max_size=60),
)  # fmt: skip
HEADERS: Final = st.fixed_dictionaries(
    {},
    optional={
        "content-type": st.sampled_from([
            "application/json", "application/octet-stream", "text/plain", "application/cloudevents+json", "",
            "application/cloudevents-batch+json",
        ]),
        "inference-header-content-length": st.sampled_from(["0", "1", "20", "99999", "-1", "x", "1e3"]),
        "content-encoding": st.sampled_from(["gzip", "deflate", "identity", "br", ""]),
        "ce-specversion": st.sampled_from(["1.0", "0.3"]),
        "ce-id": st.just("1"), "ce-source": st.just("s"), "ce-type": st.sampled_from(["t", ""]),
        "x-sidelight-timeout-ms": st.sampled_from(["5000", "-1", "x"]),
        "x-sidelight-synthetic": st.sampled_from(["true", "x"]),
        "traceparent": st.text("0123456789abcdef-", max_size=60),
    },
)  # fmt: skip


ANYTHING: Final = """
import numpy as np

# A number beside texts has no tensor form, and is a model's failure: it comes back as text.
as_texts = np.vectorize(lambda item: item if isinstance(item, bytes) else str(item).encode(), otypes=[object])


class Model:
    takes_bytes = True

    def predict(self, inputs):
        return {name: as_texts(array) if array.dtype == object else array for name, array in inputs.items()}

    def explain(self, inputs, parameters):
        return {**self.predict(inputs), "parameters": parameters}

    def generate(self, prompt, parameters):
        yield from prompt
"""
TAKEN: Final = tuple(path for path in SPECIFIED | OTHERS if path.endswith(("infer", "explain", "predict", "generate")))


@pytest.fixture(scope="module", name="echo")
def _echo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """Give a client of a model that takes whatever it gets, and gives it back."""
    folder = tmp_path_factory.mktemp("echo")
    (folder / "model").mkdir()
    (folder / "model" / "model.py").write_text(ANYTHING)
    words = ("--runtime", "custom", "--trusted")
    with predictor(folder / "model", folder, *words) as server, server.client() as client:
        yield client


def _path(pattern: str, names: tuple[str, str]) -> str:
    return pattern.format(*(quote(name, safe="") for name in names))


def _check(answer: httpx.Response, what: object) -> None:
    assert answer.status_code in ALLOWED, (answer.status_code, answer.text, what)
    if answer.status_code == 200:
        return
    assert answer.headers["content-type"] == "application/json", what
    body = answer.json()
    assert list(body) == ["error"], (body, what)
    assert isinstance(body["error"], str), (body, what)
    assert body["error"], what


def test_every_specified_path_is_served(client: httpx.Client) -> None:
    """The documentation that the server gives of itself names every path of the specification, with its method."""
    paths: Mapping[str, Mapping[str, Any]] = client.get("/openapi.json").json()["paths"]
    served = {path.format(model="{}", version="{}"): set(methods) for path, methods in paths.items()}

    for path, method in (SPECIFIED | OTHERS).items():
        assert method in served[path]


@settings(max_examples=600)
@given(
    path=st.sampled_from([path for path, method in (SPECIFIED | OTHERS).items() if method == "post"]),
    names=st.tuples(st.just("m"), st.just("1")) | st.tuples(NAMES, NAMES),
    body=BODIES,
    headers=st.just({}) | HEADERS,
)
def test_calls_are_answered_or_refused(
    client: httpx.Client, path: str, names: tuple[str, str], body: str | bytes, headers: dict[str, str]
) -> None:
    """Whatever is posted to whichever path is answered, or refused with a reason: never a 500."""
    # What is unloaded stays so, and the other tests need the model.
    assume(not (path.endswith("/unload") and names[0] == "m"))
    answer = client.post(_path(path, names), content=body, headers=headers)

    _check(answer, (path, names, body, headers))


@settings(max_examples=300)
@given(path=st.sampled_from(TAKEN), body=BODIES, headers=st.just({}) | HEADERS)
@example(path="/v1/models/{}:predict", body='{"instances": [null, "", 1]}', headers={})
@example(path="/v1/models/{}:explain", body='{"instances": [null, "", 1]}', headers={})
def test_a_model_that_takes_anything_is_no_way_around(
    echo: httpx.Client, path: str, body: str | bytes, headers: dict[str, str]
) -> None:
    """Where the model refuses nothing, what comes back has a form, or is refused: never a 500."""
    answer = echo.post(_path(path, ("m", "1")), content=body, headers=headers)

    _check(answer, (path, body, headers))


@settings(max_examples=150)
@given(
    path=st.sampled_from([*SPECIFIED, *OTHERS]),
    names=st.tuples(NAMES, NAMES),
    method=st.sampled_from(["GET", "PUT", "DELETE"]),
)
@example(path="/v2/models/{}", names=("..", "1"), method="GET")
@example(path="/v1/models/{}:predict", names=("a:b", "1"), method="GET")
def test_any_name_may_be_asked_for(client: httpx.Client, path: str, names: tuple[str, str], method: str) -> None:
    """Whatever the names in a path, and whatever the method, the answer is no 500."""
    _check(client.request(method, _path(path, names)), (path, names, method))


@settings(max_examples=300)
@given(request=shaped())
def test_answers_follow_the_schema(client: httpx.Client, request: dict[str, Any]) -> None:
    """What fits is answered in the protocol's form: each output with name, shape, datatype and as much data."""
    answer = client.post("/v2/models/m/infer", json=request)

    _check(answer, request)
    if answer.status_code == 200:
        body = answer.json()
        assert body["model_name"] == "m"
        for output in body["outputs"]:
            assert output["datatype"] in DATATYPES
            assert len(output["data"]) == output["shape"][0]


@pytest.mark.parametrize(
    "literal", ["NaN", "Infinity", "1e999", "-0", "1" * 400, '"\\ud800"', "[" * 2_000 + "]" * 2_000]
)
def test_odd_literals(client: httpx.Client, literal: str) -> None:
    """Numbers and texts that JSON parsers stumble over are values or mistakes, never failures."""
    tensor = f'{{"inputs":[{{"name":"input-0","shape":[1,4],"datatype":"FP64","data":[{literal},1,1,1]}}]}}'
    for path, body in (
        ("/v2/models/m/infer", tensor),
        ("/v1/models/m:predict", f'{{"instances":[[{literal},1,1,1]]}}'),
        ("/v2/models/m/generate", f'{{"text_input":{literal}}}'),
        ("/v2/repository/index", f'{{"ready":{literal}}}'),
    ):
        _check(client.post(path, content=body), (path, literal))
