"""The data plane: what every transport (REST, gRPC, CloudEvents, Kafka) calls, and what knows none of them.

Each call goes through the batcher, which joins it with others. Transports with an event loop await; those with threads
of their own block. What is served: `inference/catalogue.py`. Next: `inference/batching/batcher.py`, then a runtime.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping
from functools import partial
from typing import Any, TypeVar

from inference.batching.batcher import Batcher
from inference.batching.call import Call, Given
from inference.batching.streaming import Stream
from inference.batching.terms import USUAL, Terms
from inference.batching.waiting import Gone
from inference.catalogue import Catalogue
from inference.metrics import PredictorMetrics
from inference.protocol.v1 import V1Request
from inference.protocol.v2 import InferRequest, InferResponse
from inference.repository import Loaded, Repository, Wanted
from inference.runtime import Answer
from inference.settings import ServerSettings
from inference.shadows import Copy, Shadows, V1Copy, V2Copy
from inference.siblings import Siblings
from inference.tracing import Tracing
from inference.work import V1Work, V2Work

T = TypeVar("T")

_DEFAULTS = ServerSettings()


class DataPlane(Catalogue):
    """Has the models predict, explain themselves and make text."""

    def __init__(
        self,
        repository: Repository,
        metrics: PredictorMetrics,
        settings: ServerSettings = _DEFAULTS,
        enter: Callable[[], None] | None = None,
        siblings: Siblings | None = None,
    ) -> None:
        """Begin.

        Args:
            repository: the models.
            metrics: the process's.
            settings: how many threads there are, and how much may wait for them.
            enter: called in each worker thread before its first call, which is after the models were loaded.
            siblings: the other processes that serve the same models on the same ports.
        """
        super().__init__(repository, siblings, depends=settings.depends, patience_s=settings.timeout_s)
        self.dialect = settings.dialect
        self.tracing: Tracing | None = None
        """Where calls are recorded, if anywhere."""
        self.metrics = metrics
        self.batcher = Batcher(
            repository, metrics, threads=settings.threads, queue=settings.queue, queue_bytes=settings.queue_bytes,
            timeout_s=settings.timeout_s, yielding_every=settings.yielding_every, enter=enter,
        )  # fmt: skip
        self.shadows = Shadows(self.batcher, metrics, settings.timeout_s)

    def infer(
        self, model: str, request: InferRequest, version: str | None = None, terms: Terms = USUAL
    ) -> InferResponse:
        """Answer a V2 request; for callers with a thread of their own.

        Raises:
            ModelNotFound, ModelNotReady: see `inference/repository.py`.
            InvalidInput: tensors that do not fit the model, or an output that it does not have.
            PredictionFailed: the model itself failed.
            Overloaded: too much is waiting; its `retry_after_s` says when to come again.
            DeadlineExceeded: not done in time.
        """
        return self.infer_later(model, request, version, terms)()

    def infer_later(
        self, model: str, request: InferRequest, version: str | None = None, terms: Terms = USUAL
    ) -> Callable[[], InferResponse]:
        """Begin to answer a V2 request; what it gives waits for the answer. Both raise what `infer` raises."""
        return self._begun(*self._v2(model, lambda: request, lambda response, _: response, version, terms))

    async def infer_async(
        self, model: str, request: InferRequest, version: str | None = None, terms: Terms = USUAL
    ) -> InferResponse:
        """Answer a V2 request from an event loop; cancelled, the call leaves the queue. Raises what `infer` raises."""
        return await self.answer_async(model, lambda: request, lambda response, _request: response, version, terms)

    async def answer_async(
        self,
        model: str,
        decode: Callable[[], InferRequest],
        encode: Callable[[InferResponse, InferRequest], T],
        version: str | None = None,
        terms: Terms = USUAL,
        gone: Gone | None = None,
    ) -> T:
        """Do the same for a request that is yet to be read: `decode` and `encode` run on the worker thread.

        Args:
            model: its name.
            decode: gives the request.
            encode: takes the response and the request, gives whatever this call is to give.
            version: of the model, or an alias; None: as the model's rollout says.
            terms: of the caller.
            gone: returns when the client has gone away, for transports that do not cancel.
        """
        call, wanted = self._v2(model, decode, encode, version, terms)
        answer: T = await self._awaited(call, wanted, gone)
        return answer

    def predict_v1_later(self, model: str, request: V1Request, terms: Terms = USUAL) -> Callable[[], list[Any]]:
        """Begin to answer a V1 request, with one prediction per instance; see `infer_later`."""
        return self._begun(*self._v1(model, lambda: request, lambda predictions, _version: predictions, terms))

    async def answer_v1_async(
        self,
        model: str,
        decode: Callable[[], V1Request],
        encode: Callable[[list[Any], str], T],
        terms: Terms = USUAL,
        gone: Gone | None = None,
    ) -> T:
        """Answer a V1 request; `encode` takes the predictions and the version that made them. See `answer_async`."""
        call, version = self._v1(model, decode, encode, terms)
        answer: T = await self._awaited(call, version, gone)
        return answer

    async def explain_v1_async(
        self,
        model: str,
        decode: Callable[[], V1Request],
        encode: Callable[[Mapping[str, Any], str], T],
        terms: Terms = USUAL,
        gone: Gone | None = None,
    ) -> T:
        """Have a model that explains itself answer a V1 explain call; see `answer_v1_async`.

        Raises:
            Unsupported: the model does not explain itself.
        """
        return await self._explained(model, V1Work(decode, encode).explained, None, terms, gone)

    async def explain_async(
        self,
        model: str,
        decode: Callable[[], InferRequest],
        encode: Callable[[InferResponse, InferRequest], T],
        version: str | None = None,
        terms: Terms = USUAL,
        gone: Gone | None = None,
    ) -> T:
        """Do the same for a V2 call; see `answer_async`."""
        return await self._explained(model, V2Work(model, decode, encode).explained, version, terms, gone)

    async def generate_async(
        self,
        model: str,
        prompt: str,
        parameters: Mapping[str, Any],
        version: str | None = None,
        terms: Terms = USUAL,
        chosen: Callable[[str], None] = lambda _version: None,
    ) -> AsyncGenerator[str, None]:
        """Have a model that makes text answer piece by piece. Raises, at the first piece, what `infer` raises.

        Closed or cancelled, the model stops after the piece that it is at. A reader who is slow holds it up. `chosen`
        is told which version makes the text, before the first piece, on another thread.

        Raises:
            Unsupported: the model makes no text.
        """

        def begin(loaded: Loaded) -> Iterator[str]:
            text = loaded.runtime.generate(prompt, parameters)
            # One that comes from another server may say which version makes it there.
            chosen(getattr(text, "version", "") or loaded.version)
            return text

        stream = Stream(begin, self.batcher.timeout_s)
        async with contextlib.aclosing(self._streamed(stream, model, version, terms)) as pieces:
            async for piece in pieces:
                yield piece

    async def stream_async(
        self,
        model: str,
        decode: Callable[[], InferRequest],
        encode: Callable[[InferResponse, InferRequest], T],
        version: str | None = None,
        terms: Terms = USUAL,
    ) -> AsyncGenerator[T, None]:
        """Have a model that gives several answers to a call give them; see `generate_async`, and `answer_async`.

        Raises:
            Unsupported: the model gives one.
        """
        work = V2Work(model, decode, encode)
        stream: Stream[T] = Stream(work.streamed, self.batcher.timeout_s)
        async with contextlib.aclosing(self._streamed(stream, model, version, terms)) as answers:
            async for answer in answers:
                yield answer

    async def _streamed(
        self, stream: Stream[T], model: str, version: str | None, terms: Terms
    ) -> AsyncGenerator[T, None]:
        call = self._call(model, terms, alone=stream.produce)
        wanted = self._version(model, version, terms)
        async with contextlib.aclosing(stream.pieces(self._awaited(call, wanted, None))) as pieces:
            async for piece in pieces:
                yield piece

    def close(self) -> None:
        """Drop what waits. Called once nobody asks any more."""
        self.batcher.close()
        self._tally.close()
        if self.tracing is not None:
            self.tracing.close()

    async def _awaited(self, call: Call, version: Wanted, gone: Gone | None) -> Any:  # noqa: ANN401 - see `_v2`
        if self.tracing is None:
            return await self.batcher.run(call, version, gone)
        try:
            answer = await self.batcher.run(call, version, gone)
        except BaseException as exc:
            self.tracing.record(call, exc)
            raise
        self.tracing.record(call)
        return answer

    def _begun(self, call: Call, version: Wanted) -> Callable[[], Any]:
        try:
            self.batcher.begin(call, version)
        except BaseException as exc:
            self._record(call, exc)
            raise
        return partial(self._ended, call)

    def _ended(self, call: Call) -> Any:  # noqa: ANN401 - see `_v2`
        try:
            answer = self.batcher.wait(call)
        except BaseException as exc:
            self._record(call, exc)
            raise
        self._record(call)
        return answer

    def _record(self, call: Call, error: BaseException | None = None) -> None:
        if self.tracing is not None:
            self.tracing.record(call, error)

    def _v2(
        self,
        model: str,
        decode: Callable[[], InferRequest],
        encode: Callable[[InferResponse, InferRequest], Any],
        version: str | None,
        terms: Terms,
    ) -> tuple[Call, Wanted]:
        work = V2Work(model, decode, encode)
        wanted = self._version(model, version, terms, partial(V2Copy, model, decode))
        return self._call(model, terms, work.given, work.finish), wanted

    def _v1(
        self,
        model: str,
        decode: Callable[[], V1Request],
        encode: Callable[[list[Any], str], Any],
        terms: Terms,
    ) -> tuple[Call, Wanted]:
        work = V1Work(decode, encode)
        wanted = self._version(model, None, terms, partial(V1Copy, decode))
        return self._call(model, terms, work.given, work.finish), wanted

    async def _explained(
        self, model: str, explained: Callable[[Loaded], T], version: str | None, terms: Terms, gone: Gone | None
    ) -> T:
        wanted = self._version(model, version, terms)
        answer: T = await self._awaited(self._call(model, terms, alone=explained), wanted, gone)
        return answer

    def _call(
        self,
        model: str,
        terms: Terms,
        decode: Callable[[], Given] | None = None,
        finish: Callable[[Answer, Loaded], Any] | None = None,
        *,
        alone: Callable[[Loaded], Any] | None = None,
    ) -> Call:
        return Call(model, decode, finish, alone=alone, terms=terms, timeout_s=self.batcher.timeout_s)

    def _version(self, model: str, version: str | None, terms: Terms, copy: Callable[[], Copy] | None = None) -> Wanted:
        """Ask the model's rollout who answers, and send the shadows their copies.

        Where its files are yet to be read, that is left to a thread that loads: an event loop has other calls.
        """
        if self._repository.known(model):
            return self._chosen(model, version, terms, copy)
        return partial(self._chosen, model, version, terms, copy)

    def _chosen(self, model: str, version: str | None, terms: Terms, copy: Callable[[], Copy] | None) -> str | None:
        choice = self._repository.choose(model, version, terms.key, terms.headers)
        if copy is not None and choice.shadows:
            self.shadows.send(model, choice.shadows, terms, copy)
        return choice.version
