"""One data plane: whatever the protocol, the same rows get the same predictions."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from inference.dataplane import DataPlane
from inference.directory import open_model
from inference.metrics import PredictorMetrics
from inference.protocol import grpc_codec, v1, v2
from inference.protocol.tensors import Tensor
from inference.repository import Loaded, Repository
from inference.runtime import RUNTIMES
from inference.settings import Trust

_ROWS = arrays(np.float64, st.tuples(st.integers(1, 8), st.just(4)), elements=st.floats(-50, 50))


@dataclass(frozen=True)
class Served:
    """A data plane that serves a runtime's example as `m`."""

    plane: DataPlane
    name: str = field(default="m")


@pytest.fixture(name="served", params=["lightgbm", "sklearn", "xgboost"], scope="module")
def _served(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    directory: Path = tmp_path_factory.mktemp(request.param)
    RUNTIMES.find(request.param).example(directory)
    repository = Repository({"m": partial(_load, directory)})
    repository.load("m")
    yield Served(DataPlane(repository, PredictorMetrics(lambda: 0)))
    repository.close()


def _load(directory: Path) -> Loaded:
    return Loaded(open_model(directory, Trust()), "1")


def _by_v1(served: Served, rows: np.ndarray[tuple[int, int], np.dtype[np.float64]]) -> object:
    body = json.dumps({"instances": rows.tolist()}).encode()
    answer = v1.encode_response(served.plane.predict_v1_later(served.name, v1.decode_request(body))())
    return v1.decode_response(answer)


def _by_v2(served: Served, rows: np.ndarray[tuple[int, int], np.dtype[np.float64]], *, binary: bool) -> object:
    request = v2.InferRequest(inputs=(Tensor.of("input-0", rows),))
    decoded = v2.decode_request(*v2.encode_request(request, binary=binary))
    body, length = v2.encode_response(served.plane.infer(served.name, decoded), lambda _: binary)
    return v2.decode_response(body, length).outputs[0].data.tolist()


def _by_grpc(served: Served, rows: np.ndarray[tuple[int, int], np.dtype[np.float64]], *, raw: bool) -> object:
    request = v2.InferRequest(inputs=(Tensor.of("input-0", rows),))
    decoded = grpc_codec.Received(grpc_codec.encode_request(served.name, request, raw=raw)).request()
    answer = grpc_codec.encode_response(served.plane.infer(served.name, decoded), raw=raw)
    return grpc_codec.decode_response(answer).outputs[0].data.tolist()


@settings(max_examples=40)
@given(rows=_ROWS)
def test_protocols_agree(served: Served, rows: np.ndarray[tuple[int, int], np.dtype[np.float64]]) -> None:
    """V1, V2 JSON, V2 binary and gRPC, raw and typed, give the same predictions to the last bit."""
    one = _by_v1(served, rows)

    assert one == _by_v2(served, rows, binary=False) == _by_v2(served, rows, binary=True)
    assert one == _by_grpc(served, rows, raw=True) == _by_grpc(served, rows, raw=False)
