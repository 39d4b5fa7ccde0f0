"""Letters about outputs that the broker will never take."""

from __future__ import annotations

from streams.errors import Refused
from streams.publishing import Refusal
from streams.refusals import bare_letter, refused_letter
from streams.stage import Output, Record

REFUSAL = Refusal(Output("alerts", b"shop/credit", b"x" * 10, (("ce_id", b"7"), ("empty", None))), Refused("too large"))
BATCH = tuple(Record("rows", 3, offset, None, None) for offset in (40, 41, 45))


def test_a_letter_holds_the_output_and_names_its_input() -> None:
    """The output is in it as it was; the marks say why, where it was to go, and from which records it came."""
    letter = refused_letter(REFUSAL, BATCH, 3, "detectors", "dead")
    marks = dict(letter.headers)

    assert (letter.topic, letter.key, letter.value) == ("dead", b"shop/credit", b"x" * 10)
    assert letter.headers[:2] == REFUSAL.output.headers
    assert marks.pop("sl_id") == dict(refused_letter(REFUSAL, BATCH[:1], 3, "detectors", "dead").headers)["sl_id"]
    assert {name: value for name, value in marks.items() if name.startswith("sl_")} == {
        "sl_reason": b"refused", "sl_detail": b"10 bytes for topic 'alerts': too large", "sl_stage": b"detectors",
        "sl_target": b"alerts", "sl_topic": b"rows", "sl_partition": b"3", "sl_offset": b"40", "sl_last_offset": b"45",
    }  # fmt: skip


def test_other_outputs_get_other_ids() -> None:
    """Two outputs that differ in anything are two letters."""
    output = REFUSAL.output
    others = [
        Output("other", output.key, output.value, output.headers),
        Output(output.topic, None, output.value, output.headers),
        Output(output.topic, output.key, None, output.headers),
        Output(output.topic, output.key, output.value),
        Output(output.topic, output.key, output.value, output.headers, 0),
    ]
    letters = [refused_letter(Refusal(one, REFUSAL.error), BATCH, 3, "s", "dead") for one in (output, *others)]

    assert len({dict(letter.headers)["sl_id"] for letter in letters}) == len(letters)


def test_silence_has_no_offsets() -> None:
    """What a silent partition led to has a partition, and no record to name."""
    marks = dict(refused_letter(REFUSAL, (), 3, "detectors", "dead").headers)

    assert marks["sl_partition"] == b"3"
    assert {"sl_topic", "sl_offset", "sl_last_offset"}.isdisjoint(marks)


def test_a_refused_letter_loses_its_content_only() -> None:
    """Value and foreign headers go, the marks stay, and one more says what was left out and why."""
    letter = refused_letter(REFUSAL, BATCH, 3, "detectors", "dead")
    bare = bare_letter(Refusal(letter, Refused("too large here, too")))
    marks = dict(bare.headers)

    assert (bare.topic, bare.key, bare.value) == ("dead", b"shop/credit", None)
    assert marks.pop("sl_refused") == b"without its content of 10 bytes: too large here, too"
    assert marks == {name: value for name, value in letter.headers if name.startswith("sl_")}


def test_a_refused_dead_letter_is_not_wrapped_again() -> None:
    """A stage's own dead letter names its input already, and why it is one."""
    own = Output("dead", b"k", b"huge", (("sl_reason", b"unpaired"), ("sl_offset", b"4"), ("x", b"y")))
    letter = refused_letter(Refusal(own, Refused("too large")), BATCH, 3, "assembler", "dead")

    assert letter.value is None
    assert dict(letter.headers) == {
        "sl_reason": b"unpaired", "sl_offset": b"4", "sl_refused": b"without its content of 4 bytes: too large",
    }  # fmt: skip
