"""What versions did, in the words of Triton's statistics extension."""

from __future__ import annotations

import time

from inference.statistics import Record, merged

MS = 1_000_000


def _used() -> Record:
    record = Record()
    alone = record.take(time.monotonic(), 1, 1, 0.004)
    alone.queue_s, alone.decode_s, alone.finish_s = 0.001, 0.002, 0.003
    joined = record.take(time.monotonic(), 5, 2, 0.010)
    joined.queue_s, joined.decode_s, joined.finish_s = 0.010, 0.020, 0.030
    record.fail(0.5)
    return record


def test_counts_and_durations_are_summed() -> None:
    """Rows are inferences, batches executions; calls that share a batch have all of its computing each."""
    before = time.time() * 1_000 - 1
    said = _used().said("m", "3")
    spent = said["inference_stats"]

    assert (said["name"], said["version"], said["inference_count"], said["execution_count"]) == ("m", "3", 6, 2)
    assert before <= said["last_inference"] <= time.time() * 1_000 + 1
    assert spent["queue"] == {"count": 3, "ns": 11 * MS}
    assert spent["compute_input"] == {"count": 3, "ns": 22 * MS}
    assert spent["compute_infer"] == {"count": 3, "ns": 24 * MS}
    assert spent["compute_output"] == {"count": 3, "ns": 33 * MS}
    assert spent["success"] == {"count": 3, "ns": 90 * MS}
    assert spent["fail"] == {"count": 1, "ns": 500 * MS}
    assert spent["cache_hit"] == spent["cache_miss"] == {"count": 0, "ns": 0}


def test_batches_are_told_by_their_size() -> None:
    """For each number of rows, how many batches had it, and what they took."""
    assert _used().said("m", "3")["batch_stats"] == [
        {
            "batch_size": 1,
            "compute_input": {"count": 1, "ns": 2 * MS},
            "compute_infer": {"count": 1, "ns": 4 * MS},
            "compute_output": {"count": 1, "ns": 3 * MS},
        },
        {
            "batch_size": 5,
            "compute_input": {"count": 1, "ns": 20 * MS},
            "compute_infer": {"count": 1, "ns": 10 * MS},
            "compute_output": {"count": 1, "ns": 30 * MS},
        },
    ]


def test_what_was_never_used() -> None:
    """All is nothing then."""
    said = Record().said("m", "1")

    assert (said["last_inference"], said["inference_count"], said["batch_stats"]) == (0, 0, [])
    assert said["inference_stats"]["success"] == {"count": 0, "ns": 0}


def test_sizes_are_bounded() -> None:
    """Whatever sizes clients send, a record stays small; all of their rows are counted."""
    record = Record()
    for rows in range(1, 1_001):
        record.take(1.0, rows, 1, 0.001)
    said = record.said("m", "1")

    assert (said["inference_count"], said["execution_count"]) == (500_500, 1_000)
    assert [each["batch_size"] for each in said["batch_stats"]] == list(range(1, 65))


def test_processes_are_summed() -> None:
    """Several processes look like one: sums, and the last of the last."""
    one, two, other = _used().said("m", "3"), _used().said("m", "3"), Record().said("n", "1")
    two["last_inference"] = one["last_inference"] + 7
    both, alone = merged([[one, other], [two]])

    assert (both["inference_count"], both["execution_count"], both["last_inference"]) == (12, 4, two["last_inference"])
    assert both["inference_stats"]["success"] == {"count": 6, "ns": 180 * MS}
    assert both["batch_stats"][1]["compute_infer"] == {"count": 2, "ns": 20 * MS}
    assert alone == other
