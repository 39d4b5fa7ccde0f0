"""Several processes behind one port: they look like one."""

from __future__ import annotations

import os
import re
import signal
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from inference.errors import ProcessSilent
from inference.notes import Note, Notes
from inference.runtime import RUNTIMES
from inference.siblings import Siblings, merged
from tests.inference.serving import GATED, Server, eventually, predictor

PREDICT = "/v1/models/m:predict"
ONE = {"instances": [[1.0, 2.0]]}
PROCESSES = 3
PAGE = b"# HELP a_total Text.\n# TYPE a_total counter\na_total 3.0\n"


@pytest.fixture(name="server", scope="module")
def _server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Serve an open gate from several processes; each test leaves them as they were."""
    folder = tmp_path_factory.mktemp("siblings")
    gate = folder / "gate"
    gate.mkdir()
    (gate / "open").touch()
    with _several(gate, folder) as server:
        yield server


@contextmanager
def _several(gate: Path, folder: Path) -> Iterator[Server]:
    with predictor(gate, folder, "--runtime", GATED, "--workers", str(PROCESSES), "--enable_grpc", "false") as server:
        eventually(lambda: _up(server) == PROCESSES, "all processes answer")
        yield server


def _children(server: Server) -> list[int]:
    return [
        int(found.group(1))
        for path in Path("/proc").glob("[0-9]*/stat")
        if (found := re.match(rf"(\d+) \(.*\) \S {server.process.pid} ", _read(path)))
    ]


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""


def _get(server: Server, path: str) -> httpx.Response:
    # A connection of its own: whichever process takes it.
    with server.client() as client:
        return client.get(path)


def _page(server: Server) -> str:
    return _get(server, "/metrics").text


def _up(server: Server) -> int:
    return sum(f'sidelight_predictor_process_up{{process="{index}"}} 1' in _page(server) for index in range(PROCESSES))


def _post(server: Server, path: str = PREDICT, body: object = ONE) -> httpx.Response:
    with server.client() as client:
        return client.post(path, json=body)


def _in_progress(server: Server) -> float:
    return sum(_samples(_page(server), "sidelight_predictor_in_progress").values())


def _samples(page: str, name: str) -> dict[str, float]:
    return {
        sample.labels["process"]: sample.value
        for family in text_string_to_metric_families(page)
        for sample in family.samples
        if sample.name == name
    }


def test_statistics_are_of_all_processes(tmp_path: Path) -> None:
    """Whoever is asked tells of all: as many inferences as there were, and the next time as many again."""
    gate = tmp_path / "gate"
    gate.mkdir()
    (gate / "open").touch()
    with _several(gate, tmp_path) as server:
        for rounds in (1, 2):
            for _ in range(12):
                _post(server).raise_for_status()
            (told,) = _get(server, "/v2/models/m/stats").raise_for_status().json()["model_stats"]

            assert told["inference_count"] == 12 * rounds
            assert told["inference_stats"]["success"]["count"] == 12 * rounds


def test_one_page_shows_all_processes(server: Server) -> None:
    """Whoever is asked gives the metrics of all, told apart by a label, and together they count every call."""
    before = _samples(_page(server), "request_predict_seconds_count")
    statuses = {_post(server).status_code for _ in range(60)}
    pages = [_page(server) for _ in range(3)]
    counts = [_samples(page, "request_predict_seconds_count") for page in pages]

    assert statuses == {200}
    assert counts[0] == counts[1] == counts[2]
    assert sum(counts[0].values()) - sum(before.values()) == 60
    # The kernel spreads connections: that one process got all sixty has no chance worth naming.
    assert len(counts[0]) > 1


def test_models_are_loaded_and_unloaded_everywhere(server: Server) -> None:
    """What one process is told, all do."""
    unloaded = _post(server, "/v2/repository/models/m/unload", {})
    refused = {_post(server).status_code for _ in range(20)}
    loaded = _post(server, "/v2/repository/models/m/load", {})
    answered = {_post(server).status_code for _ in range(20)}

    assert (unloaded.status_code, loaded.status_code) == (200, 200)
    assert refused == {503}
    assert answered == {200}


def test_settings_of_a_load_reach_every_process(tmp_path: Path) -> None:
    """Whoever is asked says the same of the model afterwards; so does one that is started again later."""
    model = tmp_path / "model"
    model.mkdir()
    # Loaded five times in all, by its library alone.
    RUNTIMES.find("xgboost").example(model)
    with predictor(model, tmp_path, "--workers", str(PROCESSES), "--enable_grpc", "false") as server:
        eventually(lambda: _up(server) == PROCESSES, "all processes answer")
        body = {"parameters": {"config": '{"max_batch_size": 16}'}}
        _post(server, "/v2/repository/models/m/load", body).raise_for_status()
        configs = [_get(server, "/v2/models/m/config").raise_for_status().json() for _ in range(20)]
        _killed_and_started_again(server)
        later = [_get(server, "/v2/models/m/config").raise_for_status().json() for _ in range(20)]

    assert {config["max_batch_size"] for config in configs} == {16}
    assert {config["max_batch_size"] for config in later} == {16}


def test_a_process_that_is_started_again_loads_nothing_that_was_unloaded(server: Server) -> None:
    """It would answer what all others refuse; the next load call reaches it as any other."""
    _post(server, "/v2/repository/models/m/unload", {}).raise_for_status()
    _killed_and_started_again(server)
    refused = {_post(server).status_code for _ in range(20)}
    _post(server, "/v2/repository/models/m/load", {}).raise_for_status()
    _killed_and_started_again(server)
    answered = {_post(server).status_code for _ in range(20)}

    assert refused == {503}
    assert answered == {200}


def _killed_and_started_again(server: Server) -> None:
    killed = _children(server)[0]
    os.kill(killed, signal.SIGKILL)
    eventually(lambda: killed not in _children(server), "the killed one is gone")
    eventually(lambda: _up(server) == PROCESSES, "all processes answer again")


def test_killed_processes_are_started_again(server: Server) -> None:
    """One process's death leaves the others serving, and it comes back."""
    children = _children(server)
    os.kill(children[0], signal.SIGKILL)
    eventually(lambda: children[0] not in _children(server), "the killed one is gone")
    meanwhile = [_post(server).status_code for _ in range(20)]
    eventually(lambda: _up(server) == PROCESSES, "all processes answer again")

    assert len(children) == PROCESSES
    assert set(meanwhile) == {200}
    assert len(_children(server)) == PROCESSES


def test_what_keeps_one_process_from_starting_again_ends_no_other(tmp_path: Path) -> None:
    """A folder that is wrong for a while was right when they began: they serve, and it comes back when it can."""
    gate = tmp_path / "gate"
    gate.mkdir()
    (gate / "open").touch()
    with _several(gate, tmp_path) as server:
        (gate / "sidelight.json").write_text("{")
        os.kill(_children(server)[0], signal.SIGKILL)
        eventually(lambda: "ended (exit code 2)" in server.log.read_text(), "it has tried")
        meanwhile = {_post(server).status_code for _ in range(20)}
        (gate / "sidelight.json").unlink()
        eventually(lambda: _up(server) == PROCESSES, "all processes answer again")

    assert meanwhile == {200}
    assert "no valid JSON" in server.log.read_text()


def test_drain_answers_what_is_in_progress_everywhere(tmp_path: Path) -> None:
    """After SIGTERM every process ends its requests, then all end, with code 0."""
    gate = tmp_path / "gate"
    gate.mkdir()
    with _several(gate, tmp_path) as server, ThreadPoolExecutor(9) as threads:
        waiting: list[Future[httpx.Response]] = [threads.submit(_post, server) for _ in range(9)]
        eventually(lambda: _in_progress(server) == 9, "nine calls in progress")
        server.terminate()
        (gate / "open").touch()
        answers = [call.result() for call in waiting]
        code = server.process.wait(60)

    assert {answer.status_code for answer in answers} == {200}
    assert code == 0


def test_a_model_that_cannot_be_loaded_ends_all(tmp_path: Path) -> None:
    """A mistake of the operator's is told, not tried again for ever."""
    empty = tmp_path / "empty"
    empty.mkdir()
    with (
        pytest.raises(AssertionError, match=r"ended with 2:[\s\S]*expected a model file"),
        predictor(empty, tmp_path, "--workers", "2", "--enable_grpc", "false"),
    ):
        raise NotImplementedError("it must not start")


def test_a_port_is_not_shared_with_strangers(server: Server, tmp_path: Path) -> None:
    """Two predictors on one port would take each other's calls; the second is refused."""
    port = server.url.rpartition(":")[2]
    words = ("--runtime", GATED, "--workers", "2", "--http_port", port)
    with (
        pytest.raises(AssertionError, match=rf"ended with 2:[\s\S]*cannot listen on 127.0.0.1:{port}"),
        predictor(tmp_path, tmp_path, *words),
    ):
        raise NotImplementedError("it must not start")


class _OverSocket(ThreadingHTTPServer):
    """Answers as another process does."""

    address_family = socket.AF_UNIX
    daemon_threads = True

    def server_bind(self) -> None:
        self.socket.bind(self.server_address)

    def get_request(self) -> tuple[socket.socket, tuple[str, int]]:
        return self.socket.accept()[0], ("other", 0)


class _Answers(BaseHTTPRequestHandler):
    """Counts three of something; cannot say what it did when it is busy."""

    def do_GET(self) -> None:
        self.send_response(503 if self.path == "/busy" else 200)
        self.end_headers()
        self.wfile.write(b'{"error": "no answer within 30 s"}' if self.path == "/busy" else PAGE)

    def log_message(self, *_args: object) -> None:
        pass


@pytest.fixture(name="others")
def _others(tmp_path: Path) -> Iterator[Siblings]:
    """Stand beside one process that answers, and one for which others wait already; a fourth is not there."""
    with (
        _OverSocket(str(tmp_path / "1.sock"), _Answers) as other,  # type: ignore[arg-type] # a path, for its family
        _silent(tmp_path / "2.sock"),
        socket.socket(socket.AF_UNIX) as waiting,
    ):
        waiting.connect(str(tmp_path / "2.sock"))
        thread = threading.Thread(target=other.serve_forever, args=(0.01,))
        thread.start()
        yield Siblings(folder=tmp_path, index=0, count=4, page_s=60.0, answer_s=60.0)
        other.shutdown()
        thread.join()


@contextmanager
def _silent(path: Path) -> Iterator[None]:
    """Be there, for one to wait for."""
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))
        listening.listen(0)
        yield


def test_counters_on_the_page_never_go_down(others: Siblings) -> None:
    """Whoever does not answer has no series until it does again, and is said not to: none starts again at less."""
    page = others.pages(PAGE).decode()

    assert _samples(page, "a_total") == {"0": 3.0, "1": 3.0}
    assert _samples(page, "sidelight_predictor_process_up") == {"0": 1.0, "1": 1.0, "2": 0.0, "3": 0.0}


def test_sums_are_of_all_or_not_told(others: Siblings, tmp_path: Path) -> None:
    """What is summed would be less without one that is merely slow or busy; one that is not there begins anew."""
    with pytest.raises(ProcessSilent, match=r"process 2 of this predictor: does not answer within 60 s; retry later"):
        others.answers("/stats")
    (tmp_path / "2.sock").unlink()

    assert others.answers("/stats") == [PAGE]
    with pytest.raises(ProcessSilent, match="process 1 of this predictor: no answer within 30 s"):
        others.answers("/busy")


def test_who_says_nothing_is_not_waited_for_for_ever(tmp_path: Path) -> None:
    """Neither for a page, which is whole without it, nor for a sum, which is not told."""
    others = Siblings(folder=tmp_path, index=0, count=2, page_s=0.05, answer_s=0.05)
    with _silent(tmp_path / "1.sock"):
        page = others.pages(PAGE).decode()
    (tmp_path / "1.sock").unlink()

    with _silent(tmp_path / "1.sock"), pytest.raises(ProcessSilent, match=r"does not answer within 0\.05 s"):
        others.answers("/stats")
    assert _samples(page, "a_total") == {"0": 3.0}


def test_notes_are_of_the_last_call(tmp_path: Path) -> None:
    """Of each model, whatever its name; none where the folder says the same, and none that cannot be read."""
    notes = Notes(tmp_path)
    odd = "ä/" * 200
    config = {"config": "{}"}
    for name, unloaded, parameters in (
        ("m", False, config), ("m", True, {}), (odd, False, config), ("n", True, {}), ("n", False, {}),
    ):  # fmt: skip
        notes.keep(Note(model=name, unloaded=unloaded, parameters=parameters))

    (tmp_path / "torn.told").write_bytes(b'{"model": "t')

    assert {note.model: (note.unloaded, note.parameters) for note in notes.all()} == {
        "m": (True, {}),
        odd: (False, config),
    }
    assert len(list(tmp_path.iterdir())) == 3


def test_what_cannot_be_noted_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The call itself goes on."""
    notes = Notes(tmp_path / "gone")
    notes.keep(Note(model="m", unloaded=True, parameters={}))

    assert "model m: a process that is started again will not know what was said" in caplog.text
    assert notes.all() == []


def test_pages_are_put_together_by_family() -> None:
    """Each family stands once, with its comments, and its samples carry their process."""
    one = b'# HELP a Text.\n# TYPE a counter\na_total 1.0\n# HELP b Text.\n# TYPE b gauge\nb{x="y z"} 2.0\n'
    two = b'# HELP b Text.\n# TYPE b gauge\nb{x="y z"} 3.0\nb{x="{"} 4.0\n'

    assert merged({0: one, 2: two}).decode().splitlines() == [
        "# HELP a Text.",
        "# TYPE a counter",
        'a_total{process="0"} 1.0',
        "# HELP b Text.",
        "# TYPE b gauge",
        'b{process="0",x="y z"} 2.0',
        'b{process="2",x="y z"} 3.0',
        'b{process="2",x="{"} 4.0',
    ]
