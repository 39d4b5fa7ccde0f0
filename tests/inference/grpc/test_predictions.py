"""ModelStreamInfer, whose caller has gone, or whose model is yet to be loaded."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncGenerator, Iterator, Mapping
from contextlib import contextmanager

from h2.events import DataReceived, PingAckReceived, StreamEnded

from inference.dataplane import DataPlane
from inference.grpc.assembly import prefixed
from inference.grpc.methods import of_service
from inference.grpc.predictions import Predictions
from inference.metrics import PredictorMetrics
from inference.protocol.grpc_codec import encode_request
from inference.protocol.grpc_messages import SERVICE
from inference.repository import Loaded, Repository
from inference.settings import ModelSettings, RepositorySettings
from tests.inference.batching.models import Sums, rows, serving, until
from tests.inference.grpc.hosting import Hosted, hosted
from tests.inference.serving import DEADLINE_S, eventually
from tests.logger.grpc import raw
from tests.logger.grpc.raw import Peer


class _Asked:
    head: Mapping[str, str] = {}
    deadline: float | None = None

    def keep(self, size: int) -> None:
        """Count nothing."""

    def let_go(self, size: int) -> None:
        """Count nothing."""


def test_a_stream_that_ends_early_leaves_no_task() -> None:
    """With as many messages begun as may be: the one that reads them does not wait for a place for good."""

    async def main() -> None:
        model = Sums()
        model.gate.clear()
        async with serving(model) as plane:

            async def messages() -> AsyncGenerator[bytes, None]:
                for _ in range(40):
                    yield encode_request("m", rows(1.0), raw=True)

            answers = Predictions(plane).stream(messages(), _Asked())
            first = asyncio.ensure_future(anext(answers))
            # One is waited for, sixteen lie in the queue, and one has no place there.
            await until(lambda: plane.batcher.in_progress == 18)
            first.cancel()
            await asyncio.wait({first})
            await until(lambda: asyncio.all_tasks() == {asyncio.current_task()})
            model.gate.set()

    asyncio.run(main())


def test_messages_that_wait_for_a_load_slow_their_client_down() -> None:
    """They count among what a stream holds, as those that nobody has taken; once it is loaded, all are answered."""
    asked, loads = threading.Event(), threading.Event()
    with _streaming(asked, loads) as (server, peer, content):
        stream, sent, waited = peer.call(None, f"/{SERVICE}/ModelStreamInfer"), 0, []

        def full() -> bool:
            nonlocal sent
            sent = _sent(peer, stream, content, sent)
            return server.host.held > 512 * 1024 and not peer.h2.local_flow_control_window(stream)

        eventually(full, "the client has to wait")
        waited.append((sent, server.host.held))
        loads.set()
        answers = _answers(peer, stream, content, sent)
        eventually(lambda: server.host.held == 0, "nothing is held")

    assert asked.is_set()
    assert all(sent <= held for sent, held in waited)
    assert answers.count(b"sum") == _MESSAGES


def test_a_client_that_has_to_wait_is_not_late() -> None:
    """However long a load takes: what it may not send meanwhile is not overdue, nor as soon as it may go on."""
    asked, loads = threading.Event(), threading.Event()
    with _streaming(asked, loads) as (server, peer, content):
        stream, sent = peer.call(None, f"/{SERVICE}/ModelStreamInfer"), 0

        def full() -> bool:
            nonlocal sent
            sent = _sent(peer, stream, content, sent)
            blocked = not peer.h2.local_flow_control_window(stream)
            return blocked and any(call._owed and call._assembly.size and not call._inbox for call in server.calls())

        eventually(full, "the client has to wait")
        server.sweep(time.monotonic() + 1_000)
        waited, allowed = server.busy(), time.monotonic()
        loads.set()
        while not peer.h2.local_flow_control_window(stream):
            assert peer.read()
        server.sweep(allowed + server.host.settings.body_timeout_s)
        went_on = server.busy()
        answers = _answers(peer, stream, content, sent) if went_on else b""

    assert (waited, went_on) == (1, 1)
    assert answers.count(b"sum") == _MESSAGES


_MESSAGES = 40


@contextmanager
def _streaming(asked: threading.Event, loads: threading.Event) -> Iterator[tuple[Hosted, Peer, bytes]]:
    """Serve a model whose load says that it is asked for, and waits; give server, client, and a stream's content."""

    def load() -> Loaded:
        asked.set()
        assert loads.wait(DEADLINE_S)
        return Loaded(Sums(), "1", ModelSettings())

    repository = Repository({"m": load}, RepositorySettings(on_demand=True))
    plane = DataPlane(repository, PredictorMetrics(lambda: 0.0))
    message = encode_request("m", rows(1.0, width=24_000), raw=True)
    with hosted() as server, raw.client(server.port) as peer:
        server.host.methods = of_service(SERVICE, {}, {"ModelStreamInfer": Predictions(plane).stream})
        yield server, peer, (prefixed(message, packed=False) + message) * _MESSAGES
    plane.close()
    repository.close()


def _answers(peer: Peer, stream: int, content: bytes, at: int) -> bytes:
    """Send the rest of a request; give what is answered."""
    while at < len(content):
        if not peer.h2.local_flow_control_window(stream):
            assert peer.read()
        at = _sent(peer, stream, content, at)
    peer.h2.end_stream(stream)
    peer.flush()
    peer.until(StreamEnded, stream)
    return b"".join(event.data or b"" for event in peer.events if isinstance(event, DataReceived))


def _sent(peer: Peer, stream: int, content: bytes, at: int) -> int:
    """Send what the server takes now; give how far that went."""
    while at < len(content) and (room := min(peer.h2.local_flow_control_window(stream), 16_384)):
        peer.h2.send_data(stream, content[at : at + room])
        at += room
    # What the server has to say about the content, it says before this.
    peer.h2.ping(b"12345678")
    peer.flush()
    peer.until(PingAckReceived)
    return at
