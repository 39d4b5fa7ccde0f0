"""What a witness is told of shadow versions: bodies that decode to what was asked and answered."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from inference.batching.terms import Terms
from inference.dataplane import DataPlane
from inference.errors import ModelNotReady
from inference.folders import ModelFolder
from inference.metrics import PredictorMetrics
from inference.protocol import v1, v2
from inference.protocol.tensors import Tensor
from inference.repository import Repository
from inference.settings import RepositorySettings, Trust
from inference.shadows import Shadowed, Unanswered, Written
from tests.inference.serving import eventually
from tests.inference.shelves import ANSWERING, write

ROWS = np.array([[0.5, np.nan], [2.0, -np.inf]])


@pytest.fixture(name="plane")
def _plane(tmp_path: Path) -> Iterator[DataPlane]:
    """Give a plane whose model has a stable version, and two shadows of which one cannot be loaded."""
    for number, answer in (("1", 1.0), ("2", 2.0), ("3", "bad")):
        write(tmp_path / "m" / number, answer)
    (tmp_path / "m" / "rollout.yaml").write_text("{stable: 1, shadows: [{version: 2}, {version: 3}]}")
    repository = Repository(
        {"m": ModelFolder(str(tmp_path / "m"), Trust(), ANSWERING)}, RepositorySettings(on_demand=True)
    )
    plane = DataPlane(repository, PredictorMetrics(lambda: 0.0))
    yield plane
    plane.close()
    repository.close()


def _told(plane: DataPlane, failed: list[Unanswered] | None = None) -> list[Shadowed]:
    told: list[Shadowed] = []

    def witness(outcome: Shadowed | Unanswered) -> None:
        if isinstance(outcome, Shadowed):
            told.append(outcome)
        elif failed is not None:
            failed.append(outcome)

    plane.shadows.witness = witness
    return told


def _failures(plane: DataPlane) -> bool:
    return b'sidelight_predictor_shadow_errors_total{error="' in plane.metrics.page()


def test_tensors_are_told_as_they_were(plane: DataPlane) -> None:
    """A V2 call's copy comes with its correlation id and marks, every value kept, and the shadow's own answer."""
    told = _told(plane)
    terms = Terms(key=b"c1", traceparent="00-aa-bb-01", headers={"x-sidelight-synthetic": "true"})
    request = v2.InferRequest(inputs=(Tensor.of("x", ROWS),), id="i", parameters={"p": 1})
    answer = plane.infer("m", request, terms=terms)
    eventually(lambda: len(told) == 1 and _failures(plane), "both shadows' outcomes")
    (found,) = told
    again = v2.decode_request(found.request.content, found.request.header_length)
    response = v2.decode_response(found.response.content, found.response.header_length)

    assert answer.model_version == "1"
    assert (found.model, found.version, found.protocol) == ("m", "2", "v2")
    assert (found.correlation, found.traceparent, found.synthetic) == ("c1", "00-aa-bb-01", True)
    np.testing.assert_array_equal(again.inputs[0].data, ROWS)
    assert (again.id, dict(again.parameters)) == ("i", {"p": 1})
    assert (response.model_version, response.outputs[0].data.tolist()) == ("2", [2.0, 2.0])
    assert found.latency_us >= 0


def test_rows_are_told_as_they_were(plane: DataPlane) -> None:
    """A V1 call's copy keeps the key of its rows, by which their columns are named, and what else the body says."""
    told = _told(plane)
    plane.predict_v1_later("m", v1.decode_request(b'{"inputs":[[1.5,2]],"more":"x"}'))()
    eventually(lambda: len(told) == 1, "the shadow's answer")
    (found,) = told

    assert (found.protocol, found.correlation, found.synthetic) == ("v1", "", False)
    assert found.request.content == b'{"inputs":[[1.5,2]],"more":"x"}'
    assert found.response.content == b'{"predictions":[2.0]}'


def test_failures_are_told_with_what_was_asked(plane: DataPlane) -> None:
    """A version that cannot be loaded is told of with its error; the request is there for who wants to write it."""
    failed: list[Unanswered] = []
    _told(plane, failed)
    terms = Terms(key=b"c1", headers={"x-sidelight-synthetic": "true"}, size=20)
    plane.predict_v1_later("m", v1.decode_request(b'{"instances":[[1.5,2]]}'), terms)()
    # The next is refused at once, and may be told of before the load that failed is.
    eventually(lambda: len(failed) == 1, "the first failure")
    request = v2.InferRequest(inputs=(Tensor.of("x", ROWS),), parameters={"synthetic": True})
    plane.infer("m", request)
    eventually(lambda: len(failed) == 2, "both failures")
    rows, tensors = failed
    protocol, body, synthetic = tensors.asked()

    assert (rows.model, rows.version, rows.correlation, rows.synthetic, rows.size) == ("m", "3", "c1", True, 20)
    assert rows.asked() == ("v1", Written(b'{"instances":[[1.5,2]]}'), False)
    assert isinstance(rows.error, ModelNotReady)
    assert (protocol, synthetic) == ("v2", tensors.synthetic or synthetic)
    np.testing.assert_array_equal(v2.decode_request(body.content, body.header_length).inputs[0].data, ROWS)


def test_without_a_witness_copies_are_answered(plane: DataPlane) -> None:
    """Copies count as rows of the protocol `shadow` whether or not anybody keeps the answers."""
    plane.predict_v1_later("m", v1.decode_request(b'{"instances":[[1.5,2]]}'))()

    eventually(lambda: b'{model_name="m",protocol="shadow"} 1.0' in plane.metrics.page(), "the shadow's row")
