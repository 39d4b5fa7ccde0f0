"""One instance of a user's class, from its import to its unload, and the loop on which its coroutines run.

What `inference/runtimes/custom.py` and `inference/transformer.py` have in common; which methods there are and what they
give is in `inference/steps.py`.
"""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from inference import options
from inference.coroutines import LoopThread
from inference.errors import InferenceError, InvalidInput, ModelLoadFailed
from inference.modelcode import ModelCode
from inference.runtime import Source, TensorSpec
from inference.signature import Signature, Wanted
from inference.steps import Step, step, takes


class UserObject:
    """The instance. Its methods run on the caller's thread, its coroutines on a loop of their own.

    Args:
        code: the class.
        arguments: by keyword, of the class.
        thread: name of the loop's thread.
    """

    def __init__(self, code: ModelCode, arguments: Mapping[str, Any], thread: str) -> None:
        self.code, self.instance = code, code.build(dict(arguments))
        self._loop = LoopThread(f"{thread}-{code.kind.__name__}")

    def attribute(self, name: str, default: Any = None) -> Any:  # noqa: ANN401 - the user's
        """Give what the instance says about itself."""
        return getattr(self.instance, name, default)

    def step(self, name: str) -> Step | None:
        """Give a method; see `inference.steps.step`."""
        return step(self.instance, name, self.code.where)

    def described(self, source: Source) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...], Signature | None]:
        """Give the inputs and outputs that the class declares, and what fits calls to the inputs, if it does."""
        inputs = options.specs(tuple(self.attribute("inputs", ())), f"{self.code.where}.inputs")
        outputs = options.specs(tuple(self.attribute("outputs", ())), f"{self.code.where}.outputs")
        wanted = [Wanted(spec.name, spec.datatype, spec.shape) for spec in inputs]
        return inputs, outputs, Signature(wanted, source.settings) if wanted else None

    def load(self, **given: object) -> None:
        """Set what the instance is given, then call its `load`, if it has one.

        Raises:
            ModelLoadFailed: it cannot be called, or fails; the loop is closed then.
        """
        where = f"{self.code.where}.load"
        try:
            for name, value in given.items():
                setattr(self.instance, name, value)
            load = self.attribute("load")
            if load is not None:
                keywords = {"directory": self.code.directory} if takes(load, 0, "directory", where) else {}
                self._result(load(**keywords))
        except BaseException as exc:
            self._loop.close()
            if isinstance(exc, (ModelLoadFailed, KeyboardInterrupt)):
                raise
            raise ModelLoadFailed(f"{where}: {type(exc).__name__}: {exc}") from exc

    def run(
        self, each: Step, value: Any, parameters: Mapping[str, Any],  # noqa: ANN401 - whatever the class takes
        turn: AbstractContextManager[Any] = nullcontext(),  # noqa: B008 - holds nothing
    ) -> Any:  # noqa: ANN401 - whatever the class gives  # fmt: skip
        """Call a method and wait for its result.

        Args:
            each: the method.
            value: its inputs.
            parameters: the request's, for a method that takes them.
            turn: held while it runs.

        Raises:
            InvalidInput: the class cannot make sense of the inputs; or whatever else it raises.
        """
        keywords = {"parameters": parameters} if each.parameters else {}
        try:
            with turn:
                return self._result(each.method(value, **keywords))
        except InferenceError:
            raise
        except ValueError as exc:
            if each.name != "preprocess":
                raise
            # What the class cannot make sense of before there is a prediction is the caller's mistake.
            raise InvalidInput(f"inputs: {exc}") from exc

    def pieces(self, given: Any) -> Iterator[Any]:  # noqa: ANN401 - plain or asynchronous
        """Go through what a generator of the class gives."""
        return self._loop.each(given) if isinstance(given, AsyncIterator) else iter(given)

    def unload(self) -> None:
        """Have the instance let go of what it holds, and forget its modules."""
        unload = self.attribute("unload")
        try:
            if unload is not None:
                self._result(unload())
        finally:
            self._loop.close()
            self.code.forget()

    def _result(self, value: Any) -> Any:  # noqa: ANN401 - whatever the class gives
        return self._loop.run(value) if inspect.isawaitable(value) else value
