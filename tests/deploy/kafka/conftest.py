"""What the broker's tests share: settings for a broker in a folder of its own, stopped when the test ends."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy import environment
from deploy.kafka import broker, jars, java


@pytest.fixture(scope="session")
def kept_jars() -> Path:
    """Give the folder of whole jars that this machine keeps."""
    jars.class_path(environment.home() / "kafka", print)
    return environment.home() / "kafka" / f"kafka-{jars.KAFKA_VERSION}" / "jars"


@pytest.fixture
def settings(tmp_path: Path, kept_jars: Path) -> Iterator[broker.BrokerSettings]:
    """Give settings of a broker that no other test uses."""
    class_path = ":".join(str(jar) for jar in sorted(kept_jars.iterdir()))
    folder = tmp_path / "broker"
    yield broker.BrokerSettings(folder=folder, java=java.find(), class_path=class_path, with_parent=True)
    broker.stop(folder, grace_s=5)
