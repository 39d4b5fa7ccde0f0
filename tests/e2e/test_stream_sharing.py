"""Processes of one stream that come and go share its partitions: nothing is lost, and each key's order is kept."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

import pytest

from streams.topics import Topics
from tests.e2e.test_stream import PARTITIONS, Client, in_order, workers
from tests.inference.serving import eventually

pytestmark = [pytest.mark.kafka, pytest.mark.e2e, pytest.mark.timeout(600)]

ASKED: Final = 120
"""Requests before each change."""


def test_processes_share_the_partitions(kafka: str, topics: Topics, tmp_path: Path) -> None:
    """A second process takes a part of the partitions amid traffic, and its end gives them back."""
    folders = [tmp_path / name for name in "ab"]
    for folder in folders:
        folder.mkdir()
    client = Client(kafka, topics)
    client.ask(ASKED)
    with workers(kafka, topics, folders[0], 1, instances=False):
        eventually(lambda: _assigned(folders[0]) == set(range(PARTITIONS)), "all partitions")
        client.ask(ASKED)
        with workers(kafka, topics, folders[1], 1, instances=False):
            client.ask(ASKED)
            eventually(lambda: _shared(*map(_assigned, folders)), "a part for each")
            client.ask(ASKED)
            client.await_all()
            client.ask(ASKED)
        client.ask(ASKED)
        client.await_all()
    client.close()
    by_id = {answer.event.id: answer for answer in client.answers}

    assert len(by_id) == len(client.asked) == 6 * ASKED
    for answer in by_id.values():
        _, expected = client.asked[answer.event.correlation()]

        assert answer.status == (400 if expected is None else 200), answer.error
        assert sum(answer.sums) == (expected or 0.0)
    numbers = in_order(client.answers, client.asked)
    assert all(found == sorted(found) for found in numbers.values())


def _assigned(folder: Path) -> set[int]:
    """Give the partitions that a process was given last, as its log says."""
    told = re.findall(r"assigned \[([\d, ]*)\]", (folder / "s0.log").read_text())
    return {int(place) for place in told[-1].split(",") if place.strip()} if told else set()


def _shared(one: set[int], other: set[int]) -> bool:
    return bool(one and other) and not one & other and one | other == set(range(PARTITIONS))
