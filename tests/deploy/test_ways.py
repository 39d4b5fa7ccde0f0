"""What `--log-url` may say, and what it must not."""

from __future__ import annotations

from pathlib import Path

import pytest

from deploy.errors import UserError
from deploy.ways import WaySettings, build, destinations, left_behind
from logger.courier import Courier
from logger.settings import OutboxSettings, SpoolSettings
from logger.spool.way import SpoolWay


def test_several_sinks_with_policies_of_their_own() -> None:
    """Commas part URLs, not the brokers of one; a query names the policy for that sink alone."""
    found = destinations("kafka://a:1,b:2/t,http://h:80/x?y=1&outbox=spool,file:///var/log/e", "drop")

    assert [(one.name, one.policy) for one in found] == [
        ("kafka-t", "drop"), ("http-h-80-x", "spool"), ("file-var-log-e", "drop"),
    ]  # fmt: skip
    assert (found[0].url.netloc, found[1].url.query) == ("a:1,b:2", "y=1")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "expected kafka://"),
        ("broker:9092", "expected kafka://"),
        ("ftp://h/x", "expected kafka://"),
        ("kafka:///topic", "expected kafka://"),
        ("kafka://h:1?outbox=keep", "outbox: expected one of drop, spool, got 'keep'"),
        ("http://h/,http://h/", "named twice"),
    ],
)
def test_mistakes_say_what_is_expected(text: str, says: str) -> None:
    """One line with what was expected and got."""
    with pytest.raises(UserError, match=says):
        destinations(text, "drop")


def test_two_clusters_with_one_topic_have_two_names() -> None:
    """And a spool of their own each."""
    found = destinations("kafka://a:1/t,kafka://b:2/t", "spool")

    assert [one.name for one in found] == ["kafka-t", "kafka-t-b-2"]


def test_spools_that_nobody_reads_are_found(tmp_path: Path) -> None:
    """A sink that is not named any more may have left events on disk."""
    for name in ("kafka-t", "kafka-old", "empty"):
        (tmp_path / name).mkdir()
    for name in ("kafka-t", "kafka-old"):
        (tmp_path / name / "0.log").touch()

    assert left_behind(tmp_path, destinations("kafka://a:1/t", "spool")) == [tmp_path / "kafka-old"]
    assert left_behind(tmp_path / "none", ()) == []


def test_ways_are_built_by_policy(tmp_path: Path) -> None:
    """In memory or on disk; a spool needs a folder, a sink's missing file names the URL."""
    settings = WaySettings(
        outbox=OutboxSettings(), spool=SpoolSettings(), spool_folder=tmp_path, capture=1_000, events_each=2, kafka={},
    )  # fmt: skip
    memory, spool = (
        build(one, settings) for one in destinations(f"file://{tmp_path}/e,kafka://h:1/t?outbox=spool", "drop")
    )

    assert isinstance(memory, Courier)
    assert isinstance(spool, SpoolWay)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["e", "kafka-t"]
    (tls,) = destinations("https://h/x", "drop")
    with pytest.raises(UserError, match=r"--log-url https://h/x: .*No such file"):
        build(tls, WaySettings(
            outbox=OutboxSettings(), spool=SpoolSettings(), spool_folder=None, capture=1, events_each=2, kafka={},
            ca_file="/nowhere",
        ))  # fmt: skip
