"""What becomes of an output that the broker refuses for good: a dead letter that holds it, or at least names it. Pure.

The letter of a stage that could not read its input holds the input (`streams/deadletter.py`); here the input was read
and has had its effect on the stage, so what would be lost is the output. Its input still lies where the letter says.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from hashlib import blake2b
from typing import Final

from streams.publishing import Refusal
from streams.records import pack
from streams.stage import Headers, Output, Record

_MARKS: Final = frozenset({
    "sl_id", "sl_reason", "sl_detail", "sl_stage", "sl_topic", "sl_partition", "sl_offset", "sl_last_offset",
    "sl_target", "sl_refused",
})  # fmt: skip
_DETAIL: Final = 2_000
_LONGEST_KEY: Final = 256
"""Bytes; a longer key may be what was too large."""


def refused_letter(refusal: Refusal, records: Sequence[Record], partition: int, stage: str, topic: str) -> Output:
    """Wrap a refused output for the dead-letter topic; one that is a dead letter itself gets one without its content.

    Args:
        refusal: the output, and what the broker said.
        records: the batch that led to it; empty when the partition was silent.
        partition: the input partition.
        stage: whose output it is.
        topic: the dead-letter topic.
    """
    output = refusal.output
    if output.topic == topic:
        return bare_letter(refusal)
    marks = {
        # From the content, not from the batch: after a crash the batch may be cut elsewhere.
        "sl_id": _digest(output),
        "sl_reason": "refused",
        "sl_detail": f"{len(output.value or b'')} bytes for topic {output.topic!r}: {refusal.error}"[:_DETAIL],
        "sl_stage": stage,
        "sl_target": output.topic,
        "sl_partition": str(partition),
    }
    if records:
        marks |= {
            "sl_topic": records[0].topic,
            "sl_offset": str(records[0].offset),
            "sl_last_offset": str(records[-1].offset),
        }
    kept = tuple((name, value) for name, value in output.headers if name not in marks)
    return Output(topic, output.key, output.value, kept + _encoded(marks))


def bare_letter(refusal: Refusal) -> Output:
    """Leave a refused dead letter's content out, and a long key; its marks still say what it was and whence."""
    letter = refusal.output
    key = letter.key if len(letter.key or b"") <= _LONGEST_KEY else None
    marks = tuple((name, value) for name, value in letter.headers if name in _MARKS and name != "sl_refused")
    why = f"without its content of {len(letter.value or b'')} bytes: {refusal.error}"[:_DETAIL]
    return Output(letter.topic, key, None, marks + _encoded({"sl_refused": why}))


def _digest(output: Output) -> str:
    place = -1 if output.partition is None else output.partition
    packed = pack(Record(output.topic, place, 0, output.key, output.value, output.headers))
    return blake2b(packed, digest_size=16).hexdigest()


def _encoded(marks: Mapping[str, str]) -> Headers:
    return tuple((name, text.encode(errors="backslashreplace")) for name, text in marks.items())
