"""A streamed model whose GPU is lost, over real Kafka: the process ends, and the next one answers what waits."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from streams.publishers.confluent import ConfluentPublisher, PublisherSettings
from streams.publishing import publish_all
from streams.topics import Topics
from tests.deploy.commands.calling import Sidelight
from tests.e2e.test_stream import Client
from tests.inference.kafka import asking
from tests.inference.serving import GATED

pytestmark = [pytest.mark.kafka, pytest.mark.e2e]


@contextmanager
def _stream(kafka: str, topics: Topics, folder: Path, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Answer requests until the block ends."""
    words = ("--model_name", "m", "--model_dir", str(folder / "model"), "--runtime", GATED, "--kafka", kafka)
    with log.open("wb") as output:
        process = subprocess.Popen(
            Sidelight(folder).command("stream", *words, "--prefix", topics.prefix), stdout=output, stderr=output
        )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def _ask(kafka: str, topics: Topics, client: Client, *names: str) -> None:
    publisher = ConfluentPublisher(PublisherSettings(bootstrap=kafka, client_id="asking"))
    publish_all(
        publisher, [asking.request(topics.requests, "v1", [[1.0, 2.0]], name, b"k") for name in names], timeout_s=30.0
    )
    publisher.close()
    client.asked |= dict.fromkeys(names, (0, None))


def test_what_waits_is_the_next_process_s(kafka: str, topics: Topics, tmp_path: Path) -> None:
    """Requests that come when nothing can be computed any more are not answered with errors: they wait."""
    model, log = tmp_path / "model", tmp_path / "log"
    model.mkdir()
    for name in ("gpu", "open"):
        (model / name).touch()
    client = Client(kafka, topics)
    with _stream(kafka, topics, tmp_path, log) as first:
        _ask(kafka, topics, client, "a")
        client.await_all()
        (model / "lost").touch()
        _ask(kafka, topics, client, "b", "c")
        code = first.wait(60)
    client.read()
    early = {told.event.correlation() for told in client.answers}
    (model / "lost").unlink()
    with _stream(kafka, topics, tmp_path, tmp_path / "log2"):
        client.await_all()
    client.close()

    assert code == 1
    assert "ends, to be started anew: the gate is lost" in log.read_text()
    assert early == {"a"}
    # Its answer may come again, if the process ended before it could note that it was done.
    told = dict.fromkeys((told.event.correlation(), told.status) for told in client.answers)
    assert list(told) == [("a", 200), ("b", 200), ("c", 200)]
