"""Messages drawn from the protocol's tables, bent and broken: the caller's status, never UNKNOWN or INTERNAL."""

from __future__ import annotations

from typing import Any, Final

import grpc
import pytest
from h2.events import ResponseReceived, StreamEnded, TrailersReceived
from hypothesis import given, settings
from hypothesis import strategies as st

from inference.protocol.grpc_messages import MESSAGES, ModelInferRequest, ModelStreamInferResponse
from tests.inference.grpc.calling import Client, code_of
from tests.inference.serving import Server
from tests.logger.grpc.raw import client as peer

KINDS: Final = {
    "bool": st.booleans(), "int": st.integers(-(2**31), 2**31 - 1), "int64": st.integers(-(2**63), 2**63 - 1),
    "uint": st.integers(0, 2**32 - 1), "uint64": st.integers(0, 2**64 - 1), "fp32": st.floats(width=32),
    "fp64": st.floats(), "bytes": st.binary(max_size=4),
}  # fmt: skip
DATATYPES: Final = (
    "BOOL", "UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64", "FP16", "BF16", "FP32", "FP64",
    "BYTES", "FP8", "",
)  # fmt: skip
CONTENTS: Final = {
    "BOOL": "bool",
    "FP32": "fp32",
    "FP64": "fp64",
    "INT64": "int64",
    "UINT64": "uint64",
    "BYTES": "bytes",
}
WIDTHS: Final = {"BOOL": 1, "UINT8": 1, "INT8": 1, "FP16": 2, "BF16": 2, "FP32": 4, "INT32": 4, "FP64": 8, "INT64": 8}
SHAPES: Final = st.sampled_from([[1, 4], [2, 4], [0, 4], [3], [], [2, 2, 2], [-1, 4], [2**62, 4]])
NAMES: Final = st.sampled_from(["input-0", "a", "", "é\n"])
PARAMETERS: Final = st.dictionaries(
    st.text(max_size=3),
    st.one_of(
        st.fixed_dictionaries({"bool_param": st.booleans()}), st.fixed_dictionaries({"int64_param": KINDS["int64"]}),
        st.fixed_dictionaries({"string_param": st.text(max_size=3)}),
        st.fixed_dictionaries({"double_param": st.floats()}),
        st.fixed_dictionaries({"uint64_param": KINDS["uint64"]}), st.just({}),
    ),
    max_size=2,
)  # fmt: skip
OURS: Final = {"UNKNOWN", "INTERNAL", "DATA_LOSS"}
"""Statuses that blame the server."""


@st.composite
def bent(draw: st.DrawFn) -> Any:  # noqa: ANN401 - messages are made at run time
    """Draw a message of which any field may be wrong."""
    contents = st.fixed_dictionaries(
        {}, optional={f"{kind}_contents": st.lists(values, max_size=8) for kind, values in KINDS.items()}
    )
    tensor = st.fixed_dictionaries(
        {"name": NAMES, "datatype": st.sampled_from(DATATYPES), "shape": SHAPES},
        optional={"contents": contents, "parameters": PARAMETERS},
    )
    asked = st.fixed_dictionaries({"name": st.sampled_from(["output-0", "b"])}, optional={"parameters": PARAMETERS})
    fields = st.fixed_dictionaries(
        {"model_name": st.sampled_from(["m", "m", "m", "n", ""])},
        optional={
            "model_version": st.sampled_from(["1", "2", "x\n"]), "id": st.text(max_size=4), "parameters": PARAMETERS,
            "inputs": st.lists(tensor, max_size=3), "outputs": st.lists(asked, max_size=2),
            "raw_input_contents": st.lists(st.binary(max_size=40), max_size=3),
        },
    )  # fmt: skip
    return ModelInferRequest(**draw(fields))


@st.composite
def fitting(draw: st.DrawFn) -> Any:  # noqa: ANN401 - messages are made at run time
    """Draw a message whose contents fit their shape, of any values."""
    shape = draw(st.sampled_from([[1, 4], [2, 4], [0, 4], [3], [2, 2, 2]]))
    count = shape[0] * (shape[1] if len(shape) > 1 else 1) * (shape[2] if len(shape) > 2 else 1)
    message = ModelInferRequest(model_name="m")
    if draw(st.booleans()):
        datatype = draw(st.sampled_from(list(WIDTHS)))
        size = count * WIDTHS[datatype]
        message.raw_input_contents.append(draw(st.binary(min_size=size, max_size=size)))
        message.inputs.add(name=draw(NAMES), datatype=datatype, shape=shape)
    else:
        datatype = draw(st.sampled_from(list(CONTENTS)))
        kind = CONTENTS[datatype]
        values = draw(st.lists(KINDS[kind], min_size=count, max_size=count))
        message.inputs.add(name=draw(NAMES), datatype=datatype, shape=shape, contents={f"{kind}_contents": values})
    return message


def _check(stub: Client, data: bytes) -> None:
    call = stub.future(data)
    code = code_of(call).name

    assert code not in OURS, (code, call.details(), data)
    assert code == "OK" or call.details(), (code, data)


@settings(max_examples=400)
@given(message=bent() | fitting())
def test_messages_are_answered_or_refused(stub: Client, iris: Client, message: Any) -> None:  # noqa: ANN401 - made at run time
    """Whatever is in a message, a model that takes anything and one that takes four numbers answer or refuse it."""
    data = message.SerializeToString()
    for client in (stub, iris):
        _check(client, data)


@settings(max_examples=200)
@given(message=bent() | fitting(), data=st.data())
def test_damaged_messages_are_refused(iris: Client, message: Any, data: st.DataObject) -> None:  # noqa: ANN401 - made at run time
    """A message of which bytes were changed, lost or added is answered or refused."""
    whole = bytearray(message.SerializeToString())
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(whole)))
        whole[at : at + data.draw(st.integers(0, 2))] = data.draw(st.binary(max_size=2))

    _check(iris, bytes(whole))


@settings(max_examples=60)
@given(
    messages=st.lists(
        (bent() | fitting()).map(lambda message: message.SerializeToString()) | st.binary(max_size=9), max_size=8
    )
)
def test_streams_answer_every_message(iris: Client, messages: list[bytes]) -> None:
    """A stream of any messages ends well, with as many answers, each a response or an error."""
    answers = [ModelStreamInferResponse.FromString(data) for data in iris.stream(iter(messages))]

    assert len(answers) == len(messages)
    assert all(bool(answer.error_message) != bool(answer.infer_response.model_version) for answer in answers)


@settings(max_examples=150)
@given(
    method=st.sampled_from(
        ["ServerLive", "ServerReady", "ModelReady", "ServerMetadata", "ModelMetadata", "RepositoryIndex"]
    ),
    data=st.binary(max_size=30)
    | st.builds(
        lambda name, version: MESSAGES.of("ModelReadyRequest")(name=name, version=version).SerializeToString(),
        NAMES,
        NAMES,
    ),
)
def test_descriptions_are_given_or_refused(iris: Client, method: str, data: bytes) -> None:
    """Whatever is asked of the server and its models, the status is the caller's."""
    try:
        iris.raw(method, data)
        code = "OK"
    except grpc.RpcError as exc:
        code = code_of(exc).name

    assert code in {"OK", "INVALID_ARGUMENT", "NOT_FOUND"}, (method, data)


@pytest.mark.parametrize("name", ["x-request-id", "ce-id", "traceparent", "x-sidelight-synthetic", "anything"])
@pytest.mark.parametrize("value", ["", "%", ' ,;"=', "a\tb", "\xe9", "a" * 2_000], ids=ascii)
def test_odd_metadata(echo: Server, name: str, value: str) -> None:
    """Metadata of any value, even those that gRPC's own clients refuse to send, are no reason to fail."""
    message = ModelInferRequest(model_name="n").SerializeToString()
    with peer(int(echo.grpc.rpartition(":")[2])) as connection:
        stream = connection.call(
            message, "/inference.GRPCInferenceService/ModelInfer", (name, value), ("te", "trailers")
        )
        connection.flush()
        connection.until(StreamEnded, stream)
        fields = [
            tuple(map(str, field))
            for event in connection.events
            if isinstance(event, (ResponseReceived, TrailersReceived))
            for field in event.headers or ()
        ]

    assert ("grpc-status", "5") in fields
