"""The Open Inference Protocol's messages as google's protobuf has them, from a descriptor written from the protocol."""

from __future__ import annotations

from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

_FIELD = descriptor_pb2.FieldDescriptorProto
_KINDS = {
    "bool": _FIELD.TYPE_BOOL, "int32": _FIELD.TYPE_INT32, "int64": _FIELD.TYPE_INT64, "uint32": _FIELD.TYPE_UINT32,
    "uint64": _FIELD.TYPE_UINT64, "float": _FIELD.TYPE_FLOAT, "double": _FIELD.TYPE_DOUBLE,
    "string": _FIELD.TYPE_STRING, "bytes": _FIELD.TYPE_BYTES,
}  # fmt: skip
_PARAMETERS = "parameters map InferParameter"
_MESSAGES = {
    "InferParameter": (
        "1 bool_param bool", "2 int64_param int64", "3 string_param string", "4 double_param double",
        "5 uint64_param uint64",
    ),
    "InferTensorContents": (
        "1 bool_contents *bool", "2 int_contents *int32", "3 int64_contents *int64", "4 uint_contents *uint32",
        "5 uint64_contents *uint64", "6 fp32_contents *float", "7 fp64_contents *double", "8 bytes_contents *bytes",
    ),
    "InferTensor": (
        "1 name string", "2 datatype string", "3 shape *int64", f"4 {_PARAMETERS}", "5 contents InferTensorContents",
    ),
    "InferRequestedOutputTensor": ("1 name string", f"2 {_PARAMETERS}"),
    "ModelInferRequest": (
        "1 model_name string", "2 model_version string", "3 id string", f"4 {_PARAMETERS}", "5 inputs *InferTensor",
        "6 outputs *InferRequestedOutputTensor", "7 raw_input_contents *bytes",
    ),
    "ModelInferResponse": (
        "1 model_name string", "2 model_version string", "3 id string", f"4 {_PARAMETERS}", "5 outputs *InferTensor",
        "6 raw_output_contents *bytes",
    ),
    "ModelStreamInferResponse": ("1 error_message string", "2 infer_response ModelInferResponse"),
}  # fmt: skip


def _describe() -> descriptor_pb2.FileDescriptorProto:
    file = descriptor_pb2.FileDescriptorProto(name="oip_test.proto", package="inference", syntax="proto3")
    for name, lines in _MESSAGES.items():
        message = file.message_type.add(name=name)
        if name == "InferParameter":
            message.oneof_decl.add(name="parameter_choice")
        for line in lines:
            number, field, *kind = line.split()
            found = message.field.add(name=field, number=int(number), label=_FIELD.LABEL_OPTIONAL)
            if name == "InferParameter":
                found.oneof_index = 0
            _type(message, found, kind, name)
    return file


def _type(message: Any, found: Any, kind: list[str], name: str) -> None:  # noqa: ANN401 - descriptors have no types
    named = kind[-1].lstrip("*")
    if kind[0] == "map":
        entry = message.nested_type.add(name="ParametersEntry")
        entry.options.map_entry = True
        entry.field.add(name="key", number=1, type=_FIELD.TYPE_STRING, label=_FIELD.LABEL_OPTIONAL)
        entry.field.add(
            name="value", number=2, type=_FIELD.TYPE_MESSAGE, type_name=f".inference.{named}",
            label=_FIELD.LABEL_OPTIONAL,
        )  # fmt: skip
        found.type, found.type_name = _FIELD.TYPE_MESSAGE, f".inference.{name}.ParametersEntry"
        found.label = _FIELD.LABEL_REPEATED
        return
    if kind[-1].startswith("*"):
        found.label = _FIELD.LABEL_REPEATED
    if named in _KINDS:
        found.type = _KINDS[named]
    else:
        found.type, found.type_name = _FIELD.TYPE_MESSAGE, f".inference.{named}"


_POOL = descriptor_pool.DescriptorPool()
_POOL.Add(_describe())


def _class(name: str) -> Any:  # noqa: ANN401 - made at run time
    return message_factory.GetMessageClass(_POOL.FindMessageTypeByName(f"inference.{name}"))


Request, Response, Streamed = map(_class, ("ModelInferRequest", "ModelInferResponse", "ModelStreamInferResponse"))
Tensor, Contents = _class("InferTensor"), _class("InferTensorContents")


def request(rows: int = 2, *, raw: bool = True, model: str = "m") -> bytes:
    """Give a request of two columns: numbers, and text."""
    message = Request(model_name=model, model_version="3", id="i")
    message.parameters["p"].int64_param = -1
    numbers = message.inputs.add(name="x", datatype="FP32", shape=[rows])
    words = message.inputs.add(name="w", datatype="BYTES", shape=[rows])
    if raw:
        numbers.name = "x"
        message.raw_input_contents.append(b"\x00\x00\x80\x3f" * rows)
        message.raw_input_contents.append(b"\x02\x00\x00\x00ab" * rows)
    else:
        numbers.contents.fp32_contents.extend([1.0] * rows)
        words.contents.bytes_contents.extend([b"ab"] * rows)
    encoded: bytes = message.SerializeToString()
    return encoded


def response(rows: int = 2) -> bytes:
    """Give an answer of one column."""
    message = Response(model_name="m", model_version="3", id="i")
    message.outputs.add(name="y", datatype="INT64", shape=[rows]).contents.int64_contents.extend(range(rows))
    encoded: bytes = message.SerializeToString()
    return encoded
