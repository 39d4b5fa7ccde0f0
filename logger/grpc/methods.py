"""Which gRPC methods are logged. Pure."""

from __future__ import annotations

from typing import Final

SERVICE: Final = "/inference.GRPCInferenceService/"
INFER: Final = SERVICE + "ModelInfer"
STREAM: Final = SERVICE + "ModelStreamInfer"
INFERENCE: Final = frozenset({INFER, STREAM})
"""Open Inference Protocol; the second is Triton's."""
# Probes and metadata are no calls for a model's answer.
_NEVER: Final = frozenset({
    *(SERVICE + name for name in ("ServerLive", "ServerReady", "ModelReady", "ServerMetadata", "ModelMetadata")),
    "/grpc.health.v1.Health/Check", "/grpc.health.v1.Health/Watch", "/grpc.health.v1.Health/List",
    "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
})  # fmt: skip


def logged(path: str, *, others: bool) -> bool:
    """Tell whether a call is logged; `others` adds what is neither an inference, nor a probe, nor metadata."""
    return path in INFERENCE or (others and path not in _NEVER)
