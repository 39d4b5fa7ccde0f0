"""`sidelight explain` when something is missing or unclear: every refusal says what to do. The good case: tests/e2e."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from os import getpid
from pathlib import Path

import orjson
import pytest

from deploy.cli import main
from deploy.kafka.ports import free_port
from deploy.runfile import Run
from streams.events import RESPONSE_TYPE, Event, Value
from streams.topics import Topics
from tests.deploy.commands.calling import Sidelight
from tests.deploy.laying import NO_EVENT, NOW_MS, Laid, create, event, expire, lay
from tests.deploy.serving import answering

pytestmark = pytest.mark.kafka

ANSWER = orjson.dumps({
    "predictions": [0.75],
    "explanations": [{
        "method": "sampled", "partial": True, "feature_names": ["age", "\x1b[2Jname"], "values": [[-0.25, 0.5]],
        "standard_errors": [[0.01, 0.02]], "base_values": [0.5], "prediction": [0.75],
    }],
    "stats": {"calls": 2, "rows": 70},
})  # fmt: skip

Explain = Callable[..., tuple[int, str, str]]


def request(identity: str, data: bytes = b'{"instances":[[1,2],[3,4]]}', **extensions: Value) -> Event:
    """Make a logged V1 request."""
    made = event(identity, data)
    return replace(made, extensions={**made.extensions, "protocol": "v1", "modelname": "credit model", **extensions})


@pytest.fixture
def home(kafka: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give a home where nothing runs yet; after `kafka`, whose jars lie in the usual one."""
    assert kafka != ""
    monkeypatch.setenv("SIDELIGHT_HOME", str(tmp_path))
    (tmp_path / "run").mkdir()
    return tmp_path


@pytest.fixture
def explain(kafka: str, topics: Topics, home: Path, capsys: pytest.CaptureFixture[str]) -> Explain:
    """Give the command over a payload topic of its own: exit code, output and problem."""
    assert home.is_dir()
    create(kafka, topics.payloads, 2)

    def call(*words: str) -> tuple[int, str, str]:
        code = main(["explain", "--kafka", kafka, "--prefix", topics.prefix, *words])
        said = capsys.readouterr()
        return code, said.out, said.err

    return call


def write_run(home: Path, kafka: str, name: str, explainers: dict[str, str]) -> None:
    """Note a run as `sidelight up` does."""
    run = Run(name=name, pid=getpid(), kafka=kafka, prefix="inference", explainers=explainers)
    (home / "run" / f"{name}.json").write_text(json.dumps(asdict(run)))


def test_the_row_is_sent_to_the_explainer(explain: Explain, kafka: str, topics: Topics) -> None:
    """One row, the seed, the model's name quoted, an id that shows where it comes from; the answer as a table."""
    lay(kafka, topics.payloads, [Laid(NO_EVENT), Laid(request("q", correlationid="c", path="/v1/models/x:predict"))])
    with answering(ANSWER) as server:
        asked = ("--event", "c", "--row", "1", "--seed", "7", "--explainer-url", f"{server.url}/")
        code, shown, problem = explain(*asked)
        plain = explain(*asked, "--json")[1]
        (path, headers, body), _ = server.asked

    assert (code, problem) == (0, "")
    assert path == "/v1/models/credit%20model:explain"
    assert orjson.loads(body) == {"instances": [[3, 4]], "parameters": {"seed": 7}}
    assert headers["x-request-id"] == "c-x"
    assert orjson.loads(plain) == orjson.loads(ANSWER)
    assert shown.splitlines() == [
        f"request c of default/credit at {request('q').time}",
        "prediction 0.7500, mean over the background 0.5000",
        "  \\x1b[2Jname            4  +0.5000 ± 0.0200  ++++++++++++++++++++++++",
        "  age                    3  -0.2500 ± 0.0100  ------------",
        "kernel SHAP, sampled, partial: the budget ended first; 2 calls, 70 rows",
    ]


def test_an_unknown_id_tells_how_far_was_looked(sidelight: Sidelight, kafka: str, topics: Topics) -> None:
    """How many events, where, and from when on: an older request has expired. One line, exit code 2."""
    create(kafka, topics.payloads)
    words = (
        "explain", "--kafka", kafka, "--prefix", topics.prefix, "--explainer-url", "http://127.0.0.1:1",
        "--event", "lost",
    )  # fmt: skip
    lay(kafka, topics.payloads, [Laid(request("lost")), Laid(request("kept")), Laid(request("kept, too"))])
    expire(kafka, topics.payloads, 0, 1)
    run = sidelight(*words)

    assert run.returncode == 2
    assert run.stderr == (
        f"sidelight explain: no logged request has the id 'lost': {topics.payloads} holds 2 events, the oldest of "
        f"{request('kept').time}; what was before has expired (its retention.ms)\n"
    )


def test_nothing_logged_and_nothing_since(explain: Explain, kafka: str, topics: Topics) -> None:
    """An empty topic is one cause, a short --since another, and a response is no request."""
    words = ("--event", "q", "--explainer-url", "http://127.0.0.1:1")
    empty = explain(*words)
    lay(kafka, topics.payloads, [Laid(request("q"), time_ms=NOW_MS - 7_200_000)])
    since = explain(*words, "--since", "1h")
    lay(kafka, topics.payloads, [Laid(event("r", kind=RESPONSE_TYPE), 1)])
    response = explain(*words[2:], "--event", "r")

    assert empty[0] == since[0] == response[0] == 2
    assert f"the id 'q': {topics.payloads} holds no events" in empty[2]
    assert f"{topics.payloads} took 0 events since then; look further back, or leave --since out" in since[2]
    assert "no logged request has the id 'r'" in response[2]


def test_several_requests_of_one_correlation_id_are_named(explain: Explain, kafka: str, topics: Topics) -> None:
    """Clients choose correlation ids, and repeat them: nobody guesses; an event's own id always tells."""
    lay(kafka, topics.payloads, [Laid(request(f"q{at}", correlationid="c"), at % 2, NOW_MS + at) for at in range(8)])
    code, _, problem = explain("--event", "c", "--explainer-url", "http://127.0.0.1:1")
    with answering(ANSWER) as server:
        good = explain("--event", "q1", "--explainer-url", server.url)

    assert code == 2
    assert problem.endswith("the correlation id 'c'; name one by its own id: q0, q1, q2, q3, q4, ...\n")
    assert good[0] == 0


def test_one_request_that_was_delivered_twice_is_one(explain: Explain, kafka: str, topics: Topics) -> None:
    """Delivery is at least once; and an unmodified agent gives request and response the same id."""
    agents = event("agent", b"{}", RESPONSE_TYPE)
    twice = [Laid(request("q", correlationid="c"))] * 2
    lay(kafka, topics.payloads, [*twice, Laid(agents), Laid(request("agent"))])
    with answering(ANSWER) as server:
        codes = [explain("--event", name, "--explainer-url", server.url)[0] for name in ("c", "agent")]

    assert codes == [0, 0]


def test_the_explainer_of_the_events_own_service_is_asked(
    explain: Explain, kafka: str, topics: Topics, home: Path
) -> None:
    """With several services on one machine, and runs on other brokers beside."""
    lay(kafka, topics.payloads, [Laid(request("q")), Laid(request("other", inferenceservicename="income"))])
    with answering(ANSWER) as right, answering(ANSWER) as wrong:
        write_run(home, kafka, "one", {"default/aaa": wrong.url, "default/credit": right.url})
        write_run(home, "127.0.0.1:1", "two", {"default/credit": wrong.url})
        code, _, problem = explain("--event", "q")
        missing = explain("--event", "other")

        assert (code, problem) == (0, "")
        assert (len(right.asked), len(wrong.asked)) == (1, 0)
    assert missing[0] == 2
    assert "service default/income has no explainer, default/aaa, default/credit has: " in missing[2]
    assert "--explainer-url" in missing[2]


def test_no_explainer_at_all_is_told_before_anything_is_read(explain: Explain, kafka: str) -> None:
    """What to do in both worlds: the YAML, or the address."""
    code, _, problem = explain("--event", "q")

    assert code == 2
    assert problem == (
        f"sidelight explain: no explainer runs here for Kafka at {kafka}: give the service one (spec.explainer) and "
        "start it with `sidelight up`, or name --explainer-url\n"
    )


@pytest.mark.parametrize(
    ("body", "status", "raw", "problem"),
    [
        (b'{"error":"model \x1b[2J is unknown"}', 404, b"", r"answered 404: {\"error\":\"model \x1b[2J is unknown\"}"),
        (b"<html>", 200, b"", "is no explain server: its answer is no JSON"),
        (b'{"predictions":[1]}', 200, b"", "is no explain server: its answer has no 'explanations'"),
        (b"[]", 200, b"", "is no explain server: its answer has no 'explanations'"),
        (b"", 200, b"SSH-2.0-OpenSSH_9.2\r\n", "cannot be reached: SSH-2.0-OpenSSH_9.2"),
    ],
)
def test_what_is_no_explain_server_is_told(
    explain: Explain, kafka: str, topics: Topics, body: bytes, status: int, raw: bytes, problem: str
) -> None:
    """A wrong port or model: the address, and what came instead of an explanation."""
    lay(kafka, topics.payloads, [Laid(request("q"))])
    with answering(body, status, raw) as server:
        code, shown, said = explain("--event", "q", "--explainer-url", server.url)

    assert (code, shown) == (2, "")
    assert server.url in said
    assert problem.replace('\\"', '"') in said
    assert len(said.splitlines()) == 1


def test_an_explainer_that_does_not_run_is_told(explain: Explain, kafka: str, topics: Topics) -> None:
    """Nobody listens, or the address is none."""
    lay(kafka, topics.payloads, [Laid(request("q"))])
    url = f"http://127.0.0.1:{free_port()}"
    away = explain("--event", "q", "--explainer-url", url)
    nonsense = explain("--event", "q", "--explainer-url", "localhost")

    assert away[0] == nonsense[0] == 2
    assert f"the explain server at {url} cannot be reached: " in away[2]
    assert "does it run?" in away[2]
    assert "the explain server at localhost cannot be reached: unknown url type" in nonsense[2]


def test_a_request_that_cannot_be_explained_says_why(explain: Explain, kafka: str, topics: Topics) -> None:
    """A row that is not there, no rows at all, and a body that nothing can read."""
    lay(kafka, topics.payloads, [
        Laid(request("two")), Laid(request("none", b'{"instances":[]}')), Laid(request("broken", b"{broken")),
    ])  # fmt: skip
    url = ("--explainer-url", "http://127.0.0.1:1")

    assert "--row 2: the request has rows 0 to 1" in explain("--event", "two", "--row", "2", *url)[2]
    assert "--row -1: the request has rows 0 to 1" in explain("--event", "two", "--row", "-1", *url)[2]
    assert "--row 0: the request has no rows" in explain("--event", "none", *url)[2]
    assert "event broken: its body cannot be decoded: " in explain("--event", "broken", *url)[2]


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        ((), "the following arguments are required: --event"),
        (("--event", "q", "--row", "x"), "argument --row: invalid int value: 'x'"),
    ],
)
def test_mistakes_are_told(
    explain: Explain, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], problem: str
) -> None:
    """A wrong argument is exit code 2 and its name."""
    with pytest.raises(SystemExit) as ended:
        explain(*words)

    assert ended.value.code == 2
    assert problem in capsys.readouterr().err


def test_a_time_that_is_none_is_told(explain: Explain) -> None:
    """What forms there are."""
    code, _, problem = explain("--event", "q", "--since", "soon")

    assert code == 2
    assert problem == "sidelight explain: --since: expected a time such as 90s, 10m, 2h or 1d, got 'soon'\n"
