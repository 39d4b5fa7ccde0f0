"""Topic names and settings: what other programs in the cluster rely on."""

from __future__ import annotations

import pytest
from confluent_kafka.admin import AdminClient
from confluent_kafka.admin._config import ConfigResource
from confluent_kafka.admin._resource import ResourceType
from hypothesis import given
from hypothesis import strategies as st

from deploy.kafka.topics import ensure_topics, ensured_partitions
from streams.topics import FAMILIES, Topics, request_topics, state_topic


def test_the_names_that_consumers_subscribe_to() -> None:
    """They are written in other people's programs, so they do not change."""
    topics = Topics()

    assert {topic.name for topic in topics.declared(1)} == {
        "inference.payloads", "inference.observations", "inference.explanations", "inference.deadletter",
        "inference.alerts.drift", "inference.alerts.outlier", "inference.alerts.adversarial", "inference.alerts.bias",
        "inference.alerts.performance",
    }  # fmt: skip
    assert topics.state("assembler") == "inference.state.assembler"


@given(st.text(min_size=1), st.text(min_size=1), st.integers(1, 99))
def test_installations_share_a_cluster(one: str, other: str, partitions: int) -> None:
    """Every name is under its prefix, each once; two prefixes have none in common; all get the partitions asked for."""
    names = [topic.name for topic in (*Topics(one).declared(partitions), state_topic(Topics(one), "g", partitions))]
    theirs = {topic.name for topic in Topics(other).declared(partitions)}

    assert all(name.startswith(f"{one}.") for name in names)
    assert len(set(names)) == len(names)
    assert one == other or not theirs & set(names)
    assert {topic.partitions for topic in Topics(one).declared(partitions)} == {partitions}


def test_people_read_alerts_with_what_they_have() -> None:
    """A plain `pip install kafka-python` reads gzip, neither lz4 nor zstd; the busy topics take the cheaper lz4."""
    topics = Topics()
    kinds = {topic.name: topic.config["compression.type"] for topic in topics.declared(1)}

    assert {kinds[topics.alerts(family)] for family in FAMILIES} | {kinds[topics.explanations]} == {"gzip"}
    assert kinds[topics.payloads] == kinds[topics.observations] == "lz4"


@pytest.mark.kafka
def test_a_broker_takes_the_settings(kafka: str, topics: Topics) -> None:
    """Every setting means on a real Kafka what it says here; a misspelt one would be refused, or be its default."""
    declared = (*topics.declared(1), state_topic(topics, "g", 1))
    ensure_topics(kafka, declared)
    resources = [ConfigResource(ResourceType.TOPIC, topic.name) for topic in declared]
    admin = AdminClient({"bootstrap.servers": kafka})
    found = {resource.name: answer.result(60) for resource, answer in admin.describe_configs(resources).items()}

    for topic in declared:
        assert {key: found[topic.name][key].value for key in topic.config} == dict(topic.config)
    assert found[topics.state("g")]["cleanup.policy"].value == "compact"
    assert found[topics.payloads]["cleanup.policy"].value == "delete"


def test_requests_and_answers_have_names_of_their_own() -> None:
    """Clients write and read them, so the names do not change; the broker leaves their compression to the sender."""
    topics = Topics("team")
    declared = request_topics((topics.requests, topics.responses), 3)

    assert [(topic.name, topic.partitions) for topic in declared] == [("team.requests", 3), ("team.responses", 3)]
    assert all("compression.type" not in topic.config for topic in declared)


@pytest.mark.kafka
def test_a_topic_that_is_there_keeps_its_partitions(kafka: str, topics: Topics) -> None:
    """Only a missing topic is created; one that somebody else made is used as it is."""
    (made,) = request_topics((topics.requests,), 2)
    (other,) = request_topics((topics.requests,), 5)

    assert ensured_partitions(kafka, made) == 2
    assert ensured_partitions(kafka, other) == 2
