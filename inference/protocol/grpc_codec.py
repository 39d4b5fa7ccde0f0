"""ModelInfer's messages ↔ V2 requests and responses. Pure.

Contents come raw or typed, never both in one message; answers go the way that their requests came, as KServe's servers
do it. Raw contents of large messages are cut out of the bytes before the rest is parsed: they are copied nowhere.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from types import MappingProxyType
from typing import Any, Final

import numpy as np

from inference.protocol.datatypes import BYTES, RAW_ONLY, numpy_dtype
from inference.protocol.errors import BadTensor
from inference.protocol.grpc_messages import ModelInferRequest, ModelInferResponse
from inference.protocol.grpc_schema import parsed
from inference.protocol.grpc_wire import LENGTH, varint, without_field
from inference.protocol.tensors import Array, Parameters, Tensor, check_shape, from_raw, to_raw
from inference.protocol.v2 import InferRequest, InferResponse, RequestedOutput

Raw = bytes | memoryview

_NOTHING: Final[Parameters] = MappingProxyType({})
_LARGE: Final = 64 * 1024
"""From here on, a copy costs more than looking for the contents in Python."""
_RAW_INPUTS, _RAW_OUTPUTS = 7, 6
_TYPED: Final = {
    "BOOL": "bool_contents",
    "INT8": "int_contents", "INT16": "int_contents", "INT32": "int_contents", "INT64": "int64_contents",
    "UINT8": "uint_contents", "UINT16": "uint_contents", "UINT32": "uint_contents", "UINT64": "uint64_contents",
    "FP32": "fp32_contents", "FP64": "fp64_contents", BYTES: "bytes_contents",
}  # fmt: skip
# Packed numbers of a fixed width are the raw form behind a tag and a length.
_PACKED: Final = {"FP32": (6 << 3 | LENGTH, 4), "FP64": (7 << 3 | LENGTH, 8)}
_WIDEST: Final = {"i": "i8", "u": "u8"}
_INT64: Final = range(-(1 << 63), 1 << 63)
_UINT64: Final = range(1 << 64)


class Received:
    """A ModelInferRequest of which only the head was read."""

    __slots__ = ("_message", "_raws", "model", "version")

    def __init__(self, data: bytes) -> None:
        """Read the head.

        Raises:
            MalformedBody: the bytes are no ModelInferRequest.
        """
        rest, cut = without_field(data, _RAW_INPUTS) if len(data) >= _LARGE else (data, [])
        self._message = parsed(ModelInferRequest, rest)
        self._raws: Sequence[Raw] = cut or self._message.raw_input_contents
        self.model: str = self._message.model_name
        self.version: str | None = self._message.model_version or None
        """The version that is asked for."""

    @property
    def id(self) -> str:
        """The id; empty without one."""
        identity: str = self._message.id
        return identity

    @property
    def parameters(self) -> Parameters:
        """The request's own parameters."""
        return _parameters(self._message)

    def names(self, tensor: str) -> bool:
        """Say whether an input has this name."""
        return any(item.name == tensor for item in self._message.inputs)

    @property
    def raw(self) -> bool:
        """Whether contents came raw, so that the answer's are to go raw."""
        return len(self._raws) > 0

    def request(self) -> InferRequest:
        """Read the tensors. May be called again.

        Raises:
            ProtocolError: contents that do not fit their tensors.
        """
        message, raws = self._message, self._raws
        if raws and len(raws) != len(message.inputs):
            text = f"expected one for each of {len(message.inputs)} inputs, got {len(raws)}"
            raise BadTensor("raw_input_contents", text)
        inputs = tuple(_tensor(item, raws[index] if raws else None, index) for index, item in enumerate(message.inputs))
        if len({tensor.name for tensor in inputs}) < len(inputs):
            raise BadTensor("inputs", f"a name is given twice: {[tensor.name for tensor in inputs]}")
        return InferRequest(
            inputs=inputs,
            id=message.id or None,
            parameters=self.parameters,
            outputs=tuple(RequestedOutput(name=item.name, parameters=_parameters(item)) for item in message.outputs),
        )


def decode_response(data: bytes) -> InferResponse:
    """Read a ModelInferResponse.

    Raises:
        ProtocolError: no such message, or contents that do not fit their tensors.
    """
    message = parsed(ModelInferResponse, data)
    raws = message.raw_output_contents
    if raws and len(raws) != len(message.outputs):
        text = f"expected one for each of {len(message.outputs)} outputs, got {len(raws)}"
        raise BadTensor("raw_output_contents", text)
    outputs = tuple(_tensor(item, raws[index] if raws else None, index) for index, item in enumerate(message.outputs))
    return InferResponse(
        model_name=message.model_name,
        outputs=outputs,
        model_version=message.model_version or None,
        id=message.id or None,
        parameters=_parameters(message),
    )


def encode_request(model: str, request: InferRequest, version: str = "", *, raw: bool) -> bytes:
    """Write a ModelInferRequest; contents go raw where one of them has no typed form."""
    message = ModelInferRequest(model_name=model, model_version=version, id=request.id or "")
    _set_parameters(message, request.parameters)
    for output in request.outputs:
        _set_parameters(message.outputs.add(name=output.name), output.parameters)
    return _written(message, message.inputs, request.inputs, _RAW_INPUTS, raw=raw)


def encode_response(response: InferResponse, *, raw: bool) -> bytes:
    """Write a ModelInferResponse; contents go raw where one of them has no typed form."""
    message = ModelInferResponse(
        model_name=response.model_name, model_version=response.model_version or "", id=response.id or ""
    )
    _set_parameters(message, response.parameters)
    return _written(message, message.outputs, response.outputs, _RAW_OUTPUTS, raw=raw)


def _written(message: Any, items: Any, tensors: Sequence[Tensor], field: int, *, raw: bool) -> bytes:  # noqa: ANN401 - messages are made at run time
    parts: list[Raw] = [b""]
    raw = raw or any(tensor.datatype in RAW_ONLY for tensor in tensors)
    for tensor in tensors:
        item = items.add(name=tensor.name, datatype=tensor.datatype, shape=tensor.shape)
        _set_parameters(item, tensor.parameters)
        if raw:
            content = _raw(tensor)
            size = content.nbytes if isinstance(content, memoryview) else len(content)
            parts += (varint(field << 3 | LENGTH) + varint(size), content)
        else:
            _set_contents(item.contents, tensor)
    # Fields of a message may come in any order, so those that are not to be copied first come last.
    parts[0] = message.SerializeToString()
    return b"".join(parts)


def _raw(tensor: Tensor) -> Raw:
    dtype = numpy_dtype(tensor.datatype, tensor.name)
    if tensor.data.dtype != dtype or dtype.hasobject or tensor.datatype in RAW_ONLY or not tensor.data.size:
        return to_raw(tensor)
    if tensor.data.size != math.prod(tensor.shape):
        raise BadTensor(f"tensor {tensor.name!r}", f"shape {list(tensor.shape)}: got {tensor.data.size} values")
    return np.ascontiguousarray(tensor.data).data


def _set_contents(contents: Any, tensor: Tensor) -> None:  # noqa: ANN401 - messages are made at run time
    packed = _PACKED.get(tensor.datatype)
    if packed is not None:
        raw = to_raw(tensor)
        contents.MergeFromString(b"".join((varint(packed[0]), varint(len(raw)), raw)))
    else:
        getattr(contents, _TYPED[tensor.datatype]).extend(tensor.data.ravel().tolist())


def _tensor(item: Any, raw: Raw | None, index: int) -> Tensor:  # noqa: ANN401 - messages are made at run time
    where = f"tensor {item.name!r}" if item.name else f"tensor {index}"
    shape = check_shape(list(item.shape), where)
    if raw is None:
        if not item.HasField("contents") and "shared_memory_region" in item.parameters:
            raise BadTensor(where, "shared memory is not offered; send the contents")
        data = _from_typed(item, shape, where)
    elif item.HasField("contents"):
        raise BadTensor(where, "has both 'contents' and raw contents")
    else:
        data = from_raw(item.datatype, shape, raw, where)
    return Tensor(name=item.name, datatype=item.datatype, shape=shape, data=data, parameters=_parameters(item))


def _from_typed(item: Any, shape: tuple[int, ...], where: str) -> Array:  # noqa: ANN401 - messages are made at run time
    datatype = item.datatype
    dtype = numpy_dtype(datatype, where)
    if datatype in RAW_ONLY:
        raise BadTensor(where, f"{datatype} has no typed contents; send raw contents")
    given = {field.name: values for field, values in item.contents.ListFields()}
    expected = _TYPED[datatype]
    if given.keys() - {expected}:
        raise BadTensor(where, f"{datatype}: expected {expected}, got {', '.join(given)}")
    values = given.get(expected, ())
    count = math.prod(shape)
    if len(values) != count:
        raise BadTensor(where, f"shape {list(shape)} needs {count} values, got {len(values)}")
    if datatype == BYTES:
        texts = np.empty(count, object)
        texts[:] = list(values)
        return texts.reshape(shape)
    width = _PACKED[datatype][1] if datatype in _PACKED and count else 0
    packed = item.contents.SerializeToString() if width else b""
    # One tag, a length and the numbers; anything else would be a field that nobody knows.
    if packed and len(packed) == 1 + len(varint(count * width)) + count * width:
        return np.frombuffer(packed[-count * width :], dtype).reshape(shape)
    wide = np.array(list(values), _WIDEST.get(dtype.kind, dtype))
    return _in_range(wide, dtype, datatype, where).reshape(shape)


def _in_range(array: Array, dtype: np.dtype[Any], datatype: str, where: str) -> Array:
    if dtype.kind in "iu" and array.size:
        bounds = np.iinfo(dtype)
        least, most = int(array.min()), int(array.max())
        if least < bounds.min or most > bounds.max:
            raise BadTensor(where, f"{datatype}: expected {bounds.min} to {bounds.max}, got {least} to {most}")
    return array.astype(dtype, copy=False)


def _parameters(message: Any) -> Parameters:  # noqa: ANN401 - messages are made at run time
    given = message.parameters
    if not given:
        return _NOTHING
    chosen = {name: value.WhichOneof("parameter_choice") for name, value in given.items()}
    return {name: getattr(given[name], choice) for name, choice in chosen.items() if choice is not None}


def _set_parameters(message: Any, parameters: Parameters) -> None:  # noqa: ANN401 - messages are made at run time
    for name, value in parameters.items():
        slot = message.parameters[name]
        if isinstance(value, bool):
            slot.bool_param = value
        elif isinstance(value, int) and value in _INT64:
            slot.int64_param = value
        elif isinstance(value, int) and value in _UINT64:
            slot.uint64_param = value
        elif isinstance(value, float):
            slot.double_param = value
        else:
            # What JSON can nest, and gRPC cannot, goes as its text.
            slot.string_param = value if isinstance(value, str) else json.dumps(value, default=str)
