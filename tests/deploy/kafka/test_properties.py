"""The node's settings, and what is read back from its data folder."""

from __future__ import annotations

from deploy.kafka import properties


def parsed(text: str) -> dict[str, str]:
    """Read properties back."""
    return dict(line.split("=", 1) for line in text.splitlines())


def test_nothing_listens_beyond_this_machine() -> None:
    """The embedded broker has no password, so every listener is on loopback."""
    found = parsed(properties.render("data", 9092, 9093))

    for name in ("listeners", "advertised.listeners"):
        assert {listener.split("//")[1] for listener in found[name].split(",")} == {"127.0.0.1:9092", "127.0.0.1:9093"}


def test_a_group_forms_at_once_and_a_mistyped_topic_is_an_error() -> None:
    """The settings that make one node behave on a laptop: no wait for members, no replicas, no topics by accident."""
    found = parsed(properties.render("data", 1, 2))

    assert found["group.initial.rebalance.delay.ms"] == "0"
    assert found["auto.create.topics.enable"] == "false"
    assert found["offsets.topic.num.partitions"] == found["offsets.topic.replication.factor"] == "1"
    assert found["log.dirs"] == "data"


def test_the_cluster_id_is_read_back() -> None:
    """Kafka's own file of notes gives the id, whatever else stands in it."""
    meta = (
        "#\n#Sat Nov 21 06:00:00 UTC 2026\nnode.id=1\ndirectory.id=a_b\nversion=1\ncluster.id=tzOTK-nFQpGF621QQniLcg\n"
    )

    assert properties.cluster_id(meta) == "tzOTK-nFQpGF621QQniLcg"
    assert not properties.cluster_id("node.id=1\n")
