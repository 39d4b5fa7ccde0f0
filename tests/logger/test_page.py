"""The page: figures for Prometheus and for people, and nothing of any payload."""

from __future__ import annotations

import httpx
import pytest

from deploy.kafka.ports import free_port
from logger import page
from logger.batching.tally import CALLS, BatchCollector, BatchTally
from logger.courier import Courier
from logger.lane import Lane
from logger.outbox import Outbox
from logger.settings import OutboxSettings
from streams.publishers.memory import MemoryLog, MemoryPublisher
from tests.logger.test_outbox import TOPIC, seen


def test_the_page_shows_figures_and_no_payload() -> None:
    """Three exchanges wait: both views say so; bodies and headers are in neither."""
    lane = Lane(1 << 20)
    outbox = Outbox(lane, OutboxSettings(), 2)
    for _ in range(3):
        outbox.offer(seen("secret-id"))
    lane.tally.answered(200)
    way = Courier("kafka-t", MemoryPublisher(MemoryLog({TOPIC: 1})), TOPIC, 60)
    port = free_port()
    page.serve("127.0.0.1", port, [lane], [way], 2)
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
        metrics, debug, health, lost = (client.get(path) for path in ("/metrics", "/debug", "/healthz", "/x"))

    assert "sidelight_logger_captured_total 6.0" in metrics.text
    assert 'kserve_logger_events_sent_total{sink="kafka-t"} 0.0' in metrics.text
    shown = debug.json()
    assert shown["law"] is True
    assert shown["sinks"][0]["in_flight"] == 6
    assert shown["lanes"][0]["waiting_exchanges"] == 3
    assert shown["lanes"][0]["answers"] == {"200": 1}
    assert "secret-id" not in metrics.text + debug.text
    assert (health.status_code, health.text) == (200, "ok\n")
    assert (lost.status_code, lost.text) == (404, "expected /metrics, /debug or /healthz\n")


def test_the_page_without_a_sink() -> None:
    """Who only batches has a page, too: what the proxies and the batcher count, and no sink."""
    lane, tally, port = Lane(1 << 20), BatchTally(), free_port()
    lane.tally.answered(503)
    tally.add(CALLS, 3)
    page.serve("127.0.0.1", port, [lane], [], 2, (BatchCollector(tally),))
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
        metrics, debug = client.get("/metrics").text, client.get("/debug").json()

    assert "sidelight_logger_captured_total 0.0" in metrics
    assert 'sidelight_logger_requests_total{status="503"} 1.0' in metrics
    assert "sidelight_batcher_calls_total 3.0" in metrics
    assert (debug["law"], debug["sinks"]) == (True, [])


def test_a_taken_port_is_an_error() -> None:
    """Whoever starts the page hears that it cannot be served."""
    port = free_port()
    page.serve("127.0.0.1", port, [Lane(1 << 20)], [], 2)
    with pytest.raises(OSError, match="in use"):
        page.serve("127.0.0.1", port, [Lane(1 << 20)], [], 2)
