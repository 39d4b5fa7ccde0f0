"""`inference.GRPCInferenceService`: messages in, messages out, thin above the data plane.

Messages arrive as bytes and are parsed here, so that what is no message is the caller's error (INVALID_ARGUMENT) and
not the server's. Next: `inference/grpc/predictions.py`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from functools import partial
from importlib.metadata import version
from typing import Any, Final

from inference.batching.terms import Terms
from inference.catalogue import server_name
from inference.dataplane import DataPlane
from inference.errors import Unsupported
from inference.grpc.callers import terms_of
from inference.grpc.methods import Asked, Method, Unary, of_service
from inference.grpc.predictions import Predictions
from inference.grpc.statuses import Refused
from inference.http2.status import Code
from inference.pool import ComputePool
from inference.protocol.grpc_messages import MESSAGES, SERVICE
from inference.protocol.grpc_schema import parsed
from inference.repository import State
from inference.settings import Dialect
from inference.statistics import Said

Look = Callable[[Any], Mapping[str, Any]]
"""A message in, the fields of the answer out."""

_EXTENSIONS: Final = (
    "model_repository_extension", "model_repository", "classification", "statistics", "model_configuration",
)  # fmt: skip
"""The first is KServe's word, the second Triton's for the same."""


class Service:
    """The methods over one data plane."""

    def __init__(self, plane: DataPlane, manage: ComputePool) -> None:
        self._plane = plane
        self._manage = manage
        self._predictions = Predictions(plane)
        self._server = {"name": server_name(plane.dialect), "version": version("sidelight"), "extensions": _EXTENSIONS}

    def methods(self) -> dict[bytes, Method]:
        """Give the methods."""
        looks: dict[str, Look] = {
            "ServerLive": lambda _: {"live": True},
            "ServerReady": lambda _: {"ready": self._plane.ready()},
            "ModelReady": self._model_ready,
            "ServerMetadata": lambda _: self._server,
        }
        slow: dict[str, Look] = {
            "RepositoryModelLoad": self._load,
            "RepositoryModelUnload": self._unload,
            "RepositoryIndex": self._index,
        }
        unary: dict[str, Unary] = {"ModelInfer": self._predictions.unary}
        unary |= {name: _method(name, work, None) for name, work in looks.items()}
        unary |= {name: _method(name, work, self._manage) for name, work in slow.items()}
        unary["ModelMetadata"] = _describing("ModelMetadata", self._plane.described)
        unary["ModelConfig"] = _describing("ModelConfig", self._configured)
        unary["ModelStatistics"] = self._statistics
        return of_service(SERVICE, unary, {"ModelStreamInfer": self._predictions.stream})

    def _model_ready(self, message: Any) -> Mapping[str, Any]:  # noqa: ANN401 - messages are made at run time
        return {"ready": self._plane.model_ready(message.name, message.version or None)}

    async def _configured(self, model: str, number: str | None, terms: Terms) -> Mapping[str, Any]:
        return {"config": await self._plane.configured(model, number, terms)}

    async def _statistics(self, data: bytes, _asked: Asked) -> bytes:
        message = parsed(MESSAGES.of("ModelStatisticsRequest"), data)
        return await self._plane.statistics(_written, message.name or None, message.version or None)

    def _load(self, message: Any) -> Mapping[str, Any]:  # noqa: ANN401 - messages are made at run time
        model = _named(message)
        parameters = {
            name: getattr(each, each.WhichOneof("parameter_choice") or "string_param")
            for name, each in message.parameters.items()
        }
        try:
            self._plane.load(model, parameters)
        except Unsupported as exc:
            if self._plane.dialect is Dialect.TRITON:
                # Its status for whatever is wrong with a load.
                raise Refused(Code.INTERNAL, str(exc)) from exc
            raise
        return {"model_name": model, "isLoaded": True}

    def _unload(self, message: Any) -> Mapping[str, Any]:  # noqa: ANN401 - messages are made at run time
        model = _named(message)
        self._plane.unload(model)
        return {"model_name": model, "isUnloaded": True}

    def _index(self, message: Any) -> Mapping[str, Any]:  # noqa: ANN401 - messages are made at run time
        entries = [entry for entry in self._plane.index() if entry.state is State.READY or not message.ready]
        return {
            "models": [
                {"name": each.name, "version": each.version or "", "state": each.state.value, "reason": each.reason}
                for each in entries
            ]
        }


def _written(told: Iterable[Said]) -> bytes:
    # Messages behind each other are one, with the elements of all.
    answered = MESSAGES.of("ModelStatisticsResponse")
    return b"".join(answered(model_stats=[each]).SerializeToString() for each in told)


def _named(message: Any) -> str:  # noqa: ANN401 - messages are made at run time
    # Triton's field 1 is a repository; where it is KServe's, field 2 is absent.
    name: str = message.name_in_repository or message.model_name
    return name


def _describing(name: str, describe: Callable[[str, str | None, Terms], Awaitable[Mapping[str, Any]]]) -> Unary:
    """Make a unary method of what describes a model, which may be loaded for it first."""
    asked, answered = MESSAGES.of(f"{name}Request"), MESSAGES.of(f"{name}Response")

    async def handle(data: bytes, asking: Asked) -> bytes:
        message = parsed(asked, data)
        fields = await describe(message.name, message.version or None, terms_of(asking, len(data)))
        answer: bytes = answered(**fields).SerializeToString()
        return answer

    return handle


def _method(name: str, work: Look, pool: ComputePool | None) -> Unary:
    """Make a unary method of a function; with a pool, of one that takes its time."""
    asked, answered = MESSAGES.of(f"{name}Request"), MESSAGES.of(f"{name}Response")

    async def handle(data: bytes, _asked: Asked) -> bytes:
        message = parsed(asked, data)
        fields = work(message) if pool is None else await pool.run(partial(work, message))
        answer: bytes = answered(**fields).SerializeToString()
        return answer

    return handle
