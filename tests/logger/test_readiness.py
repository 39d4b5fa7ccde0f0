"""Readiness probes as Knative's queue-proxy runs them, against real sockets."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from deploy.kafka.ports import free_port
from inference.http2.outlet import Turn
from logger.errors import BadProbe
from logger.lane import Lane
from logger.proxy import Proxy
from logger.readiness import Probe, Readiness, parse
from logger.routes import Routes
from logger.settings import ProxySettings

DEFAULT_PORT = 8080


def probe(fields: dict[str, Any]) -> Probe:
    """Parse a probe; unless it says how long it waits for an answer, that is longer than a busy machine takes."""
    return parse(json.dumps({"timeoutSeconds": 60, **fields}), DEFAULT_PORT)


def test_what_kserve_hands_over() -> None:
    """The probe of a default predictor, as KServe's webhook writes it."""
    text = '{"tcpSocket":{"port":8080},"timeoutSeconds":1,"periodSeconds":10,"successThreshold":1,"failureThreshold":3}'

    assert parse(text, 1) == Probe(host="127.0.0.1", port=8080, timeout_s=1)


def test_an_http_probe_with_everything() -> None:
    """Path, host, scheme, headers, time-out; a port given as text is a number all the same."""
    found = probe({
        "httpGet": {
            "path": "v1/models", "port": "8443", "host": "10.0.0.1", "scheme": "HTTPS",
            "httpHeaders": [{"name": "X-Probe", "value": "1"}],
        },
        "timeoutSeconds": 3, "periodSeconds": 5,
    })  # fmt: skip

    assert found == Probe(
        host="10.0.0.1", port=8443, path="/v1/models", tls=True, headers={"X-Probe": "1"}, timeout_s=3
    )


def test_no_period_is_knatives_own_way() -> None:
    """`periodSeconds` 0 or absent: asked again and again, as often in a row as the threshold says."""
    assert probe({"tcpSocket": {"port": 1}, "successThreshold": 3}).eager
    assert probe({"tcpSocket": {"port": 1}, "successThreshold": 3, "periodSeconds": 0}).successes == 3
    assert not probe({"tcpSocket": {"port": 1}, "periodSeconds": 1}).eager


def test_a_named_port_is_the_models() -> None:
    """Nobody tells us the names of the container's ports; the model's port is the one that we know."""
    assert probe({"httpGet": {"port": "http1"}, "periodSeconds": 1}).port == DEFAULT_PORT


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("nonsense", "expected JSON"),
        ("[]", "expected an object"),
        ("{}", "expected one of httpGet, tcpSocket or grpc, got none"),
        ('{"tcpSocket": {"port": 1}, "httpGet": {"port": 1}}', "got httpGet, tcpSocket"),
        ('{"exec": {"command": ["true"]}}', "exec: a command in the model's container cannot be run from this one"),
        ('{"tcpSocket": {"port": 70000}}', "tcpSocket.port: expected 1 to 65535, got 70000"),
        ('{"tcpSocket": {"port": null}}', "tcpSocket.port: expected 1 to 65535, got None"),
        ('{"tcpSocket": 3}', "tcpSocket: expected an object"),
        ('{"tcpSocket": {"port": 1}, "timeoutSeconds": "x"}', "timeoutSeconds: expected a whole number"),
        ('{"tcpSocket": {"port": 1}, "periodSeconds": -1}', "periodSeconds: expected a whole number"),
        ('{"httpGet": {"port": 1, "path": "/a b"}}', "httpGet.path: expected printable ASCII"),
        ('{"httpGet": {"port": 1, "httpHeaders": [{"name": "a", "value": "b\\r\\nc: d"}]}}', "httpHeaders"),
    ],
)
def test_what_cannot_be_run_is_refused(text: str, expected: str) -> None:
    """One sentence that says which field, what was expected and what came."""
    with pytest.raises(BadProbe, match=expected):
        parse(text, DEFAULT_PORT)


def serving(statuses: list[int], test: Callable[[int, list[bytes]], Awaitable[None]]) -> None:
    """Run a test beside a server that answers each GET with the next status, the last one for ever; 0 is silence."""

    async def main() -> None:
        asked: list[bytes] = []

        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            try:
                asked.append(await reader.readuntil(b"\r\n\r\n"))
                status = statuses[min(len(asked), len(statuses)) - 1]
                if status:
                    writer.write(b"HTTP/1.1 %d X\r\ncontent-length: 0\r\n\r\n" % status)
                await reader.read()
            except (OSError, asyncio.IncompleteReadError):
                pass
            finally:
                writer.close()

        async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
            await asyncio.wait_for(test(server.sockets[0].getsockname()[1], asked), 150)

    asyncio.run(main())


@pytest.mark.parametrize(("status", "ready"), [(200, True), (204, True), (302, True), (404, False), (503, False)])
def test_http_by_status(status: int, ready: bool) -> None:  # noqa: FBT001 - a table
    """200 to 399 is ready, as for the kubelet; the request is the one that the probe describes."""

    async def test(port: int, asked: list[bytes]) -> None:
        found = probe({
            "httpGet": {"path": "/up", "port": port, "httpHeaders": [{"name": "X-A", "value": "1"}]},
            "periodSeconds": 1,
        })  # fmt: skip
        problem = await Readiness(found).problem()

        assert (problem == "") is ready
        assert ready or f"expected 200 to 399, got {status}" in problem
        assert asked[0].startswith(b"GET /up HTTP/1.1\r\n")
        assert b"x-a: 1\r\n" in asked[0]

    serving([status], test)


def test_silence_is_not_ready() -> None:
    """No answer within the time-out."""

    async def test(port: int, _asked: list[bytes]) -> None:
        found = probe({"httpGet": {"port": port}, "periodSeconds": 1, "timeoutSeconds": 1})

        assert "nothing within 1 s" in await Readiness(found).problem()

    serving([0], test)


def test_a_connection_is_enough_for_tcp() -> None:
    """An open port is ready, a closed one is not."""

    async def test(port: int, _asked: list[bytes]) -> None:
        closed = free_port()

        assert await Readiness(probe({"tcpSocket": {"port": port}, "periodSeconds": 1})).problem() == ""
        assert f"{closed}: " in await Readiness(probe({"tcpSocket": {"port": closed}, "periodSeconds": 1})).problem()

    serving([200], test)


def test_knatives_way_waits_for_a_row_of_successes() -> None:
    """503, then ready, then 503 again: only two successes in a row count."""

    async def test(port: int, asked: list[bytes]) -> None:
        found = probe({"httpGet": {"port": port}, "periodSeconds": 0, "successThreshold": 2})

        assert await Readiness(found).problem() == ""
        assert len(asked) == 5

    serving([503, 200, 503, 200, 200], test)


def test_who_asks_meanwhile_gets_the_same_answer() -> None:
    """Ten at once are one probe."""

    async def test(port: int, asked: list[bytes]) -> None:
        readiness = Readiness(probe({"httpGet": {"port": port}, "periodSeconds": 1}))
        found = await asyncio.gather(*(readiness.problem() for _ in range(10)))

        assert set(found) == {""}
        assert len(asked) == 1

    serving([200], test)


def test_the_proxy_answers_for_the_model() -> None:
    """GET with `K-Network-Probe: queue`: 503 with the reason, then 200; any other request goes to the model."""

    async def test(port: int, asked: list[bytes]) -> None:
        own = free_port()
        settings = ProxySettings(host="127.0.0.1", port=own, upstream_port=port)
        proxy = Proxy(settings, 0, lambda _seen: True, Lane(1 << 16).tally)
        found = probe({"httpGet": {"path": "/up", "port": port}, "periodSeconds": 1})
        routes = Routes(settings, Turn(), proxy.pool, found, 0, 0)
        await routes.open()
        proxy.route = routes
        stopping, listening = asyncio.Event(), asyncio.Event()
        task = asyncio.create_task(proxy.serve(stopping, listening.set))
        await listening.wait()
        answers = [
            await _get(own, extra) for extra in (b"K-Network-Probe: queue\r\n", b"k-network-probe: queue\r\n", b"")
        ]
        stopping.set()
        await task
        routes.close()

        assert answers[0].startswith(b"HTTP/1.1 503")
        assert b"expected 200 to 399, got 503" in answers[0]
        assert answers[1].startswith(b"HTTP/1.1 200")
        assert answers[1].endswith(b"\r\n\r\nqueue")
        assert answers[2].startswith(b"HTTP/1.1 404")
        assert [head.split()[1] for head in asked] == [b"/up", b"/up", b"/"]

    serving([503, 200, 404], test)


async def _get(port: int, extra: bytes) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET / HTTP/1.1\r\nHost: h\r\n" + extra + b"Connection: close\r\n\r\n")
    found = await reader.read()
    writer.close()
    return found
