"""The dead letter: a record that nothing can read, kept as it was, with the reason beside it in `sl_` headers."""

from __future__ import annotations

from streams.events import stable_id
from streams.stage import Output, Record


def dead_letter(record: Record, reason: str, detail: str, stage: str, topic: str) -> Output:
    """Wrap a record for the dead-letter topic.

    Key, value and headers stay as they were. `sl_id` depends on the record's place alone, so a letter that is sent
    twice after a crash is recognisable.

    Args:
        record: what could not be read.
        reason: a short word from the stage's closed list.
        detail: what and where, for a person.
        stage: who gave up on it.
        topic: the dead-letter topic.
    """
    marks = {
        "sl_id": stable_id(record.topic, record.partition, record.offset),
        "sl_reason": reason,
        "sl_detail": detail[:2_000],
        "sl_stage": stage,
        "sl_topic": record.topic,
        "sl_partition": str(record.partition),
        "sl_offset": str(record.offset),
    }
    kept = tuple((name, value) for name, value in record.headers if name not in marks)
    # A detail may quote what is no Unicode; the letter has to go all the same.
    told = tuple((name, text.encode(errors="backslashreplace")) for name, text in marks.items())
    return Output(topic, record.key, record.value, kept + told)
