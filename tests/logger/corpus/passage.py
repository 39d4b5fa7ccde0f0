"""Sends cases through one proxy to one server, and compares what the server saw with what the proxy logged."""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import orjson
import pytest
import uvloop

from deploy.kafka.ports import free_port
from logger.heads import RequestHead
from logger.lane import Lane
from logger.proxy import Proxy
from logger.settings import ProxySettings
from logger.tap import Seen
from logger.upstream import Pool
from tests.logger.corpus.backends import BACKENDS, Backend, Request, find_nginx, find_node
from tests.logger.corpus.hostile import PROBE, Case

_AT_ONCE: Final = 32
_PATIENCE_S: Final = 0.4
_ANSWER: Final = re.compile(rb"HTTP/1\.1 ([2-5]\d\d) .*?\r\n\r\n(.*?)(?=HTTP/1\.1 \d{3} |\Z)", re.DOTALL)
_NEEDS: Final = {"node": find_node, "nginx": find_nginx}


class _Watched(Proxy):
    """A proxy that remembers which ids it gave."""

    def __init__(self, settings: ProxySettings, offer: Callable[[Seen], bool]) -> None:
        super().__init__(settings, 1 << 20, offer, Lane(1 << 20).tally)
        self.given: set[str] = set()

    def new_id(self) -> bytes:
        found = super().new_id()
        self.given.add(found.decode())
        return found


class Passage:
    """All cases through one proxy to one server."""

    def __init__(self, backend: Backend, cases: Sequence[Case]) -> None:
        self.backend, self.cases = backend, cases
        self.logged: list[Seen] = []
        self.begun: Counter[tuple[str, str]] = Counter()
        """Method and path of every request that the proxy let through, logged or not."""
        self.answers: dict[str, bytes] = {}
        settings = ProxySettings(host="127.0.0.1", port=free_port(), upstream_port=backend.port, continue_s=0.05)
        self._proxy = _Watched(settings, self._offer)
        self._proxy.route = self._route

    def _offer(self, seen: Seen) -> bool:
        """Be the outbox."""
        self.logged.append(seen)
        return True

    def _route(self, head: RequestHead) -> Pool:
        """Be the way to the one server, and note who takes it."""
        self.begun[head.method.decode(), _path(head.target.decode("latin-1"))] += 1
        return self._proxy.pool

    async def main(self) -> None:
        """Send all, and stop the proxy."""
        listening, stopping = asyncio.Event(), asyncio.Event()
        serving = asyncio.create_task(self._proxy.serve(stopping, listening.set))
        await listening.wait()
        turns = asyncio.Semaphore(_AT_ONCE)

        async def one(case: Case) -> None:
            async with turns:
                patience = 30.0 if case.legal else _PATIENCE_S
                self.answers[case.name] = await converse(self._proxy.settings.port, case.data + PROBE, patience)

        await asyncio.gather(*map(one, self.cases))
        stopping.set()
        await serving

    def _known(self, request: Request) -> bool:
        """Tell whether the proxy made it."""
        found = request.correlation
        return found in self._proxy.given or any(found == item.correlation for item in self.logged)

    def check(self) -> None:
        """Every request that the server saw is one that the proxy made, with the content that the proxy logged."""
        seen = {request.correlation: request for request in self.backend.seen}
        logged = {item.correlation: item for item in self.logged}

        assert len(seen) == len(self.backend.seen), "a request without an id of ours, or seen twice"
        for correlation, request in seen.items():
            assert self._known(request), f"nobody sent {request}"
            if correlation in logged:
                item = logged[correlation]
                assert request.method == item.method
                assert _path(request.target) == item.path
                assert request.body == b"".join(item.request.chunks)
        whole = {correlation for correlation, item in logged.items() if item.status == 200 and not item.aborted}
        assert whole <= set(seen)
        assert Counter((request.method, _path(request.target)) for request in seen.values()) <= self.begun

    def figures(self) -> dict[str, int]:
        """Count; `check` was called before, so what is not equal would not be here."""
        logged = {item.correlation for item in self.logged}
        outcomes = [refusals(self.answers[case.name]) for case in self.cases]
        return {
            "cases": len(self.cases),
            "passed on whole": sum(bool(found) and not any(found) for found in outcomes),
            "refused by the proxy": sum(any(found) for found in outcomes),
            "unanswered": sum(not found for found in outcomes),
            "requests that the proxy let through": self.begun.total(),
            "seen by the server": len(self.backend.seen),
            "logged": len(self.logged),
            "seen and logged, equal": sum(request.correlation in logged for request in self.backend.seen),
            "smuggled": sum(not self._known(request) for request in self.backend.seen),
        }


def pass_through(cases: Sequence[Case], name: str, folder: Path) -> Passage:
    """Run all of it; skip when the server is not here."""
    if name in _NEEDS and _NEEDS[name]() is None:
        pytest.skip(f"{name} is not installed")
    with BACKENDS[name](folder) as backend:
        passage = Passage(backend, cases)
        uvloop.run(passage.main())
    return passage


def refusals(answers: bytes) -> list[str]:
    """Give for each final answer why the proxy gave it in the server's place, or nothing if it did not."""
    return [
        f"{status.decode()} {orjson.loads(content)['error']}" if content.startswith(b'{"error":') else ""
        for status, content in _ANSWER.findall(answers)
    ]


async def converse(port: int, data: bytes, patience: float) -> bytes:
    """Send, and read until the other side closes or says nothing more."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    found = b""
    try:
        writer.write(data)
        while piece := await asyncio.wait_for(reader.read(65_536), patience):
            found += piece
    except (ConnectionError, TimeoutError):
        pass
    finally:
        writer.transport.abort()
    return found


def _path(target: str) -> str:
    return target.partition("?")[0]
