"""Triton's parameter `timeout` of a request that waited in a topic."""

from __future__ import annotations

import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from inference.dataplane import DataPlane
from inference.kafka.plane import PlaneModels
from inference.kafka.stage import InferenceStage
from inference.metrics import PredictorMetrics
from inference.protocol import v2
from inference.protocol.tensors import Tensor
from inference.protocol.v2 import InferRequest
from inference.repository import Loaded, Repository
from inference.runtime import Source
from streams.errors import NotNow
from streams.stage import Batch, Record
from tests.inference.kafka import asking
from tests.inference.kafka.summing import Summing
from tests.inference.kafka.test_stage import SETTINGS
from tests.inference.serving import eventually

HOUR_US = 3_600_000_000


def _record(timeout: object, waited_s: float, *, appended: bool = True) -> Record:
    """Write a request that lies in its topic for a while, by the broker's clock or by its producer's."""
    body, _ = v2.encode_request(
        InferRequest(inputs=(Tensor.of("x", np.ones((1, 2))),), parameters={"timeout": timeout})
    )
    headers = (("x-request-id", b"c"), ("content-type", b"application/json"))
    sent_ms = round((time.time() - waited_s) * 1_000)
    return Record("requests", 0, 0, b"k", body, headers, sent_ms, appended)


def _models(*, there: bool) -> PlaneModels:
    repository = Repository({"m": lambda: Loaded(Summing.load(Source(path=Path())), "1")})
    if there:
        repository.load("m")
    return PlaneModels(DataPlane(repository, PredictorMetrics(lambda: 0.0)), repository)


@pytest.mark.parametrize(
    ("timeout", "waited_s", "status"),
    [(HOUR_US, 60.0, 200), (HOUR_US, 7_200.0, 503), (0, 7_200.0, 200), (HOUR_US, -60.0, 200), ("soon", 0.0, 400)],
)
def test_the_limit_begins_when_the_broker_took_the_request(timeout: object, waited_s: float, status: int) -> None:
    """Who asked too long ago is told so, and the model does not see it; a broker that is ahead does no harm."""
    stage = InferenceStage(0, SETTINGS, _models(there=True))
    (output,) = stage.process(Batch(0, (_record(timeout, waited_s),))).outputs
    answer = asking.told(output)

    assert answer.status == status
    assert ("no answer within 3600 s" in answer.error) == (status == 503)
    assert ("request: parameters: timeout: expected microseconds" in answer.error) == (status == 400)


@pytest.mark.parametrize("waited_s", [7_200.0, -7_200.0, 0.0])
def test_no_producers_clock_has_a_request_refused(waited_s: float) -> None:
    """One that is hours behind would have every request too late: without the broker's, only our own counts."""
    stage = InferenceStage(0, SETTINGS, _models(there=True))
    (output,) = stage.process(Batch(0, (_record(HOUR_US, waited_s, appended=False),))).outputs

    assert asking.told(output).status == 200


def test_each_try_counts_from_the_first() -> None:
    """A request that waits for a model does so no longer than its limit, though it is taken up anew again and again."""
    models, found = _models(there=False), list[int]()

    def answered() -> bool:
        # As its host does: a batch that cannot be taken yet is another stage's.
        stage = InferenceStage(0, SETTINGS, models)
        with suppress(NotNow):
            (output,) = stage.process(Batch(0, (_record(50_000, 0.0, appended=False),))).outputs
            found.append(asking.told(output).status)
        return bool(found)

    eventually(answered, "the limit")

    assert found == [503]


def test_a_model_that_is_away_is_not_waited_for_beyond_it() -> None:
    """Within its limit a request waits for the model as others do; beyond, it is answered and holds nobody up."""
    stage = InferenceStage(0, SETTINGS, _models(there=False))
    with pytest.raises(NotNow):
        stage.process(Batch(0, (_record(HOUR_US, 0.0),)))
    (output,) = stage.process(Batch(0, (_record(HOUR_US, 7_200.0),))).outputs

    assert asking.told(output).status == 503
