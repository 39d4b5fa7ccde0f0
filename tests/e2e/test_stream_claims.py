"""Requests whose bodies lie in a store that is away for a while, over real Kafka."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy.kafka.ports import free_port
from streams.claims import FolderClaims
from streams.publishers.confluent import ConfluentPublisher, PublisherSettings
from streams.publishing import publish_all
from streams.stage import Output
from streams.topics import Topics
from tests.deploy.test_workers import probed
from tests.e2e.test_stream import Client, read, total, workers
from tests.inference.kafka import asking
from tests.inference.serving import eventually

pytestmark = [pytest.mark.kafka, pytest.mark.e2e]


@pytest.fixture(name="client")
def _client(kafka: str, topics: Topics) -> Iterator[Client]:
    found = Client(kafka, topics)
    yield found
    found.close()


def test_a_store_that_is_away_holds_its_partition(kafka: str, topics: Topics, client: Client, tmp_path: Path) -> None:
    """Its requests wait, and those behind them; the probe says for what. What does not exist is the request's fault."""
    drawn = tmp_path / "drawn"
    claims = FolderClaims(drawn)
    plain = asking.request(topics.requests, "v1", [[1.0, 2.0]], "plain", b"k")
    claims.put("body", plain.value or b"")
    url = f"file://{tmp_path}/bodies"
    asked = [
        Output(topics.requests, b"k", None, _headers("there", f"{url}/body")),
        plain,
        Output(topics.requests, b"k", None, _headers("gone", f"{url}/gone")),
    ]
    publisher = ConfluentPublisher(PublisherSettings(bootstrap=kafka, client_id="asking"))
    publish_all(publisher, asked, timeout_s=30.0)
    publisher.close()
    port = free_port()
    with workers(kafka, topics, tmp_path, 1, "--claims", url, "--metrics-port", str(port)):
        eventually(lambda: f"{url}/body: cannot be read" in probed(port, "/readyz")[1], "the reason")
        status, alive = probed(port, "/readyz")[0], probed(port, "/healthz")
        held = total(read(port), "sidelight_stage_held", 'for="claims"')
        client.read()
        early = list(client.answers)
        drawn.rename(tmp_path / "bodies")
        client.asked = dict.fromkeys(("there", "plain", "gone"), (0, None))
        client.await_all()
        eventually(lambda: probed(port, "/readyz") == (200, "ok\n"), "ready")
        after = read(port)

    assert (status, alive, held, early) == (503, (200, "ok\n"), 1.0, [])
    assert [(told.event.correlation(), told.status) for told in client.answers] == [
        ("there", 200), ("plain", 200), ("gone", 400),
    ]  # fmt: skip
    assert f"{url}/gone: cannot be read" in client.answers[-1].error
    assert total(after, "sidelight_stage_held", "") == 0
    assert total(after, "sidelight_stage_total", 'counter="unreadable"') == 1


def _headers(correlation: str, url: str) -> tuple[tuple[str, bytes | None], ...]:
    return ("x-request-id", correlation.encode()), ("content-type", b"application/json"), ("dataref", url.encode())
