"""A runtime for tests, named on the command line as code from outside: gives back what it gets, tensors and words.

A text is its prompt's words, `max_tokens` of them, from the first again after the last. Beside the model lies what
became of the latest text: `made` counts its words, `closed` says that nobody wanted more. With the parameter `wait`,
words after the first wait for a file `open`.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from inference.errors import InvalidInput
from inference.runtime import Answer, Arrays, Asked, Runtime, Source

DEADLINE_S = 120.0


class Echo(Runtime):
    """Echoes."""

    platform: ClassVar[str] = "test_echo"

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    @classmethod
    def load(cls, source: Source) -> Self:
        """Take the directory as it is."""
        return cls(source.path)

    def predict(self, inputs: Arrays) -> dict[str, NDArray[Any]]:
        """Give the inputs back."""
        return dict(inputs)

    def answer(self, inputs: Arrays, asked: Asked) -> Answer:
        """Give the inputs back, and what was said of them."""
        return Answer(outputs=inputs, parameters=asked.parameters, output_parameters=asked.inputs)

    def generate(self, prompt: str, parameters: Mapping[str, Any]) -> Iterator[str]:
        """Say the prompt's words."""
        words = prompt.split()
        if not words:
            raise InvalidInput("text_input: expected a word")
        return self._said(words, int(parameters.get("max_tokens", len(words))), wait=bool(parameters.get("wait")))

    def _said(self, words: list[str], count: int, *, wait: bool) -> Iterator[str]:
        made = 0
        try:
            for word in itertools.islice(itertools.cycle(words), count):
                if made and wait:
                    self._wait()
                if word == "fail":
                    raise RuntimeError("the word was fail")
                made += 1
                (self.directory / "made").write_text(str(made))
                yield word
        except GeneratorExit:
            (self.directory / "closed").touch()
            raise

    def _wait(self) -> None:
        until = time.monotonic() + DEADLINE_S
        while not (self.directory / "open").exists():
            if time.monotonic() > until:
                raise TimeoutError("nobody opened")
            time.sleep(0.005)

    @classmethod
    def example(cls, directory: Path) -> dict[str, NDArray[Any]]:
        """Give a row; there is nothing to save."""
        del directory
        return {"input-0": np.ones((1, 2))}
