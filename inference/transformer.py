"""Pre- and postprocessing around a model: a class whose `preprocess` runs before the prediction, `postprocess` after.

One class, two places: beside the model's file, around the model in one process; or in a process of its own, in front
of a predictor on the network (KServe's transformer). docs/transformers.md says what the class has and gets. Next:
`inference/upstream/link.py`, or the model's own runtime.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar, Final, Protocol, Self

from numpy.typing import NDArray

from inference.batching.caller import caller
from inference.batching.terms import Terms
from inference.errors import ModelLoadFailed, PredictionFailed
from inference.modelcode import ModelCode
from inference.runtime import Answer, Arrays, Asked, Runtime, Source, TensorSpec, iris
from inference.settings import TransformerSettings
from inference.steps import Step, arrays, checked
from inference.texts import fitted
from inference.upstream.link import Link
from inference.userobject import UserObject

_NOTHING: Final[Mapping[str, Any]] = MappingProxyType({})
_DEFAULT: Final = TransformerSettings(name="transformer:Transformer")
_INPUT: Final = "input-0"
_EXAMPLE: Final = '''\
"""Takes measurements in millimetres for a model that was trained on centimetres."""


class Transformer:
    """Divides."""

    def preprocess(self, inputs):
        return {name: rows / 10 for name, rows in inputs.items()}
'''


class Behind(Protocol):
    """What predicts behind a transformer."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    features: tuple[str, ...]
    takes_bytes: bool

    def answer(self, inputs: Arrays, asked: Asked) -> Answer:
        """Predict; on a worker thread."""
        ...

    async def answer_async(self, inputs: Arrays, asked: Asked) -> Answer:
        """Predict, for a coroutine."""
        ...


class Predictor:
    """What a transformer's class finds as `self.predictor`: the model, wherever it is."""

    def __init__(self, behind: Behind, *, takes_bytes: bool = False) -> None:
        self._behind, self._takes_bytes = behind, takes_bytes
        self._input = behind.inputs[0].name if len(behind.inputs) == 1 else _INPUT

    def infer(self, inputs: Any, parameters: Mapping[str, Any] = _NOTHING) -> dict[str, NDArray[Any]]:  # noqa: ANN401 - arrays by name, or one array
        """Predict on arrays by name, or on one array. For methods that are no coroutines."""
        return self._told(self._behind.answer(arrays(inputs, self._input), Asked(parameters=parameters)))

    async def infer_async(self, inputs: Any, parameters: Mapping[str, Any] = _NOTHING) -> dict[str, NDArray[Any]]:  # noqa: ANN401 - as above
        """Do the same for coroutines; several may be awaited at once."""
        return self._told(await self._behind.answer_async(arrays(inputs, self._input), Asked(parameters=parameters)))

    def _told(self, answer: Answer) -> dict[str, NDArray[Any]]:
        return dict(fitted(answer.outputs, as_bytes=True) if self._takes_bytes else answer.outputs)


class Transformer(Runtime):
    """One instance of the class, and what it stands in front of."""

    runs_code: ClassVar[bool] = True

    def __init__(self, code: ModelCode, source: Source, spec: TransformerSettings) -> None:
        behind = source.behind
        if behind is None:
            raise ModelLoadFailed(f"{code.where}: a transformer stands around a model, or before a --predictor_host")
        self._link = behind if isinstance(behind, Link) else None
        self._inner = None if isinstance(behind, Link) else behind
        # To be held around whatever the model does: this runtime may be called from several threads.
        self._inner_turn = nullcontext() if self._inner is None or self._inner.thread_safe else threading.Lock()
        self._behind: Behind = _Remote(behind) if isinstance(behind, Link) else _Local(behind, self._inner_turn)
        self.platform = self._inner.platform if self._inner else "python_transformer"  # type: ignore[misc] # one class, two places
        self.forwards = self._link is not None
        self.device_bytes, self.devices = (self._inner.device_bytes, self._inner.devices) if self._inner else (0, ())
        self._object = UserObject(code, spec.arguments, "transformer")
        self._output_name = source.settings.output_name
        found = map(self._object.step, ("preprocess", "predict", "postprocess"))
        self._preprocess, self._predict, self._postprocess = found
        if not any((self._preprocess, self._predict, self._postprocess)):
            raise ModelLoadFailed(f"{code.where}: expected preprocess(self, inputs) or postprocess(self, inputs)")
        # Plain methods take turns, the predictions between them do not: a call may wait for the network there.
        self._turn = nullcontext() if self._object.attribute("thread_safe") else threading.Lock()
        self.max_batch = int(self._object.attribute("max_batch", 1))
        self._describe(source)

    @classmethod
    def load(cls, source: Source) -> Self:
        """Import the class, build an instance and have it load."""
        spec = source.settings.transformer or _DEFAULT
        code = ModelCode(spec.name, source)
        try:
            runtime = cls(code, source, spec)
            runtime._object.load(predictor=Predictor(runtime._behind, takes_bytes=runtime._wants_bytes))
        except BaseException:
            code.forget()
            raise
        return runtime

    def predict(self, inputs: Arrays) -> dict[str, NDArray[Any]]:
        """Go through the steps."""
        return dict(self.answer(inputs, Asked()).outputs)

    def answer(self, inputs: Arrays, asked: Asked) -> Answer:
        """Do the same for a call that says more than its data."""
        only, value = self._prepared(inputs, asked)
        if self._predict is not None:
            return Answer(outputs=self._finished(self._run(self._predict, value, asked), asked))
        answer = self._behind.answer(arrays(value, only), self._passed_on(asked))
        if self._postprocess is None:
            return answer
        given = fitted(answer.outputs, as_bytes=True) if self._wants_bytes else answer.outputs
        outputs = self._finished(dict(given), asked)
        kept = {name: given for name, given in answer.output_parameters.items() if name in outputs}
        return replace(answer, outputs=outputs, output_parameters=kept)

    def lost(self) -> str:
        """Say what the model around which it stands says."""
        return self._inner.lost() if self._inner else ""

    def generate(self, prompt: str, parameters: Mapping[str, Any]) -> Iterator[str]:
        """Leave it to the model, wherever it is."""
        if self._link is not None:
            return self._link.generate(_model(), prompt, parameters)
        if self._inner is None:
            return super().generate(prompt, parameters)
        return self._generated(self._inner, prompt, parameters)

    def generates(self) -> bool:
        """Say whether the model is here and makes text."""
        return self._inner is not None and self._inner.generates()

    async def generates_behind(self, model: str, terms: Terms) -> bool:
        """Ask the predictor."""
        return self._link is not None and await self._link.generates(model, terms)

    def explain(self, inputs: Arrays, parameters: Mapping[str, Any]) -> Mapping[str, Any]:
        """Leave it to the model, where it is here; it gets what it would predict on."""
        if self._inner is None:
            return super().explain(inputs, parameters)
        only, value = self._prepared(inputs, Asked(parameters=parameters))
        given = fitted(arrays(value, only), as_bytes=self._inner.takes_bytes)
        with self._inner_turn:
            return self._inner.explain(given, parameters)

    def explains(self) -> bool:
        """Say whether the model is here and explains itself."""
        return self._inner is not None and self._inner.explains()

    def ready(self, model: str) -> bool:
        """Say whether what is behind is ready."""
        return self._link.ready(model) if self._link else self._inner is None or self._inner.ready(model)

    def unload(self) -> None:
        """Have the class let go of what it holds, and the model, too."""
        try:
            self._object.unload()
        finally:
            if self._inner is not None:
                self._inner.unload()

    @classmethod
    def example(cls, directory: Path) -> dict[str, NDArray[Any]]:
        """Save a class that turns millimetres into centimetres."""
        (directory / "transformer.py").write_text(_EXAMPLE)
        return {"measurements": iris()[0] * 10}

    def _generated(self, inner: Runtime, prompt: str, parameters: Mapping[str, Any]) -> Iterator[str]:
        with self._inner_turn:
            yield from inner.generate(prompt, parameters)

    def _describe(self, source: Source) -> None:
        self.inputs, self.outputs, self._signature = self._object.described(source)
        self.takes_bytes = self._wants_bytes = bool(self._object.attribute("takes_bytes"))
        # What no step changes is as the model has it.
        if self._preprocess is None and self._predict is None:
            self.inputs, self.features = self.inputs or self._behind.inputs, self._behind.features
            self.takes_bytes = self._behind.takes_bytes
        if self._postprocess is None and self._predict is None:
            self.outputs = self.outputs or self._behind.outputs

    def _prepared(self, inputs: Arrays, asked: Asked) -> tuple[str, Any]:
        """Preprocess; give what came of it, and a name for it, should it have none."""
        value: Any = checked(inputs) if self._signature is None else self._signature.fit(inputs)
        return next(iter(inputs)) if len(inputs) == 1 else _INPUT, self._run(self._preprocess, value, asked)

    def _passed_on(self, asked: Asked) -> Asked:
        inputs = asked.inputs if self._preprocess is None else _NOTHING
        # Which outputs are wanted is said of those that postprocess gives.
        outputs = asked.outputs if self._postprocess is None and self._inner is not None else _NOTHING
        return replace(asked, inputs=inputs, outputs=outputs)

    def _finished(self, value: Any, asked: Asked) -> dict[str, NDArray[Any]]:  # noqa: ANN401 - whatever the class gives
        return arrays(self._run(self._postprocess, value, asked), self._output_name)

    def _run(self, each: Step | None, value: Any, asked: Asked) -> Any:  # noqa: ANN401 - whatever the class gives
        if each is None:
            return value
        return self._object.run(each, value, asked.parameters, nullcontext() if each.asynchronous else self._turn)


class _Local:
    """The model in this process."""

    def __init__(self, runtime: Runtime, turn: AbstractContextManager[Any]) -> None:
        self._runtime, self._turn = runtime, turn
        self.inputs, self.outputs, self.features = runtime.inputs, runtime.outputs, runtime.features
        self.takes_bytes = runtime.takes_bytes

    def answer(self, inputs: Arrays, asked: Asked) -> Answer:
        inputs = fitted(inputs, as_bytes=self._runtime.takes_bytes)
        with self._turn:
            return self._runtime.answer(inputs, asked)

    async def answer_async(self, inputs: Arrays, asked: Asked) -> Answer:
        return await asyncio.to_thread(self.answer, inputs, asked)


class _Remote:
    """The predictor behind a link. The model's name there is the one that was asked for here."""

    inputs: tuple[TensorSpec, ...] = ()
    outputs: tuple[TensorSpec, ...] = ()
    features: tuple[str, ...] = ()
    takes_bytes: bool = True
    """Which of its inputs are text the predictor knows."""

    def __init__(self, link: Link) -> None:
        self._link = link

    def answer(self, inputs: Arrays, asked: Asked) -> Answer:
        return self._link.infer(_model(), inputs, asked.parameters)

    async def answer_async(self, inputs: Arrays, asked: Asked) -> Answer:
        return await self._link.infer_async(_model(), inputs, asked.parameters)


def _model() -> str:
    asking = caller()
    if asking is None:
        raise PredictionFailed("the predictor can be asked only while a call is answered")
    return asking.model
