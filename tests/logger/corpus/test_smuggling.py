"""Hostile requests through the proxy to servers of every kind: what each one saw is what the proxy logged."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

import pytest
import uvloop

from logger.lane import Lane
from logger.proxy import Proxy
from logger.settings import ProxySettings
from logger.tap import Seen
from tests.logger.bench import free_port
from tests.logger.corpus.backends import BACKENDS, Backend, find_nginx, find_node
from tests.logger.corpus.hostile import PROBE, Case, cases

_AT_ONCE = 32
_PATIENCE_S = 0.4
_CORRELATION = re.compile(rb"x-request-id: (\S+)\r\n")
_NEEDS = {"node": find_node, "nginx": find_nginx}


class Run:
    """All cases through one proxy to one server."""

    def __init__(self, backend: Backend) -> None:
        self.backend = backend
        self.logged: list[Seen] = []
        self.answers: dict[str, bytes] = {}
        self.proxy: Proxy | None = None

    def offer(self, seen: Seen) -> bool:
        """Be the outbox."""
        self.logged.append(seen)
        return True

    async def main(self) -> None:
        """Send all, and stop the proxy."""
        settings = ProxySettings(
            host="127.0.0.1", port=await free_port(), upstream_port=self.backend.port, continue_s=0.05
        )
        self.proxy = Proxy(settings, 1 << 20, self.offer, Lane(1 << 20).tally)
        listening, stopping = asyncio.Event(), asyncio.Event()
        serving = asyncio.create_task(self.proxy.serve(stopping, listening.set))
        await listening.wait()
        turns = asyncio.Semaphore(_AT_ONCE)

        async def one(case: Case) -> None:
            async with turns:
                patience = 30.0 if case.legal else _PATIENCE_S
                self.answers[case.name] = await converse(settings.port, case.data + PROBE, patience)

        await asyncio.gather(*map(one, cases()))
        stopping.set()
        await serving


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


@pytest.mark.parametrize("name", BACKENDS)
def test_nothing_is_smuggled(name: str, tmp_path: Path) -> None:
    """Every request that a server saw is one that the proxy made, with the content that the proxy logged."""
    if name in _NEEDS and _NEEDS[name]() is None:
        pytest.skip(f"{name} is not installed")
    with BACKENDS[name](tmp_path) as backend:
        run = Run(backend)
        uvloop.run(run.main())
    seen = {request.correlation: request for request in backend.seen}
    logged = {item.correlation: item for item in run.logged}
    answered = {found.decode() for answer in run.answers.values() for found in _CORRELATION.findall(answer)}

    assert len(seen) == len(backend.seen), "a request without an id of ours, or seen twice"
    for correlation, request in seen.items():
        assert correlation in logged or correlation in answered, f"nobody sent {request}"
        if correlation in logged:
            item = logged[correlation]
            assert request.method == item.method
            assert request.target.partition("?")[0] == item.path
            assert request.body == b"".join(item.request.chunks)
    whole = {correlation for correlation, item in logged.items() if item.status == 200 and not item.aborted}
    assert whole <= set(seen)
    for case in cases():
        if case.legal:
            assert run.answers[case.name].count(b"HTTP/1.1 200") == 2, (case, run.answers[case.name])
