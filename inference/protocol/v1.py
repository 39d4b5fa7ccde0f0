"""V1 bodies (KServe's "V1 inference protocol"): `instances` or `inputs` in, `predictions` out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final

import numpy as np
import orjson

from inference.protocol import objects
from inference.protocol.errors import MalformedBody

KEYS: Final = ("instances", "inputs")


@dataclass(frozen=True, slots=True, kw_only=True)
class V1Request:
    """A V1 request: its instances, under which key they came, and whatever else the body holds."""

    instances: list[Any]
    key: str = "instances"
    extra: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))


def decode_request(body: bytes) -> V1Request:
    """Read a request.

    Raises:
        MalformedBody: no JSON object, or none of 'instances' and 'inputs', or no list under it.
    """
    fields = objects.read(body)
    keys = [key for key in KEYS if key in fields]
    if not keys:
        raise MalformedBody("body", f"expected 'instances' or 'inputs', got {_keys(fields)}")
    instances = fields[keys[0]]
    if not isinstance(instances, list):
        raise MalformedBody(keys[0], f"expected a list, got {type(instances).__name__}")
    extra = {name: value for name, value in fields.items() if name != keys[0]}
    return V1Request(instances=instances, key=keys[0], extra=extra)


def decode_response(body: bytes) -> list[Any]:
    """Read a response; give its predictions.

    Raises:
        MalformedBody: no JSON object, or no list under 'predictions'.
    """
    fields = objects.read(body)
    predictions = fields.get("predictions")
    if not isinstance(predictions, list):
        raise MalformedBody("predictions", f"expected a list, got {type(predictions).__name__} in {_keys(fields)}")
    return predictions


def encode_request(instances: Sequence[Any], extra: Mapping[str, Any] = MappingProxyType({})) -> bytes:
    """Write a request; NumPy arrays are taken as they are. NaN and infinities become null: JSON has no word for them.

    Raises:
        MalformedBody: something that JSON cannot say.
    """
    return _dumps({"instances": instances, **extra})


def encode_response(predictions: Sequence[Any]) -> bytes:
    """Write a response; see `encode_request`."""
    return _dumps({"predictions": predictions})


def encode_object(fields: Any) -> bytes:  # noqa: ANN401 - whatever JSON can say
    """Write whatever JSON can say, such as an explanation; see `encode_request`."""
    return _dumps(fields)


def _dumps(fields: Any) -> bytes:  # noqa: ANN401 - as above
    try:
        return orjson.dumps(fields, option=orjson.OPT_SERIALIZE_NUMPY, default=_plain)
    except TypeError as exc:
        raise MalformedBody("body", f"has no JSON form: {exc}") from exc


def _plain(value: object) -> Any:  # noqa: ANN401 - whatever JSON can say
    # Arrays of text, and those that are not in memory order.
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, bytes):
        return value.decode()
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"{type(value).__name__} is not JSON serializable")


def _keys(fields: Mapping[str, Any]) -> str:
    return f"an object with {', '.join(map(repr, list(fields)[:8])) or 'no keys'}"
