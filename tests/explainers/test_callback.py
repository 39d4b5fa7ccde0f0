"""The callback client: equal scores by either protocol, in pieces, marked, tried again, and never past its limits."""

from __future__ import annotations

import json
import random
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import Any

import numpy as np
import pytest
import xgboost

from explainers.base import Array, OutOfTime
from explainers.callback import CallbackClient, CallbackSettings, Calls
from explainers.errors import PredictorMisbehaved, PredictorRefused, PredictorUnavailable
from inference.protocol import v2
from inference.protocol.tensors import Tensor
from inference.runtime import iris
from tests.httpserver import httpserver
from tests.inference.serving import Server, predictor

ROWS = np.arange(12.0).reshape(6, 2)
NUMERIC = json.dumps({"inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 2]}]}).encode()
NO_METADATA = (404, b"{}")


@dataclass
class Scripted:
    """A model server that says what a test wants: V1 sums of rows unless other answers are queued."""

    url: str = ""
    metadata: tuple[int, bytes] = NO_METADATA
    answers: list[tuple[int, bytes]] = field(default_factory=list)
    """Given to the next calls, one each."""
    together: int = 0
    """When set, a call waits a moment for one more than this many."""
    asked: list[tuple[str, dict[str, str], bytes]] = field(default_factory=list)
    connections: int = 0
    running: int = 0
    most: int = 0
    changed: threading.Condition = field(default_factory=threading.Condition)

    def answer(self, body: bytes) -> tuple[int, bytes]:
        """Count who is here, and answer."""
        with self.changed:
            self.running += 1
            self.most = max(self.most, self.running)
            self.changed.notify_all()
            self.changed.wait_for(lambda: self.running > self.together, 0.1 if self.together else 0)
            self.running -= 1
            if self.answers:
                return self.answers.pop(0)
        return 200, json.dumps({"predictions": [sum(row) for row in json.loads(body)["instances"]]}).encode()


@contextmanager
def scripted() -> Iterator[Scripted]:
    """Serve until the block ends."""
    script = Scripted()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def setup(self) -> None:
            script.connections += 1
            super().setup()

        def do_GET(self) -> None:
            self._send(*script.metadata)

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            script.asked.append((self.path, {name.lower(): value for name, value in self.headers.items()}, body))
            self._send(*script.answer(body))

        def _send(self, status: int, body: bytes) -> None:
            self.send_response(status)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with httpserver(Handler) as script.url:
        yield script


@pytest.fixture
def model() -> Iterator[Scripted]:
    """Serve a scripted model."""
    with scripted() as found:
        yield found


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Serve a booster with the product's own predictor."""
    folder = tmp_path_factory.mktemp("booster")
    (folder / "model").mkdir()
    rows, labels = iris()
    xgboost.XGBRegressor(n_estimators=4, n_jobs=1).fit(rows, labels).save_model(folder / "model" / "model.json")
    with predictor(folder / "model", folder) as server:
        yield server


def ask(url: str, rows: Array = ROWS, calls: Calls | None = None, **settings: Any) -> Array:  # noqa: ANN401 - fields
    """Ask once, with a client of its own."""
    client = CallbackClient(CallbackSettings(url=url, model="m", **settings), random.Random(0))
    with closing(client):
        return client.predict(rows, calls or unhurried())


def unhurried() -> Calls:
    """Give a request's account with time enough."""
    return Calls(deadline=time.monotonic() + 60)


def test_both_protocols_give_the_same_scores(served: Server) -> None:
    """V2 with binary tensors, V1 JSON, and whichever the model's metadata suggests."""
    rows, _ = iris()
    by_v1, by_v2, by_itself = (ask(served.url, rows, protocol=name) for name in ("v1", "v2", "auto"))

    assert len(np.unique(by_v1)) > 2
    np.testing.assert_allclose(by_v2, by_v1, rtol=1e-6)
    np.testing.assert_array_equal(by_itself, by_v2)


def test_a_large_table_is_split(model: Scripted) -> None:
    """Each call has at most so many rows; the scores come back in the rows' own order."""
    rows = np.random.default_rng(0).normal(size=(50, 2))
    calls = unhurried()
    scores = ask(model.url, rows, calls, rows_per_call=7)

    assert sorted(len(json.loads(body)["instances"]) for _, _, body in model.asked) == [1, *[7] * 7]
    assert (calls.calls, calls.rows) == (8, 50)
    np.testing.assert_allclose(scores.ravel(), rows.sum(axis=1))


def test_equal_rows_are_asked_once(model: Scripted) -> None:
    """Sampled coalitions repeat rows; what is counted is what the model was asked."""
    calls = unhurried()
    scores = ask(model.url, np.tile(ROWS, (5, 1)), calls)

    assert [len(json.loads(body)["instances"]) for _, _, body in model.asked] == [len(ROWS)]
    assert calls.rows == len(ROWS)
    assert scores.ravel().tolist() == [*ROWS.sum(axis=1)] * 5


def test_calls_share_their_connections_and_are_limited(model: Scripted) -> None:
    """However many calls there are, no more than `concurrency` run at once, over as many connections and the first."""
    model.together = 3
    ask(model.url, np.arange(40.0).reshape(20, 2), rows_per_call=1, concurrency=3)

    assert len(model.asked) == 20
    assert model.most == 3
    assert model.connections <= 4


def test_every_call_is_marked_synthetic(model: Scripted) -> None:
    """V1 by header, V2 by header and parameter: what an explainer asks is no traffic."""
    response = v2.InferResponse(model_name="m", outputs=(Tensor.of("y", ROWS.sum(axis=1)),))
    ask(model.url)
    model.metadata, model.answers = (200, NUMERIC), [(200, v2.encode_response(response)[0])]
    scores = ask(model.url)
    (v1_path, v1_headers, _), (v2_path, v2_headers, body) = model.asked
    sent = v2.decode_request(body, int(v2_headers["inference-header-content-length"]))

    assert (v1_path, v2_path) == ("/v1/models/m:predict", "/v2/models/m/infer")
    assert v1_headers["x-sidelight-synthetic"] == v2_headers["x-sidelight-synthetic"] == "1"
    assert sent.parameters["sidelight_synthetic"] is True
    assert sent.inputs[0].data.tolist() == ROWS.tolist()
    assert scores.ravel().tolist() == ROWS.sum(axis=1).tolist()


@pytest.mark.parametrize("status", [429, 502, 503, 504])
def test_what_may_pass_is_tried_again(model: Scripted, status: int) -> None:
    """A predictor that is busy or starting costs a moment; one that stays so is unavailable, in its own words."""
    model.answers = [(status, b"busy")] * 2
    assert ask(model.url).ravel().tolist() == ROWS.sum(axis=1).tolist()
    model.answers = [(status, b"busy")] * 4
    with pytest.raises(PredictorUnavailable, match=f"answered {status}: busy"):
        ask(model.url)

    assert len(model.asked) == 3 + 4


@pytest.mark.parametrize("status", [400, 401, 404, 413, 422])
def test_a_refusal_is_handed_on(model: Scripted, status: int) -> None:
    """What the predictor finds wrong with the rows is not tried again; its words are the caller's."""
    model.answers = [(status, b"three columns, please")]
    with pytest.raises(PredictorRefused, match=f"answered {status}: three columns, please"):
        ask(model.url)

    assert len(model.asked) == 1


@pytest.mark.parametrize(
    ("status", "body", "message"),
    [
        (500, b"traceback", "answered 500: traceback"),
        (302, b"", "answered 302"),
        (200, b"<html>", "no table of numbers"),
        (200, b'{"predictions": [1, 2]}', r"expected 6 predictions, got \(2,\)"),
        (200, b'{"predictions": ["a", "b", "c", "d", "e", "f"]}', "no table of numbers"),
        (200, b'{"predictions": [1, 2, 3, 4, 5, null]}', "NaN or infinities"),
        (200, b'{"predictions": [[1], [2], [3, 4], [5], [6], [7]]}', "no table of numbers"),
    ],
)
def test_an_answer_that_does_not_fit_is_the_predictors_fault(
    model: Scripted, status: int, body: bytes, message: str
) -> None:
    """Failures and nonsense are told apart from refusals: the caller's rows are not to blame."""
    model.answers = [(status, body)]
    with pytest.raises(PredictorMisbehaved, match=message):
        ask(model.url)


@pytest.mark.parametrize(
    "body",
    [b"<html>", b"[]", b"null", b'{"inputs": 3}', b'{"inputs": ["x"]}', b'{"inputs": [{"datatype": []}]}',
     b'{"inputs": [{"datatype": "FP32"}]}'],
)  # fmt: skip
def test_metadata_that_say_nothing_lead_to_v1(model: Scripted, body: bytes) -> None:
    """Any server's answer is survived; asked for V2 by name, such a model is named."""
    model.metadata = (200, body)

    assert ask(model.url).ravel().tolist() == ROWS.sum(axis=1).tolist()
    with pytest.raises(PredictorMisbehaved, match="does not offer one numeric V2 input"):
        ask(model.url, protocol="v2")


def test_a_v2_answer_without_numbers_is_the_predictors_fault(model: Scripted) -> None:
    """No outputs, text, a length that is no number of rows: named, whatever came."""
    model.metadata = (200, NUMERIC)
    text = v2.InferResponse(model_name="m", outputs=(Tensor.of("y", np.array(["a"] * 6)),))
    bodies = [b"{", b'{"model_name": "m", "outputs": []}', v2.encode_response(text)[0]]
    for body in bodies:
        model.answers = [(200, body)]
        with pytest.raises(PredictorMisbehaved, match="no numeric output"):
            ask(model.url)


def test_pieces_have_to_fit_together(model: Scripted) -> None:
    """A model whose number of outputs changes between calls explains nothing."""
    model.answers = [(200, b'{"predictions": [1, 2, 3]}'), (200, b'{"predictions": [[1, 2], [3, 4], [5, 6]]}')]
    with pytest.raises(PredictorMisbehaved, match="differ in width"):
        ask(model.url, rows_per_call=3)


def test_nothing_is_asked_when_there_is_no_time(model: Scripted) -> None:
    """Past the deadline, or cancelled because the client has gone, the model is left alone."""
    gone = unhurried()
    gone.cancelled.set()
    for calls in (Calls(deadline=time.monotonic() - 1), gone):
        with pytest.raises(OutOfTime):
            ask(model.url, calls=calls)

    assert model.asked == []


@pytest.mark.parametrize(
    ("datatype", "rows"),
    [
        ("FP32", np.array([["a", 1.5], ["b", 2]], dtype=object)),
        ("INT64", np.array([[0.5, 1.0], [2.0, 3.0]])),
    ],
)
def test_what_is_no_tensor_of_the_models_goes_by_v1(model: Scripted, datatype: str, rows: Array) -> None:
    """Text in a tensor of numbers, fractions in one of whole numbers: the model gets the rows as they are."""
    model.metadata, model.answers = (
        (200, NUMERIC.replace(b"FP32", datatype.encode())),
        [(200, b'{"predictions": [1, 2]}')],
    )
    ask(model.url, rows)
    ((path, _, body),) = model.asked

    assert path == "/v1/models/m:predict"
    assert sorted(json.loads(body)["instances"]) == sorted(rows.tolist())
