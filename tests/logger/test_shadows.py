"""Events of shadow versions: like the logger's own, apart from them, under its rules, within bounds, all counted."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence

import pytest
from prometheus_client import CollectorRegistry

from inference.errors import ModelNotReady, PredictionFailed
from inference.protocol.errors import MalformedBody
from inference.shadows import Shadowed, Unanswered, Written
from logger.courier import Courier
from logger.settings import TapSettings
from logger.shadows import NO_SINK, QUEUE_FULL, ShadowLog, ShadowSettings
from logger.tap import Letter, Tap
from logger.way import Fate, Origin, Settle, Spooled, Way
from streams.bindings import from_kafka
from streams.events import Event
from streams.publishers.memory import MemoryLog, MemoryPublisher
from tests.logger.privacy import making

DEADLINE_S = 60.0
V1 = Written(b'{"instances":[[1.0]]}')
CAPTURE = 1_000


def shadowed(version: str = "4", **changes: object) -> Shadowed:
    """Make what a version answered."""
    given: dict[str, object] = {
        "model": "m", "version": version, "protocol": "v1", "correlation": "c1", "traceparent": "", "synthetic": False,
        "started_us": making.AT, "latency_us": 1_500, "request": V1, "response": Written(b'{"predictions":[2.0]}'),
    }  # fmt: skip
    return Shadowed(**{**given, **changes})  # type: ignore[arg-type]


def tap() -> Tap:
    """Make a tap such as the predictor's."""
    return Tap(TapSettings(service="s", namespace="n", component="shadow", source="here"))


class Shut:
    """A way that takes nothing until it is opened, and then delivers at once."""

    name = "shut"

    def __init__(self) -> None:
        self.opened = threading.Event()
        self.asked = threading.Event()

    @property
    def spooled(self) -> Spooled:
        return Spooled()

    def room(self) -> bool:
        self.asked.set()
        return self.opened.is_set()

    def take(self, _origin: Origin, letters: Sequence[Letter], settle: Settle) -> None:
        for _ in letters:
            settle(Fate.DELIVERED)

    def work(self, timeout_s: float) -> None:
        self.opened.wait(timeout_s)

    def shed(self, most: int) -> None:
        pass

    def resting(self) -> bool:
        return True

    def close(self) -> None:
        pass

    def gauges(self) -> Mapping[str, float]:
        return {}


def counts(kept: ShadowLog) -> dict[str, float]:
    """Read its metrics: by name, drops by reason."""
    registry = CollectorRegistry()
    registry.register(kept)
    return {
        sample.labels.get("reason", sample.name.removeprefix("sidelight_shadow_events_")): sample.value
        for family in registry.collect()
        for sample in family.samples
        if sample.value
    }


def until(condition: Callable[[], bool]) -> None:
    """Wait for something that will come."""
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.005)


def logged(under: Tap, *answers: Shadowed | Unanswered) -> list[Event]:
    """Give the events that answers lead to."""
    topics = MemoryLog({"payloads": 1})
    kept = ShadowLog(under, lambda: Courier("memory", MemoryPublisher(topics), "payloads", 1.0), CAPTURE)
    for answer in answers:
        kept.offer(answer)
    kept.close()

    assert counts(kept) == {"offered_total": 2.0 * len(answers), "sent_total": 2.0 * len(answers)}
    return [from_kafka(record.headers, record.value) for record in topics.records("payloads")]


def test_an_answer_becomes_two_events() -> None:
    """They say of which component, version and call they are, and hold both bodies."""
    request, response = logged(tap(), shadowed(traceparent="00-aa-bb-01"))

    for event in (request, response):
        assert event.observed_as() == "n/s/shadow"
        assert event.correlation() == "c1"
        assert event.text("modelversion") == "4"
        assert event.text("modelname") == "m"
        assert event.text("traceparent") == "00-aa-bb-01"
        assert event.text("synthetic") == ""
    assert request.data == V1.content
    assert (response.data, response.text("statuscode"), response.text("latencyus")) == (
        b'{"predictions":[2.0]}', "200", "1500",
    )  # fmt: skip


def unanswered(error: Exception, asked: Callable[[], tuple[str, Written, bool]]) -> Unanswered:
    """Make what a version failed on."""
    return Unanswered(
        model="m", version="5", correlation="c2", traceparent="", synthetic=False, started_us=making.AT,
        latency_us=700, error=error, asked=asked, size=40,
    )  # fmt: skip


def test_a_failure_leaves_its_trace() -> None:
    """A copy that a version failed on is an exchange with the status and error that its caller would have got."""
    failed = unanswered(PredictionFailed("ValueError : nan"), lambda: ("v1", V1, True))
    request, response = logged(tap(), failed)

    assert (request.observed_as(), request.correlation(), request.data) == ("n/s/shadow", "c2", V1.content)
    assert (response.text("modelversion"), response.text("statuscode"), response.text("latencyus")) == (
        "5",
        "500",
        "700",
    )
    assert response.data == b'{"error": "ValueError : nan"}'
    assert (request.text("synthetic"), response.text("synthetic")) == ("true", "true")


def test_a_copy_of_no_request_leaves_its_trace() -> None:
    """What cannot be read has no body; a version that is away is told by its status."""

    def asked() -> tuple[str, Written, bool]:
        raise MalformedBody("body", "no JSON")

    broken = logged(tap(), unanswered(MalformedBody("body", "no JSON"), asked))
    away = logged(tap(), unanswered(ModelNotReady("m"), lambda: ("v1", V1, False)))

    assert (broken[0].data or b"", broken[1].text("statuscode")) == (b"", "400")
    assert away[1].text("statuscode") == "503"


def test_services_may_be_named_after_models() -> None:
    """Where one predictor has several, each model's events say which they are of."""
    topics = MemoryLog({"payloads": 1})
    kept = ShadowLog(
        tap(), lambda: Courier("memory", MemoryPublisher(topics), "payloads", 1.0), CAPTURE,
        named=lambda model: Tap(TapSettings(service=model, namespace="n", component="shadow")),
    )  # fmt: skip
    for model in ("a", "b"):
        kept.offer(shadowed(model=model))
    kept.close()
    found = [from_kafka(record.headers, record.value).observed_as() for record in topics.records("payloads")]

    assert found == ["n/a/shadow", "n/a/shadow", "n/b/shadow", "n/b/shadow"]


def test_tensors_and_marks_are_told() -> None:
    """Where JSON ends in a binary body is told, and that no user made the call; an overlong body is cut and marked."""
    long = Written(b"x" * (CAPTURE + 1), 7)
    request, response = logged(tap(), shadowed(protocol="v2", synthetic=True, request=long))

    assert request.text("path") == "/v2/models/m/infer"
    assert (request.number("inferenceheaderlength"), request.datacontenttype) == (7, "application/octet-stream")
    assert (request.text("truncated"), len(request.data or b"")) == ("true", CAPTURE)
    assert (request.text("synthetic"), response.text("synthetic")) == ("true", "true")
    assert response.number("inferenceheaderlength") is None


def test_two_shadows_of_one_request_are_told_apart() -> None:
    """Events of one call have ids and starts of their own even where the clock says the same."""
    events = logged(tap(), shadowed("4"), shadowed("5"), shadowed("6", correlation=""))

    assert len({event.id for event in events}) == 6
    assert len({event.time for event in events if event.type.endswith("request")}) == 3
    assert len({event.correlation() for event in events}) == 2
    assert events[-1].correlation() == events[-2].correlation() != ""


def test_the_rules_hold() -> None:
    """With a privacy file the bodies are redacted as the logger's are, and what cannot be read is withheld."""
    rules = making.rules({"pointer": "/instances/*/name", "action": "mask"})
    settings = TapSettings(service="s", namespace="n", component="shadow")
    named = Written(b'{"instances":[{"name":"Ada","age":36}]}')

    request, _, broken, _ = logged(
        making.private(rules, settings), shadowed(request=named), shadowed(request=Written(b"Ada"))
    )

    assert b"Ada" not in (request.data or b"")
    assert b"36" in (request.data or b"")
    assert request.text("redacted") == "true"
    assert b"Ada" not in (broken.data or b"")
    assert broken.text("withheld") == "not-json"


@pytest.mark.parametrize("settings", [ShadowSettings(exchanges=3), ShadowSettings(max_bytes=3 * 42)])
def test_beyond_the_bound_answers_are_dropped_and_counted(settings: ShadowSettings) -> None:
    """While the sink takes nothing, so many answers wait, others are dropped at once; then what waits is sent."""
    way = Shut()
    kept = ShadowLog(tap(), lambda: way, CAPTURE, settings)
    for _ in range(10):
        kept.offer(shadowed())

    assert counts(kept) == {"offered_total": 20, QUEUE_FULL: 14, "waiting": 6}
    way.opened.set()
    until(lambda: counts(kept) == {"offered_total": 20, QUEUE_FULL: 14, "sent_total": 6})
    kept.close()


def test_what_is_left_at_the_end_is_counted() -> None:
    """A stop does not wait long for a silent sink; what waits then, and what comes later, is dropped and counted."""
    way = Shut()
    kept = ShadowLog(tap(), lambda: way, CAPTURE, ShadowSettings(flush_s=0.1))
    kept.offer(shadowed())
    kept.close()
    kept.offer(shadowed())

    assert counts(kept) == {"offered_total": 4, "shutdown": 4}


def test_without_a_way_out_all_are_counted() -> None:
    """A sink that cannot be opened costs the events, which are counted, and no prediction."""

    def fail() -> Way:
        raise OSError("no such file")

    kept = ShadowLog(tap(), fail, CAPTURE)
    for number in range(1, 4):
        kept.offer(shadowed())
        until(lambda: counts(kept) == {"offered_total": 2 * number, NO_SINK: 2 * number})  # noqa: B023 - waited for at once
    kept.close()
