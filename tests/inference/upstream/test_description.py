"""What the predictor says of its models: kept for a minute, and what fails not at all."""

from __future__ import annotations

import asyncio
import random
from contextlib import closing

import orjson
import pytest

from inference.batching.terms import USUAL, Terms
from inference.errors import PredictorFailed
from inference.upstream.description import Description, Descriptions, described
from inference.upstream.link import Link
from inference.upstream.settings import UpstreamSettings
from tests.inference.upstream.scripted import CLOSE, Scripted, scripted

_NOTHING = Description({}, {})
_ROWS = Description({"x": ("FP32", (-1, 2))}, {"y": ("FP32", (-1,))})
_TEXT = Description({"text_input": ("BYTES", (1,))}, {"text_output": ("BYTES", (-1,))})


@pytest.mark.parametrize(
    ("inputs", "outputs", "makes_text"),
    [
        ([("text_input", "BYTES")], [("text_output", "BYTES")], True),
        ([("n", "INT32"), ("text_input", "BYTES")], [("text_output", "BYTES"), ("logits", "FP32")], True),
        ([("text_input", "INT32")], [("text_output", "BYTES")], False),
        ([("text_input", "BYTES")], [("label", "BYTES")], False),
        ([], [], False),
    ],
)
def test_a_prompt_and_a_text_make_a_model_of_texts(
    inputs: list[tuple[str, str]], outputs: list[tuple[str, str]], *, makes_text: bool
) -> None:
    """By the names and the datatype that every protocol for texts has."""
    found = [
        described([{"name": name, "datatype": datatype, "shape": [1]} for name, datatype in tensors])
        for tensors in (inputs, outputs)
    ]

    assert Description(*found).makes_text == makes_text


def test_a_minute_is_not_asked_anew() -> None:
    """Each model by itself; afterwards the predictor may have another."""
    told = {"a": [_TEXT, _ROWS], "b": [_TEXT]}
    time = [0.0]
    descriptions = Descriptions(lambda model, _head, _left_s: told[model].pop(0), lambda: time[0])
    found = []
    for now in (0.0, 59.0, 61.0):
        time[0] = now
        found.append(descriptions.of("a", {}, 1.0).makes_text)

    assert found == [True, True, False]
    assert descriptions.known("b") is None
    assert descriptions.of("b", {}, 1.0) is descriptions.known("b")


def test_who_says_nothing_is_asked_soon_again() -> None:
    """A transformer may not have reached its own predictor yet, and says so by describing nothing."""
    told, time = [_NOTHING, _NOTHING, _TEXT], [0.0]
    descriptions = Descriptions(lambda _model, _head, _left_s: told.pop(0), lambda: time[0])
    found = []
    for now in (0.0, 0.5, 1.5, 3.0, 60.0):
        time[0] = now
        found.append(descriptions.of("a", {}, 1.0).makes_text)

    assert found == [False, False, False, True, True]


def _link(port: int) -> Link:
    return Link(UpstreamSettings(host="127.0.0.1", port=port), random.Random(0))


def _said(*answers: Scripted) -> tuple[list[bool], list[tuple[str, str | None]]]:
    """Ask as often as there are answers, and once more; give what was said, and what was asked in whose name."""
    terms = Terms(headers={"authorization": "Bearer t"})
    with scripted(*answers) as script, closing(_link(script.port)) as link:
        found = [asyncio.run(link.generates("m", terms)) for _ in range(len(answers) + 1)]
    return found, [(path, head.get("authorization")) for path, head, _ in script.asked]


def test_the_predictor_is_asked_in_the_callers_name() -> None:
    """What fails says no, and is asked again; what is told is kept."""
    tensors = {"inputs": [{"name": "text_input", "datatype": "BYTES", "shape": [1]}]}
    tensors["outputs"] = [{"name": "text_output", "datatype": "BYTES", "shape": [-1]}]
    whole: Scripted = (200, {}, orjson.dumps(tensors))
    odd: list[Scripted] = [(200, {}, body) for body in (b"so", b"[]", b'{"inputs": [{}]}', b'{"inputs": 3}')]
    found, asked = _said(CLOSE, (401, {}, b"{}"), (503, {}, b"{}"), *odd, whole)

    assert found == [False] * 7 + [True] * 2
    assert asked == [("/v2/models/m", "Bearer t")] * 8


def test_odd_descriptions_are_the_predictors_failure() -> None:
    """Where a text has to know them."""
    with scripted((200, {}, b"so")) as script, closing(_link(script.port)) as link:
        with pytest.raises(PredictorFailed, match="gave no V2 metadata"):
            link._wire.descriptions.of("m", {}, 5.0)

        assert not asyncio.run(link.generates("m", USUAL))
