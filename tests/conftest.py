"""Fixtures for the whole suite: one real Apache Kafka, started when the first test asks for it."""

from __future__ import annotations

import secrets
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from deploy import environment
from deploy.kafka import broker, jars, java
from streams.topics import Topics

# A property is about results, not about time: the first example pays for imports, and machines differ. Nor does drawing
# have to be quick (too_slow). What a fixture made is shared by all draws, which tests here know.
_UNASKED = [HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
# The suite draws the same again and again: who changes something else must not meet an old fault by chance. To look for
# such faults there is `make fuzz`, and `pytest --hypothesis-profile=random`.
settings.register_profile("sidelight", deadline=None, suppress_health_check=_UNASKED, derandomize=True)
settings.register_profile("random", deadline=None, suppress_health_check=_UNASKED)
settings.load_profile("sidelight")
# A shell that starts the suite in the background has it ignore Ctrl-C, and all programs under test would, too.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Let long runs be asked for."""
    parser.addoption("--kills", type=int, default=6, help="kill -9 of the whole logger in tests/e2e/test_spool.py")
    parser.addoption("--llhttp", metavar="DIR", help="a checkout of llhttp, for tests/logger/corpus")
    parser.addoption("--smuggler", metavar="DIR", help="a checkout of smuggler, for tests/logger/corpus")


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """Name bytes by their length: compressed ones hold the time, and all processes of a run must agree on names."""
    return f"{argname}-{len(val)}-bytes" if isinstance(val, bytes) and not val.isascii() else None


@pytest.fixture(scope="session")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Give the bootstrap address of an embedded Apache Kafka that lives as long as the run."""
    folder: Path = tmp_path_factory.mktemp("kafka")
    class_path = jars.class_path(environment.home() / "kafka", print)
    settings = broker.BrokerSettings(folder=folder, java=java.find(), class_path=class_path, with_parent=True)
    yield broker.start(settings, environment.inherited()).bootstrap
    broker.stop(folder)


@pytest.fixture
def topics() -> Topics:
    """Give topic names that no other test uses."""
    return Topics(f"t{secrets.token_hex(6)}")
