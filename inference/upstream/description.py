"""What the predictor says of a model: which tensors it takes and gives, and so whether it makes text."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from inference.protocol.datatypes import BYTES
from inference.protocol.generate import OUTPUT, PROMPT, Form

_KEPT_S: Final = 60.0
_EMPTY_S: Final = 1.0
"""For what says nothing: a transformer does so of its model as long as it cannot reach that."""


@dataclass(frozen=True, slots=True)
class Description:
    """Tensors by name."""

    inputs: Mapping[str, Form]
    outputs: Mapping[str, Form]

    @property
    def makes_text(self) -> bool:
        """Say whether it takes a prompt and gives a text, as they are called everywhere."""
        prompt, text = self.inputs.get(PROMPT), self.outputs.get(OUTPUT)
        return prompt is not None and text is not None and prompt[0] == text[0] == BYTES


NOTHING: Final = Description({}, {})


def described(tensors: Any) -> dict[str, Form]:  # noqa: ANN401 - JSON
    """Read a list of V2's metadata.

    Raises:
        KeyError, TypeError, ValueError: it is none.
    """
    return {each["name"]: (str(each["datatype"]), tuple(map(int, each["shape"]))) for each in tensors}


class Descriptions:
    """Asks once a minute, or soon again where nothing was said. Thread-safe.

    Args:
        ask: gives what the predictor says of a model, in its caller's name and in so many seconds. What it raises is
            passed on, and not remembered.
        clock: gives seconds.
    """

    def __init__(
        self,
        ask: Callable[[str, Mapping[str, str], float], Description],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._ask, self._clock = ask, clock
        self._kept: dict[str, tuple[float, Description]] = {}

    def of(self, model: str, head: Mapping[str, str], left_s: float) -> Description:
        """Give a model's description."""
        found = self.known(model)
        if found is None:
            found = self._ask(model, head, left_s)
            kept_s = _KEPT_S if found.inputs or found.outputs else _EMPTY_S
            self._kept[model] = (self._clock() + kept_s, found)
        return found

    def known(self, model: str) -> Description | None:
        """Give it if nobody has to be asked."""
        until, found = self._kept.get(model, (-math.inf, None))
        return found if self._clock() < until else None
