"""The stage that answers requests, on real models and topics in memory."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference import arrow
from inference.dataplane import DataPlane
from inference.errors import ModelNotReady
from inference.folders import ModelFolder
from inference.kafka.calls import Call, Side
from inference.kafka.envelopes import envelope
from inference.kafka.plane import PlaneModels
from inference.kafka.requests import Ask
from inference.kafka.settings import StreamSettings
from inference.kafka.sheets import Answered
from inference.kafka.stage import InferenceStage
from inference.metrics import PredictorMetrics
from inference.observations import ArrowCodec, decode_rows
from inference.protocol.tensors import Tensor
from inference.protocol.v2 import InferRequest
from inference.repository import Loaded, Repository
from inference.runtime import Source
from inference.runtimes.sklearn import SKLearn
from inference.settings import RepositorySettings, Trust
from inference.shadows import Shadowed, Unanswered
from streams.assembler import Assembler
from streams.bindings import from_kafka, to_kafka, to_kafka_structured
from streams.claims import MOST_BYTES, FolderClaims
from streams.errors import NotNow, StreamError
from streams.events import Event, canonical
from streams.hosts.memory import MemoryHost
from streams.hosts.runner import Abandoned, RunnerSettings
from streams.publishers.memory import MemoryLog, MemoryPublisher
from streams.settings import AssemblerSettings
from streams.stage import Batch, Output, Record, StageFactory
from streams.state import MemoryStateStore
from tests.inference.kafka import asking
from tests.inference.kafka.asking import KINDS, Told
from tests.inference.kafka.summing import Summing
from tests.inference.serving import eventually
from tests.inference.shelves import ANSWERING, write
from tests.inference.test_arrow import stream

SETTINGS = StreamSettings(responses="answers", deadletter="dead", model="m")
ROWS = [[1.0, 2.0], [3.0, 4.0]]


@dataclass
class Noted:
    """The way to a model that remembers what it was asked."""

    models: PlaneModels
    calls: list[int] = field(default_factory=list)
    away: int = 0
    """How many calls find the model away."""

    def side(self, ask: Ask) -> Side:
        """Ask the real one."""
        return self.models.side(ask)

    def start(self, call: Call) -> Any:  # noqa: ANN401 - whatever the real one gives
        """Note the rows, and be away or answer."""
        self.calls.append(call.rows)
        if self.away > 0:
            self.away -= 1
            return _Away()
        return self.models.start(call)

    def lost(self) -> str:
        """Ask the real one."""
        return self.models.lost()


class _Away:
    def result(self) -> Answered:
        raise NotNow("Model with name m is not ready.")


def models_of(*names: str, folder: Path = Path()) -> Noted:
    """Serve models that sum rows."""
    repository = Repository({name: lambda: Loaded(Summing.load(Source(path=folder)), "3") for name in names})
    for name in names:
        repository.load(name)
    return Noted(PlaneModels(DataPlane(repository, PredictorMetrics(lambda: 0.0)), repository))


@pytest.fixture(scope="module")
def summing() -> Noted:
    """Give one model."""
    return models_of("m")


def laid(outputs: Sequence[Output]) -> tuple[Record, ...]:
    """Lay records into a partition."""
    return tuple(
        Record("requests", 0, place, output.key, output.value, output.headers, 1_760_000_000_500)
        for place, output in enumerate(outputs)
    )


def outputs_of(models: Any, asked: Sequence[Output], settings: StreamSettings = SETTINGS) -> tuple[Output, ...]:  # noqa: ANN401 - as above
    """Have one batch answered."""
    return InferenceStage(0, settings, models).process(Batch(0, laid(asked))).outputs


def answers_of(models: Any, asked: Sequence[Output], settings: StreamSettings = SETTINGS) -> list[Told]:  # noqa: ANN401 - as above
    """Have one batch answered; give the answers alone."""
    return [asking.told(output) for output in outputs_of(models, asked, settings) if output.topic == settings.responses]


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_request_is_answered_in_kind(summing: Noted, kind: str) -> None:
    """The answer has the request's key, correlation id, content type and form; it says status, model and version."""
    ask = asking.request("requests", kind, ROWS, "c-1", b"key")
    (output,) = outputs_of(summing, [ask])
    answer = asking.told(output)
    sent = dict(ask.headers)
    wanted = b"application/json" if kind == "structured" else sent["content-type"]

    assert answer.sums == [3.0, 7.0]
    assert (answer.key, answer.event.correlation(), answer.status) == (b"key", "c-1", 200)
    assert (answer.event.datacontenttype or "").encode() == wanted
    assert (answer.event.text("modelname"), answer.event.text("modelversion")) == ("m", "3")
    assert answer.event.type == "org.kubeflow.serving.inference.response"
    assert (dict(output.headers).get("content-type") or b"").startswith(b"application/cloudevents") == (
        kind == "structured"
    )


def test_rows_of_many_requests_are_one_call(summing: Noted) -> None:
    """Requests of one form are joined up to the model's limit of 64 rows, and each gets its own rows back."""
    summing.calls.clear()
    asked = [asking.request("requests", "v2", [[float(n), 1.0]] * 2, f"c{n}", b"k") for n in range(50)]
    answers = answers_of(summing, asked)

    assert summing.calls == [64, 36]
    assert [answer.sums for answer in answers] == [[n + 1.0] * 2 for n in range(50)]


def test_what_cannot_be_joined_is_not(summing: Noted) -> None:
    """Other names, shapes and number types, and requests with parameters of their own, go by themselves."""
    summing.calls.clear()
    whole = json.dumps({"inputs": [{"name": "x", "shape": [1, 2], "datatype": "INT64", "data": [1, 2]}]}).encode()
    said = json.dumps({
        "parameters": {"temperature": 1},
        "inputs": [{"name": "x", "shape": [1, 2], "datatype": "FP64", "data": [1, 2]}],
    }).encode()  # fmt: skip
    asked = [
        asking.request("requests", "v2", [[1.0, 2.0]], "a", b"k"),
        asking.request("requests", "v2", [[1.0, 2.0, 3.0]], "b", b"k"),
        Output("requests", b"k", whole, (("x-request-id", b"c"),)),
        Output("requests", b"k", said, (("x-request-id", b"d"),)),
        Output("requests", b"k", said, (("x-request-id", b"e"),)),
    ]
    answers = answers_of(summing, asked)

    assert summing.calls == [1, 1, 1, 1, 1]
    assert [(answer.event.correlation(), answer.sums) for answer in answers] == [
        ("a", [3.0]), ("b", [6.0]), ("c", [3.0]), ("d", [3.0]), ("e", [3.0]),
    ]  # fmt: skip


def test_a_request_that_the_model_refuses_costs_its_neighbours_nothing(summing: Noted) -> None:
    """One bad row in a batch: its request is answered with 400 and the reason, the others with their sums, in order."""
    asked = [asking.request("requests", "v1", [[float(n - 2), 0.0]], f"c{n}", b"k") for n in range(5)]
    answers = answers_of(summing, asked)

    assert [answer.status for answer in answers] == [400, 400, 200, 200, 200]
    assert answers[0].error == "expected no negative number"
    assert [answer.sums for answer in answers[2:]] == [[0.0], [1.0], [2.0]]


@pytest.mark.parametrize(
    ("value", "headers", "reason"),
    [
        (b"rubbish", (), "undecodable"),
        (None, (), "undecodable"),
        (b'{"predictions": []}', (), "undecodable"),
        (b"\x00" * 40, (("content-type", b"application/vnd.apache.arrow.stream"),), "undecodable"),
        (b"\x00" * 40, (("content-type", b"application/octet-stream"), ("path", b"/v2/models/m/infer")), "undecodable"),
        (b"{}", (("ce_specversion", b"1.0"), ("ce_type", b"t"), ("ce_source", b"s")), "missing-attribute"),
        (b"{}", (("content-type", b"application/cloudevents+json"),), "specversion"),
        (b'{"instances": [[1]]}', (("reply-topic", b"others.answers"),), "reply-topic"),
    ],
)
def test_what_cannot_be_read_is_answered_and_kept(
    summing: Noted, value: bytes | None, headers: tuple[tuple[str, bytes], ...], reason: str
) -> None:
    """Who asked is told, with 400; the record goes to the dead letters as it was, with the reason; others go on."""
    odd = Output("requests", b"k", value, (("x-request-id", b"odd"), *headers))
    good = asking.request("requests", "v1", ROWS, "good", b"k")
    answer, letter, other = outputs_of(summing, [odd, good])
    told = asking.told(answer)
    marks = dict(letter.headers)

    assert (told.status, told.key, told.event.correlation(), answer.topic) == (400, b"k", "odd", "answers")
    assert told.error
    assert (letter.topic, letter.key, letter.value, marks["sl_reason"]) == ("dead", b"k", value, reason.encode())
    assert asking.told(other).sums == [3.0, 7.0]


@pytest.mark.parametrize(
    ("headers", "status", "model"),
    [
        ((("modelname", b"b"),), 200, "b"),
        ((("path", b"/v1/models/b:predict"),), 200, "b"),
        ((("path", b"/v2/models/b/versions/3/infer"),), 400, "b"),
        ((("modelname", b"b"), ("modelversion", b"3")), 200, "b"),
        ((("modelname", b"b"), ("modelversion", b"9")), 404, "b"),
        ((("modelname", b"nobody"),), 404, "nobody"),
        ((), 200, "a"),
    ],
)
def test_headers_choose_the_model(headers: tuple[tuple[str, bytes], ...], status: int, model: str) -> None:
    """By name, by path, with or without version; the default model otherwise. Unknown ones are 404."""
    models = models_of("a", "b")
    ask = Output("requests", b"k", b'{"instances": [[1, 2]]}', headers)
    (answer, *_) = answers_of(models, [ask], replace(SETTINGS, model="a"))

    assert (answer.status, answer.event.text("modelname")) == (status, model)


def test_without_a_default_a_request_has_to_name_its_model() -> None:
    """Several models and no name: 404, not a guess."""
    (answer,) = answers_of(
        models_of("a", "b"), [asking.request("requests", "v1", ROWS, "c", b"k")], replace(SETTINGS, model="")
    )

    assert answer.status == 404


def test_models_in_one_batch_answer_in_order() -> None:
    """Requests to several models are joined by model; the answers come in the order of the requests."""
    models = models_of("a", "b")
    asked = [asking.request("requests", "v1", [[float(n)]], f"c{n}", b"k", modelname="ab"[n % 2]) for n in range(10)]
    answers = answers_of(models, asked)

    assert models.calls == [5, 5]
    assert [answer.sums for answer in answers] == [[float(n)] for n in range(10)]
    assert [answer.event.text("modelname") for answer in answers] == ["a", "b"] * 5


@pytest.mark.parametrize("header", ["reply-topic", "kafka_replyTopic", "ce_replytopic"])
def test_an_allowed_reply_topic_gets_the_answer(summing: Noted, header: str) -> None:
    """A request may name its answer's topic where the operator allows it; Spring Kafka's id comes back as it was."""
    ask = asking.request("requests", "v1" if header[:2] == "ce" else "bare-v1", ROWS, "c", b"k")
    ask = ask._replace(headers=(*ask.headers, (header, b"team.x"), ("kafka_correlationId", b"\x00\xff")))
    settings = replace(SETTINGS, reply_topics=("other", "team.*"))
    (output,) = outputs_of(summing, [ask], settings)

    assert output.topic == "team.x"
    assert ("kafka_correlationId", b"\x00\xff") in output.headers
    assert asking.told(output).sums == [3.0, 7.0]


def test_a_model_that_is_away_holds_everything_back(summing: Noted) -> None:
    """While it is away nothing is answered and nothing counts; then all of it is, in order, none twice."""
    log = MemoryLog({"requests": 1, "answers": 1, "dead": 1})
    for n in range(30):
        log.append(asking.request("requests", KINDS[n % len(KINDS)], [[float(n)]], f"c{n}", b"k"))
    store, models = MemoryStateStore(), replace(summing, away=1)

    def host() -> MemoryHost:
        runner = RunnerSettings(stage="stream", deadletter="dead")
        return MemoryHost(
            log, "requests", lambda p: InferenceStage(p, SETTINGS, models), MemoryPublisher(log), store, runner, batch=7
        )

    with pytest.raises(Abandoned):
        host().run()

    assert log.records("answers") == []
    again = host()
    again.run()
    answers = [asking.told(Output("answers", r.key, r.value, r.headers)) for r in log.records("answers")]
    assert [answer.sums for answer in answers] == [[float(n)] for n in range(30)]
    assert again.counters()["answered"] == again.counters()["in"] == 30


def test_a_try_that_fails_leaves_no_call_behind() -> None:
    """Calls to another model that were begun are waited for, however many tries there are."""
    found = Pair(models_of("m", "n"))
    stage = InferenceStage(0, SETTINGS, found)
    away, other = (asking.request("requests", "bare-v1", ROWS, name, b"k") for name in "ab")
    asked = [away, other._replace(headers=(*other.headers, ("modelname", b"n")))]
    for _ in range(3):
        with pytest.raises(NotNow):
            stage.process(Batch(0, laid(asked)))

        assert found.under_way == 0
    assert found.begun == 3


@dataclass
class Pair:
    """The way to two models, of which one is away; it counts the calls of the other that nobody came back for."""

    models: Noted
    begun: int = 0
    under_way: int = 0

    def side(self, ask: Ask) -> Side:
        """Ask the real one."""
        return self.models.side(ask)

    def start(self, call: Call) -> Any:  # noqa: ANN401 - whatever the real one gives
        """Be away, or begin."""
        if call.model == "m":
            return _Away()
        self.begun += 1
        self.under_way += 1
        return _Counted(self, self.models.start(call))

    def lost(self) -> str:
        """Ask the real one."""
        return self.models.lost()


@dataclass
class _Counted:
    pair: Pair
    pending: Any

    def result(self) -> Answered:
        self.pair.under_way -= 1
        answered: Answered = self.pending.result()
        return answered


def test_patience_has_an_end() -> None:
    """A model that stays away for longer than the operator waits is answered for, with 503."""
    repository = Repository({"m": _never})
    plane = DataPlane(repository, PredictorMetrics(lambda: 0.0))
    asked = [asking.request("requests", "v1", ROWS, "c", b"k")]
    patient = PlaneModels(plane, repository)
    with pytest.raises(NotNow):
        outputs_of(patient, asked)
    (answer,) = answers_of(PlaneModels(plane, repository, patience_s=0.0), asked)

    assert (answer.status, answer.error) == (503, "Model with name m is not ready.")


def _never() -> Loaded:
    raise ModelNotReady("m")


def test_ids_follow_from_the_request_alone(summing: Noted) -> None:
    """Answered again, in whichever batches, a request gets the same id and the same body."""
    asked = [asking.request("requests", KINDS[n % len(KINDS)], [[float(n)]], f"c{n}", b"k") for n in range(20)]
    records = laid(asked)
    whole = InferenceStage(0, SETTINGS, summing).process(Batch(0, records)).outputs
    parts = [
        output
        for start in range(0, 20, 3)
        for output in InferenceStage(0, SETTINGS, summing).process(Batch(0, records[start : start + 3])).outputs
    ]
    once, twice = ([(t.event.id, t.sums) for t in map(asking.told, outputs)] for outputs in (whole, parts))

    assert once == twice
    assert len({identity for identity, _ in once}) == 20


@given(st.lists(st.tuples(st.sampled_from([*KINDS, "rubbish"]), st.integers(1, 5), st.integers(-1, 9)), max_size=30))
def test_every_request_has_one_answer(summing: Noted, drawn: list[tuple[str, int, int]]) -> None:
    """Whatever comes, in = answered + refused + failed, and the answers are those of the requests alone, in order."""
    asked = [
        Output("requests", b"k", b"rubbish", (("x-request-id", b"c%d" % place),))
        if kind == "rubbish"
        else asking.request("requests", kind, [[float(value), 1.0]] * rows, f"c{place}", b"k")
        for place, (kind, rows, value) in enumerate(drawn)
    ]
    stage = InferenceStage(0, SETTINGS, summing)
    outputs = stage.process(Batch(0, laid(asked))).outputs
    answers = [asking.told(output) for output in outputs if output.topic == "answers"]
    counts = stage.counters()

    assert [answer.event.correlation() for answer in answers] == [f"c{place}" for place in range(len(drawn))]
    for answer, (kind, rows, value) in zip(answers, drawn, strict=True):
        assert answer.status == (400 if kind == "rubbish" or value < 0 else 200)
        assert answer.sums == ([] if answer.status == 400 else [value + 1.0] * rows)
    assert counts["in"] == len(drawn) == counts["answered"] + counts["refused"] + counts["failed"]


NAMES = st.sampled_from([
    "content-type", "x-request-id", "modelname", "modelversion", "path", "inference-header-content-length", "ce_id",
    "content-encoding", "reply-topic", "ce_specversion", "ce_source", "ce_type", "ce_time", "ce_inferenceheaderlength",
    "ce_correlationid", "ce_subject", "ce_data", "traceparent", "namespace",
])  # fmt: skip
VALUES = st.sampled_from([
    b"application/json", b"application/octet-stream", arrow.STREAM.encode(), b"application/cloudevents+json", b"m",
    b"1.0", b"gzip", b"30", b"9" * 30, b"2026-01-31T12:00:00Z", b"/v2/models/m/infer", b"\xff\xfe", b"", None,
]) | st.binary(max_size=8)  # fmt: skip
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(
        st.sampled_from([
            "instances", "inputs", "name", "shape", "datatype", "data", "parameters", "outputs", "specversion", "id",
            "source", "type", "data_base64", "binary_data_size",
        ]),
        inner, max_size=4,
    ),
    max_leaves=12,
)  # fmt: skip


@given(
    st.lists(st.tuples(NAMES, VALUES), max_size=6),
    st.none() | st.binary(max_size=60) | JSON.map(lambda value: json.dumps(value).encode()),
)
def test_nothing_that_comes_breaks_the_stage(
    summing: Noted, headers: list[tuple[str, bytes | None]], value: bytes | None
) -> None:
    """Whatever a record is, it is answered, and a letter is kept of what could not be read; nothing raises."""
    outputs = outputs_of(summing, [Output("requests", b"k", value, tuple(headers))])
    (answer,) = [output for output in outputs if output.topic == "answers"]

    assert asking.told(answer).status in {200, 400, 404, 500}
    assert all(output.topic in {"answers", "dead"} for output in outputs)


def test_text_beside_numbers_is_joined_and_answered() -> None:
    """V1 rows of mixed kinds, which no tensor holds, go to the model together and get what each would get alone."""
    models = Noted(_mixed())
    asked = [
        Output("requests", b"k", json.dumps({"instances": [["a" if n % 2 else "b", n]]}).encode(), ())
        for n in range(6)
    ]  # fmt: skip
    answers = answers_of(models, asked)

    assert models.calls == [6]
    assert [answer.sums for answer in answers] == [[float(n + 10 * (n % 2))] for n in range(6)]


def _mixed() -> PlaneModels:
    class Mixed(Summing):
        def predict(self, inputs: Any) -> dict[str, Any]:  # noqa: ANN401 - arrays
            (table,) = inputs.values()
            return {"out": np.array([float(row[1]) + (10.0 if row[0] == "a" else 0.0) for row in table])}

    repository = Repository({"m": lambda: Loaded(Mixed(Path()), "1")})
    repository.load("m")
    return PlaneModels(DataPlane(repository, PredictorMetrics(lambda: 0.0)), repository)


def test_what_was_joined_is_not_joined_again() -> None:
    """Batches that several partitions have begun reach the model as they are: --max_batch_rows holds."""
    sizes: list[int] = []

    class Noting(Summing):
        def predict(self, inputs: Any) -> dict[str, Any]:  # noqa: ANN401 - arrays
            (table,) = inputs.values()
            sizes.append(len(table))
            return super().predict(inputs)

    repository = Repository({"m": lambda: Loaded(Noting(Path()), "1")})
    repository.load("m")
    models = Noted(PlaneModels(DataPlane(repository, PredictorMetrics(lambda: 0.0)), repository))
    around = envelope(laid([asking.request("requests", "v2", ROWS, "c", b"k")])[0], SETTINGS)
    request = InferRequest(inputs=(Tensor.of("x", np.ones((3, 2))),))
    begun = [models.start(Call("m", None, request, around, 3)) for _ in range(8)]
    answers = [pending.result() for pending in begun]

    assert [answer.outcome[0].data.tolist() for answer in answers] == [[2.0] * 3] * 8
    assert sizes == [3] * 8


def test_a_real_model_gives_what_it_gives_in_process(tmp_path: Path) -> None:
    """scikit-learn through the stream equals scikit-learn."""
    inputs = SKLearn.example(tmp_path)["input-0"]
    repository = Repository({"m": lambda: Loaded(SKLearn.load(Source(path=tmp_path / "model.skops")), "1")})
    repository.load("m")
    plane = DataPlane(repository, PredictorMetrics(lambda: 0.0))
    rows = inputs.tolist()
    asked = [asking.request("requests", KINDS[n % len(KINDS)], [rows[n]], f"c{n}", b"k") for n in range(len(rows))]
    asked = [ask for n, ask in enumerate(asked) if KINDS[n % len(KINDS)] != "v1-rows"]
    kept = [n for n in range(len(rows)) if KINDS[n % len(KINDS)] != "v1-rows"]
    answers = answers_of(PlaneModels(plane, repository), asked)
    with repository.using("m") as loaded:
        (expected,) = loaded.runtime.predict({"input-0": inputs}).values()

    assert [answer.sums[0] for answer in answers] == expected[kept].tolist()


def test_the_state_is_the_counters(summing: Noted) -> None:
    """A stage goes on counting where the one before stopped; anything else is no state."""
    one = InferenceStage(0, SETTINGS, summing)
    one.process(Batch(0, laid([asking.request("requests", "v1", ROWS, "c", b"k")])))
    other = InferenceStage(0, SETTINGS, summing)
    other.restore(one.snapshot())

    assert other.counters() == one.counters()
    assert other.counters()["rows"] == 2
    with pytest.raises(StreamError, match="expected counters"):
        other.restore(b"[]")


@pytest.mark.parametrize("kind", KINDS)
def test_a_body_that_no_record_holds_is_fetched(summing: Noted, tmp_path: Path, kind: str) -> None:
    """A request may say where its body lies; it is answered as if it had brought it, and so are those beside it."""
    claims = FolderClaims(tmp_path)
    whole = [asking.request("requests", kind, [[float(n), 1.0]], f"c{n}", b"k") for n in range(4)]
    asked = [claimed(ask, claims) if n % 2 else ask for n, ask in enumerate(whole)]
    stage = InferenceStage(0, SETTINGS, summing, claims)
    answers = [asking.told(output) for output in stage.process(Batch(0, laid(asked))).outputs]

    assert [answer.sums for answer in answers] == [[n + 1.0] for n in range(4)]
    assert [answer.event.correlation() for answer in answers] == [f"c{n}" for n in range(4)]


@pytest.mark.parametrize("store", [True, False])
def test_a_body_that_cannot_be_fetched_is_answered_and_kept(summing: Noted, tmp_path: Path, *, store: bool) -> None:
    """A body that is not there, lies elsewhere or is too large, or no store: 400, and a dead letter that says why."""
    claims = FolderClaims(tmp_path)
    gone = claimed(asking.request("requests", "v1", ROWS, "gone", b"k"), claims)
    for found in tmp_path.iterdir():
        found.unlink()
    large = claims.put("large", b"")
    with (tmp_path / "large").open("wb") as file:
        file.truncate(MOST_BYTES + 1)
    asked = [gone, *(refers(f"c{n}", url) for n, url in enumerate([large, "file:///etc/passwd"]))]
    stage = InferenceStage(0, SETTINGS, summing, claims if store else None)
    outputs = stage.process(Batch(0, laid([*asked, asking.request("requests", "v1", ROWS, "good", b"k")]))).outputs
    answers = [asking.told(output) for output in outputs if output.topic == "answers"]
    letters = [dict(output.headers) for output in outputs if output.topic == "dead"]

    assert [answer.status for answer in answers] == [400, 400, 400, 200]
    assert [letter["sl_reason"] for letter in letters] == [b"claim"] * 3
    wanted = ["cannot be read", "expected at most", "does not lie under"] if store else ["--claims"] * 3
    assert all(text in answer.error for text, answer in zip(wanted, answers, strict=False))


def test_nothing_is_computed_while_bodies_are_away(summing: Noted, tmp_path: Path) -> None:
    """A store that is away costs no call of what comes before in the batch; once back, all is answered, in order."""
    claims = FolderClaims(tmp_path / "bodies")
    asked = [asking.request("requests", "v1", [[float(n)]], f"c{n}", b"k") for n in range(80)]
    asked[69] = claimed(asked[69], claims)
    (tmp_path / "bodies").rename(tmp_path / "away")
    summing.calls.clear()
    stage = InferenceStage(0, SETTINGS, summing, claims)
    for _ in range(2):
        with pytest.raises(NotNow):
            stage.process(Batch(0, laid(asked)))

    assert summing.calls == []
    (tmp_path / "away").rename(tmp_path / "bodies")
    outputs = stage.process(Batch(0, laid(asked))).outputs
    assert [asking.told(output).sums for output in outputs] == [[float(n)] for n in range(80)]


def test_a_copy_for_a_shadow_says_what_it_holds(tmp_path: Path) -> None:
    """A body that no record held, or tensors that few bytes became: who keeps failed copies counts what they are.

    The correlation id is the request's own.
    """
    for number, answer in (("1", 1.0), ("2", "bad")):
        write(tmp_path / "m" / number, answer)
    (tmp_path / "m" / "rollout.yaml").write_text("{stable: 1, shadows: [{version: 2}]}")
    claims = FolderClaims(tmp_path / "bodies")
    nulls = pa.table({"x": pa.nulls(100_000)})
    asked = [
        claimed(asking.request("requests", "v1", [[1.0, 2.0]] * 500, "größe", b"k"), claims),
        Output("requests", b"k", stream(nulls), (("content-type", arrow.STREAM.encode()), ("x-request-id", b"c2"))),
    ]
    failed: list[Shadowed | Unanswered] = []
    with opened(ModelFolder(str(tmp_path / "m"), Trust(), ANSWERING)) as (plane, repository):
        plane.shadows.witness = failed.append
        stage = InferenceStage(0, SETTINGS, PlaneModels(plane, repository), claims)
        outputs = stage.process(Batch(0, laid(asked))).outputs
        eventually(lambda: len(failed) == 2, "both failures")
    sizes = sorted(outcome.size for outcome in failed if isinstance(outcome, Unanswered))

    assert [asking.told(output).status for output in outputs] == [200, 200]
    assert 500 * 9 < sizes[0] < 500 * 20
    assert sizes[1] == 100_000 * 8
    assert {outcome.correlation for outcome in failed} == {"größe", "c2"}


@contextmanager
def opened(source: ModelFolder) -> Iterator[tuple[DataPlane, Repository]]:
    """Serve a model that requests load."""
    repository = Repository({"m": source}, RepositorySettings(on_demand=True))
    plane = DataPlane(repository, PredictorMetrics(lambda: 0.0))
    try:
        yield plane, repository
    finally:
        plane.close()
        repository.close()


def claimed(ask: Output, claims: FolderClaims) -> Output:
    """Put a request's body away, and have the request say where it is."""
    structured = dict(ask.headers).get("content-type", b"") == b"application/cloudevents+json; charset=UTF-8"
    if not structured:
        url = claims.put(f"b{hash(ask.value)}", ask.value or b"")
        name = "ce_dataref" if "ce_id" in dict(ask.headers) else "dataref"
        return ask._replace(value=None, headers=(*ask.headers, (name, url.encode())))
    event = from_kafka(ask.headers, ask.value)
    url = claims.put(event.id, event.data or b"")
    headers, value = to_kafka_structured(replace(event, data=None, extensions={**event.extensions, "dataref": url}))
    return ask._replace(headers=headers, value=value)


def refers(correlation: str, url: str) -> Output:
    """Ask with a body that lies somewhere."""
    headers = ("x-request-id", correlation.encode()), ("dataref", url.encode()), ("content-type", b"application/json")
    return Output("requests", b"k", None, headers)


def test_compressed_arrow_that_holds_too_much_is_refused(summing: Noted) -> None:
    """A small body of huge compressed columns is 400 and a dead letter; its neighbours are answered."""
    table = pa.table({"x": np.zeros(arrow.MAX_INFLATED // 8 + 1)})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema, options=pa.ipc.IpcWriteOptions(compression="zstd")) as writer:
        writer.write_table(table)
    bomb = Output("requests", b"k", sink.getvalue().to_pybytes(), (("content-type", arrow.STREAM.encode()),))
    answer, letter, other = outputs_of(summing, [bomb, asking.request("requests", "arrow", ROWS, "good", b"k")])

    assert (asking.told(answer).status, dict(letter.headers)["sl_reason"]) == (400, b"undecodable")
    assert "expected compressed buffers of at most 67108864 bytes" in asking.told(answer).error
    assert asking.told(other).sums == [3.0, 7.0]


def test_a_synthetic_request_stays_one(summing: Noted) -> None:
    """What no user asked is marked in the answer, so that no detector counts it."""
    ask = asking.request("requests", "bare-v1", ROWS, "c", b"k", **{"x-sidelight-synthetic": "1"})
    (answer,) = answers_of(summing, [ask])

    assert answer.event.text("synthetic") == "true"


def test_a_request_that_waited_for_long_says_so_in_either_mode(summing: Noted) -> None:
    """The latency counts from the request's own time, and may be beyond 32 bits of microseconds."""
    for kind in ("v1", "structured"):
        (answer,) = answers_of(summing, [asking.request("requests", kind, ROWS, "c", b"k")])

        assert (answer.event.number("latencyus") or 0) > 1 << 40


def test_an_event_of_any_type_may_ask(summing: Noted) -> None:
    """The type of a request's event is the client's affair; its id makes the answer's."""
    ask = asking.request("requests", "v1", ROWS, "c", b"k")
    event = replace(from_kafka(ask.headers, ask.value), type="com.example.order")
    headers, value = to_kafka(event)
    (one,) = answers_of(summing, [ask])
    (other,) = answers_of(summing, [Output("requests", b"k", value, headers)])

    assert other.sums == [3.0, 7.0]
    assert other.event.id == one.event.id


def test_requests_share_what_they_ask_for(summing: Noted) -> None:
    """Requests that name outputs get those alone, and an output that is not there is an error."""

    def body(output: str) -> bytes:
        tensor = {"name": "x", "shape": [1, 2], "datatype": "FP64", "data": [1, 2]}
        return json.dumps({"inputs": [tensor], "outputs": [{"name": output}]}).encode()

    asked = [Output("requests", b"k", body(name), (("x-request-id", name.encode()),)) for name in ("sum", "other")]
    good, bad = answers_of(summing, asked)

    assert (good.sums, good.status, bad.status) == ([3.0], 200, 400)


def test_detectors_see_what_was_asked_and_answered(summing: Noted) -> None:
    """With a payload topic, requests and answers are a logger's events: the assembler pairs them, and reads rows."""
    log = MemoryLog(dict.fromkeys(("requests", "answers", "dead", "payloads", "observations"), 1))
    settings = replace(SETTINGS, payloads="payloads", service="credit", namespace="bank")
    asked = [asking.request("requests", kind, ROWS, f"c{n}", b"k") for n, kind in enumerate(KINDS)]
    for ask in [*asked, Output("requests", b"k", b"rubbish"), asking.request("requests", "v1", [[-1.0]], "bad", b"k")]:
        log.append(ask, 1_760_000_000_500)
    _hosted(log, "requests", lambda p: InferenceStage(p, settings, summing))
    assembler = AssemblerSettings(
        payloads="payloads", observations="observations", deadletter="dead", payload_partitions=1,
        observation_partitions=1,
    )  # fmt: skip
    counters = _hosted(log, "payloads", lambda p: Assembler(p, assembler, ArrowCodec()))
    rows = [row for record in log.records("observations") if record.value for row in _rows(record)]

    assert (counters["exchanges"], counters["observed"], counters["failed"]) == (len(KINDS) + 1, len(KINDS), 1)
    assert counters["waiting"] == counters["deadlettered"] == 0
    assert {record.key for record in log.records("observations") if record.value} == {b"bank/credit"}
    assert sorted(row["_id"] for row in rows) == sorted(f"c{n}" for n in range(len(KINDS)) for _ in ROWS)
    assert {(row["_model"], row["_version"], row["_status"]) for row in rows} == {("m", "3", 200)}
    sums = [float(row["out.sum"] if row.get("out.sum") is not None else row["out.predictions"]) for row in rows]
    assert sorted(sums) == sorted([3.0, 7.0] * len(KINDS))


def _hosted(log: MemoryLog, topic: str, factory: StageFactory) -> dict[str, int]:
    runner = RunnerSettings(stage="stage", deadletter="dead")
    host = MemoryHost(log, topic, factory, MemoryPublisher(log), MemoryStateStore(), runner)
    host.run()
    return host.counters()


def _rows(record: Record) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = decode_rows(record.value or b"").to_pylist()
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_an_answer_is_the_event_that_is_logged(summing: Noted, kind: str) -> None:
    """The answer, whose common headers are written once, says what the response for the detectors says."""
    extra = {"traceparent": "00-1-2-01", "path": "/v2/models/m/infer" if "v2" in kind or kind == "arrow" else ""}
    asked = [
        asking.request("requests", kind, ROWS, f"c{n}", b"k", **{name: text for name, text in extra.items() if text})
        for n in range(3)
    ]  # fmt: skip
    logged = replace(SETTINGS, payloads="payloads")
    quick = [asking.told(output).event for output in outputs_of(summing, asked)]
    events = [asking.told(o).event for o in outputs_of(summing, asked, logged) if o.topic == "answers"]

    assert [_timeless(event) for event in quick] == [_timeless(event) for event in events]
    assert {event.text("traceparent") for event in quick} == {"00-1-2-01"}


def _timeless(event: Event) -> Event:
    extensions = {name: canonical(value) for name, value in event.extensions.items() if name != "latencyus"}
    return replace(event, time=None, extensions=extensions)
