"""The standard health service, and reflection, as their clients use them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

from inference.grpc import health, reflection
from tests.inference.grpc.calling import DEADLINE_S, Client, code_of

REQUEST, RESPONSE = (health.MESSAGES.of(f"HealthCheck{name}") for name in ("Request", "Response"))
SERVING, NOT_SERVING, SERVICE_UNKNOWN = 1, 2, 3


def _check(stub: Client, service: str) -> int:
    call = stub.channel.unary_unary(f"/{health.NAME}/Check")
    status: int = RESPONSE.FromString(call(REQUEST(service=service).SerializeToString(), timeout=DEADLINE_S)).status
    return status


@pytest.mark.parametrize("service", ["", "inference.GRPCInferenceService", "m"])
def test_check(iris: Client, service: str) -> None:
    """The server, its service and its model are serving."""
    assert _check(iris, service) == SERVING


def test_unknown_services(iris: Client) -> None:
    """What is not here is NOT_FOUND, as the protocol says."""
    with pytest.raises(grpc.RpcError) as caught:
        _check(iris, "nobody")

    assert code_of(caught.value) is grpc.StatusCode.NOT_FOUND


def test_list(iris: Client) -> None:
    """All are listed."""
    listed = health.MESSAGES.of("HealthListResponse").FromString(
        iris.channel.unary_unary(f"/{health.NAME}/List")(b"", timeout=DEADLINE_S)
    )

    assert {name: said.status for name, said in listed.statuses.items()} == {
        "": SERVING, "inference.GRPCInferenceService": SERVING, "m": SERVING,
    }  # fmt: skip


def test_watch(stub: Client) -> None:
    """A watcher hears of a model at once, and again when it changes; of an unknown one that it is unknown."""
    watch = stub.channel.unary_stream(f"/{health.NAME}/Watch")
    model, nobody = (watch(REQUEST(service=name).SerializeToString(), timeout=DEADLINE_S) for name in ("m", "nobody"))
    said = [RESPONSE.FromString(next(each)).status for each in (model, nobody)]
    stub.call("RepositoryModelUnload", model_name="m")
    said.append(RESPONSE.FromString(next(model)).status)
    stub.call("RepositoryModelLoad", model_name="m")
    said.append(RESPONSE.FromString(next(model)).status)
    model.cancel()
    nobody.cancel()

    assert said == [SERVING, SERVICE_UNKNOWN, NOT_SERVING, SERVING]


def _ask(stub: Client, package: str, *questions: dict[str, Any]) -> Iterator[Any]:
    messages = reflection._REFLECTIONS[package]
    asked, answered = messages.of("ServerReflectionRequest"), messages.of("ServerReflectionResponse")
    call = stub.channel.stream_stream(f"/{package}.ServerReflection/ServerReflectionInfo")
    return map(answered.FromString, call(iter([asked(**each).SerializeToString() for each in questions]), timeout=30))


@pytest.mark.parametrize(
    "symbol", ["GRPCInferenceService.ModelStatistics", "GRPCInferenceService.ModelConfig", "ModelConfig"]
)
def test_reflection_of_triton_s_extensions(iris: Client, symbol: str) -> None:
    """Their methods and messages are found as the protocol's own are."""
    (found,) = _ask(iris, "grpc.reflection.v1", {"file_containing_symbol": f"inference.{symbol}"})

    assert len(found.file_descriptor_response.file_descriptor_proto) == 1


@pytest.mark.parametrize("package", ["grpc.reflection.v1", "grpc.reflection.v1alpha"])
def test_reflection(iris: Client, package: str) -> None:
    """A client that knows no message finds service, methods and messages, and predicts with what it found."""
    listed, described = _ask(
        iris, package, {"list_services": ""}, {"file_containing_symbol": "inference.GRPCInferenceService.ModelInfer"}
    )
    pool = descriptor_pool.DescriptorPool()
    for data in described.file_descriptor_response.file_descriptor_proto:
        pool.Add(descriptor_pb2.FileDescriptorProto.FromString(data))
    method = pool.FindServiceByName("inference.GRPCInferenceService").FindMethodByName("ModelInfer")
    message = message_factory.GetMessageClass(method.input_type)(model_name="m")
    tensor = message.inputs.add(name="input-0", datatype="FP64", shape=[1, 4])
    tensor.contents.fp64_contents.extend([5.0, 3.4, 1.5, 0.2])
    answer = message_factory.GetMessageClass(method.output_type).FromString(
        iris.raw("ModelInfer", message.SerializeToString())
    )

    assert [service.name for service in listed.list_services_response.service] == [
        "grpc.health.v1.Health", "grpc.reflection.v1.ServerReflection", "grpc.reflection.v1alpha.ServerReflection",
        "inference.GRPCInferenceService",
    ]  # fmt: skip
    assert list(answer.outputs[0].contents.int64_contents) == [0]


def test_reflection_of_what_is_not_here(iris: Client) -> None:
    """Unknown symbols and files are errors inside the stream, which goes on."""
    questions = (
        {"file_containing_symbol": "a.B"},
        {"file_by_filename": "no.proto"},
        {"file_by_filename": "inference.proto"},
    )
    *unknown, found = _ask(iris, "grpc.reflection.v1", *questions)

    assert [answer.error_response.error_code for answer in unknown] == [5, 5]
    assert len(found.file_descriptor_response.file_descriptor_proto) == 1
