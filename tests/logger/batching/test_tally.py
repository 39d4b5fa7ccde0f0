"""The batcher's counts: kept while its process comes and goes, and shown as Prometheus reads them."""

from __future__ import annotations

import os

from prometheus_client import CollectorRegistry, generate_latest

from logger.batching.tally import CALLS, WAITING, BatchCollector, BatchTally


def shown(tally: BatchTally) -> list[str]:
    """Give the page's lines that say something."""
    registry = CollectorRegistry()
    registry.register(BatchCollector(tally))
    return [line for line in generate_latest(registry).decode().splitlines() if not line.startswith("#")]


def test_batches_are_shown_by_their_rows() -> None:
    """A histogram as Prometheus defines it: each limit counts all up to it, the last one everything."""
    tally = BatchTally()
    for calls, rows in ((2, 2), (2, 3), (3, 32), (40, 2_000)):
        tally.sent(calls, rows)
    for status in (503, 504, 503):
        tally.refused(status)
    lines = shown(tally)

    assert [line for line in lines if "_rows_bucket" in line] == [
        f'sidelight_batcher_batch_rows_bucket{{le="{limit}"}} {count}.0'
        for limit, count in (
            ("2.0", 1), ("4.0", 2), ("8.0", 2), ("16.0", 2), ("32.0", 3), ("64.0", 3), ("128.0", 3), ("256.0", 3),
            ("512.0", 3), ("1024.0", 3), ("+Inf", 4),
        )
    ]  # fmt: skip
    assert "sidelight_batcher_batch_rows_count 4.0" in lines
    assert "sidelight_batcher_batch_rows_sum 2037.0" in lines
    assert "sidelight_batcher_joined_total 47.0" in lines
    assert 'sidelight_batcher_refused_total{status="503"} 2.0' in lines
    assert 'sidelight_batcher_refused_total{status="504"} 1.0' in lines


def test_counts_outlive_the_process_that_counts() -> None:
    """The batcher is a child: what it counted is seen by its parent, and stays when it dies."""
    tally = BatchTally()
    tally.add(CALLS)
    child = os.fork()
    if not child:
        tally.add(CALLS, 2)
        tally.set(WAITING, 5)
        os._exit(0)
    os.waitpid(child, 0)

    assert (tally.get(CALLS), tally.get(WAITING)) == (3, 5)
