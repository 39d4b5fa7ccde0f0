"""What the processes of one predictor say to each other, so that together they look like one.

They share the ports; a client speaks to any of them. Each also answers on a unix socket in a folder of their own, by
the same paths: whoever is asked for the metrics asks the others, and a model that one is told to load or unload is
loaded or unloaded by all. Used by `inference/dataplane.py` and `inference/rest/management.py`.
"""

from __future__ import annotations

import http.client
import socket
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final
from urllib.parse import quote

import orjson

from inference.errors import ModelLoadFailed, ProcessSilent
from inference.notes import Note, Notes

RELAYED: Final = "x-sidelight-relayed"
"""On what one process asks another: it asks nobody else."""
_NOTHING: Final[Mapping[str, Any]] = MappingProxyType({})
_LOAD_S: Final = 600.0
_ABSENT: Final = 0
_SLOW: Final = http.HTTPStatus.GATEWAY_TIMEOUT
_UP: Final = (
    b"# HELP sidelight_predictor_process_up Whether a process answers.\n# TYPE sidelight_predictor_process_up gauge\n"
)


class _Local(http.client.HTTPConnection):
    """HTTP over a unix socket."""

    def __init__(self, path: Path, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        """Open the socket."""
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


@dataclass(frozen=True, slots=True, kw_only=True)
class Siblings:
    """One process's view of all of them."""

    folder: Path
    """Of the sockets and notes; nobody else may look into it."""
    index: int
    count: int
    page_s: float = 5.0
    """How long a page of metrics waits for the others'. Prometheus waits 10 s, if it is not told otherwise."""
    answer_s: float = 20.0
    """The same for what is summed, of which nobody may be missing."""

    @property
    def socket(self) -> Path:
        """Where this process answers the others."""
        return self._socket(self.index)

    @property
    def notes(self) -> Notes:
        """What all were told so far."""
        return Notes(self.folder)

    def tell(self, model: str, verb: str, parameters: Mapping[str, Any] = _NOTHING) -> None:
        """Have all others load or unload a model, with what the caller said of it, and whoever starts again. Blocks.

        Raises:
            ModelLoadFailed: one of them could not, or does not answer; says which.
        """
        self.notes.keep(Note(model=model, unloaded=verb == "unload", parameters=parameters))
        failures, told = [], orjson.dumps({"parameters": dict(parameters)}) if parameters else None
        for index in self._others():
            try:
                status, answer = self._ask(
                    index, "POST", f"/v2/repository/models/{quote(model, safe='')}/{verb}", _LOAD_S, told
                )
            except (OSError, http.client.HTTPException) as exc:
                # It is being started again, and loads what is to be loaded then.
                failures.append(f"process {index} does not answer: {exc}")
                continue
            if status != http.HTTPStatus.OK:
                failures.append(f"process {index}: {_text(answer)}")
        if failures:
            raise ModelLoadFailed("; ".join(failures))

    def pages(self, own: bytes) -> bytes:
        """Give one metrics page of all processes, told apart by the label `process`. Blocks.

        Not summed: when one process starts again, the sum of its counters and the others' would seem to start again;
        so it would when one does not answer in time. As it is, its series have a gap, and none goes down.
        """
        looks = self._looks("/metrics", self.page_s)
        pages = {self.index: own} | {index: answer for index, status, answer in looks if status == http.HTTPStatus.OK}
        up = b"".join(
            b'sidelight_predictor_process_up{process="%d"} %d\n' % (index, index in pages)
            for index in range(self.count)
        )
        return merged(dict(sorted(pages.items()))) + _UP + up

    def answers(self, path: str) -> list[bytes]:
        """Give what the others answer to a GET, to be summed. Blocks.

        Left out is who is being started again, and begins anew, and who knows nothing of what is asked for.

        Raises:
            ProcessSilent: one does not answer in time, or cannot now: the sum would be less than it was.
        """
        answers = []
        for index, status, answer in self._looks(path, self.answer_s):
            if status == _SLOW:
                raise ProcessSilent(index, f"does not answer within {self.answer_s:g} s")
            if status == http.HTTPStatus.SERVICE_UNAVAILABLE:
                raise ProcessSilent(index, _text(answer))
            if status == http.HTTPStatus.OK:
                answers.append(answer)
        return answers

    def _looks(self, path: str, within_s: float) -> Iterator[tuple[int, int, bytes]]:
        """Ask all others at once; gives of each its index, and the status and body that it answers with."""
        others = self._others()
        with ThreadPoolExecutor(max(1, len(others))) as threads:
            yield from threads.map(partial(self._look, path, within_s), others)

    def _look(self, path: str, within_s: float, index: int) -> tuple[int, int, bytes]:
        try:
            return index, *self._ask(index, "GET", path, within_s)
        except (TimeoutError, BlockingIOError):
            # The latter: as many as may wait for it already do.
            return index, _SLOW, b""
        except (OSError, http.client.HTTPException):
            return index, _ABSENT, b""

    def _ask(
        self, index: int, method: str, path: str, timeout_s: float, body: bytes | None = None
    ) -> tuple[int, bytes]:
        connection = _Local(self._socket(index), timeout_s)
        try:
            connection.request(method, path, body, headers={RELAYED: str(self.index)})
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    def _others(self) -> list[int]:
        return [index for index in range(self.count) if index != self.index]

    def _socket(self, index: int) -> Path:
        return self.folder / f"{index}.sock"


def merged(pages: Mapping[int, bytes]) -> bytes:
    """Put pages in Prometheus' text format together: each family once, every sample with its process."""
    families: dict[bytes, list[bytes]] = {}
    for process, page in pages.items():
        label = b'process="%d"' % process
        for name, comments, samples in _families(page):
            lines = families.setdefault(name, comments)
            lines += [_labelled(sample, label) for sample in samples]
    return b"".join(line + b"\n" for lines in families.values() for line in lines)


def _families(page: bytes) -> Iterator[tuple[bytes, list[bytes], list[bytes]]]:
    name, comments, samples = b"", list[bytes](), list[bytes]()
    for line in page.splitlines():
        if line.startswith(b"# HELP ") and (comments or samples):
            yield name, comments, samples
            comments, samples = [], []
        if line.startswith(b"#"):
            name = line.split(b" ", 3)[2]
            comments.append(line)
        elif line:
            samples.append(line)
    if comments or samples:
        yield name, comments, samples


def _labelled(sample: bytes, label: bytes) -> bytes:
    name, brace, rest = sample.partition(b"{")
    if brace:
        return b"%s{%s,%s" % (name, label, rest)
    name, _, value = sample.partition(b" ")
    return b"%s{%s} %s" % (name, label, value)


def _text(body: bytes) -> str:
    try:
        return str(orjson.loads(body)["error"])
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return body.decode("utf-8", "replace")
