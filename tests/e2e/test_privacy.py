"""Privacy rules in the real process: what lies on a real Kafka, read as raw bytes, holds no secret."""

from __future__ import annotations

import base64
import gzip
import json
import signal
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

import httpx
import pytest
import yaml
from confluent_kafka import Consumer, TopicPartition

from deploy import scrape
from deploy.kafka.ports import free_port
from deploy.kafka.topics import ensure_topics
from streams.bindings import from_kafka
from streams.envelope import opened
from streams.keyring import Keyring
from streams.stage import Record
from streams.topics import Topics
from tests.deploy.commands.calling import Sidelight
from tests.e2e.test_sidecar import sidecar
from tests.inference.serving import eventually

PLANTED: Final = "geheim-4111"
_KEYS: Final = {"customers": bytes(range(32)), "payloads": b"p" * 32}
_RULES: Final = [
    {"pointer": "/instances/*/email", "action": "pseudonym", "key": "customers"},
    {"pointer": "/instances/*/note", "action": "drop"},
    {"tensor": "card", "action": "mask"},
    {"header": "x-client", "action": "mask"},
]
_JSON: Final = {"content-type": "application/json"}


def privacy_file(folder: Path, more: Mapping[str, object]) -> Path:
    """Write keys and rules."""
    lines = [f"{name} {base64.b64encode(key).decode()}" for name, key in _KEYS.items()]
    (folder / "secret.keys").write_text("\n".join(lines))
    path = folder / "privacy.yaml"
    path.write_text(yaml.safe_dump({"keys": "secret.keys", "rules": _RULES, **more}))
    return path


def on_topic(kafka: str, topic: str) -> list[Record]:
    """Give everything on a topic."""
    consumer = Consumer({"bootstrap.servers": kafka, "group.id": "t", "enable.auto.commit": False})
    partitions = consumer.list_topics(topic, timeout=60).topics[topic].partitions
    ends = {part: consumer.get_watermark_offsets(TopicPartition(topic, part), timeout=60)[1] for part in partitions}
    consumer.assign([TopicPartition(topic, part, 0) for part in partitions])
    found: list[Record] = []
    while len(found) < sum(ends.values()):
        for message in consumer.consume(500, timeout=1.0):
            assert message.error() is None
            headers = tuple(message.headers() or ())
            found.append(Record(topic, 0, len(found), message.key(), message.value(), headers, 0))  # type: ignore[arg-type] # bytes, by us
    consumer.close()
    return found


def raw(found: list[Record]) -> bytes:
    """Give every byte of records."""
    return b"\n".join(
        (record.key or b"")
        + (record.value or b"")
        + b"".join(name.encode() + (value or b"") for name, value in record.headers)
        for record in found
    )


def calls(url: str) -> None:
    """Send the secret in every way that a body, a header and a path have."""
    row = {"email": f"{PLANTED}@example.org", "note": PLANTED, "age": 41}
    v1 = json.dumps({"instances": [row, row]}).encode()
    tensor = {"name": "card", "datatype": "BYTES", "shape": [1, 1], "data": [[PLANTED]]}
    v2 = json.dumps({"model_name": "m", "inputs": [tensor], "outputs": [tensor]}).encode()
    sized = {"name": "card", "datatype": "BYTES", "shape": [1], "parameters": {"binary_data_size": 4 + len(PLANTED)}}
    head = json.dumps({"model_name": "m", "inputs": [sized], "outputs": [sized]}).encode()
    tail = len(PLANTED).to_bytes(4, "little") + PLANTED.encode()
    with httpx.Client(base_url=url, timeout=30, headers={"x-client": PLANTED, "authorization": PLANTED}) as client:
        for path, body, headers in (
            (f"/v1/models/m:predict?customer={PLANTED}", v1, _JSON),
            ("/v1/models/m:predict", gzip.compress(v1), {**_JSON, "content-encoding": "gzip"}),
            ("/v1/models/m:predict", v1[:-2], _JSON),
            ("/v1/models/m:predict", b"\x00" + v1, {}),
            ("/v2/models/m/infer", v2, _JSON),
            ("/v2/models/m/infer", head + tail, {"inference-header-content-length": str(len(head))}),
            ("/v2/models/m/infer", b"x" * 2_000_000 + PLANTED.encode(), {}),
        ):
            answer = client.post(path, content=body, headers=headers)

            assert (answer.status_code, answer.content) == (200, body)


CALLS: Final = 7


def observed(sidelight: Sidelight, kafka: str, topics: Topics, keys: Path) -> int:
    """Run an assembler over the topic; give how many exchanges it made rows of."""
    page = f"127.0.0.1:{free_port()}"
    process = sidelight.start(
        "assembler", "--kafka", kafka, "--prefix", topics.prefix, "--keys", str(keys),
        "--metrics-port", page.rpartition(":")[2], together=True,
    )  # fmt: skip

    def counted(counter: str) -> int:
        found = scrape.read(f"http://{page}/metrics", 60.0)
        return 0 if found is None else int(found.by("sidelight_stage_total", "counter").get(counter, 0))

    try:
        eventually(lambda: counted("in") == 2 * CALLS, "all events read")
        return counted("observed")
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)


def run(
    kafka: str, topics: Topics, folder: Path, more: Mapping[str, object], look: Callable[[str], None]
) -> list[Record]:
    """Send the calls through a logger with rules; give what is on Kafka when it has drained."""
    ensure_topics(kafka, topics.declared(2))
    rules = privacy_file(folder, more)
    words = ("--privacy", str(rules), "--metadata-headers", "x-client,authorization")
    with sidecar(kafka, topics.payloads, folder, *words) as logger:
        calls(logger.url)
        eventually(lambda: logger.counted("kserve_logger_events_sent_total") == 2 * CALLS, "the deliveries")
        look(httpx.get(logger.metrics, timeout=60).text)
        logger.process.send_signal(signal.SIGTERM)
        code = logger.process.wait(60)
        log = logger.log.read_text()

    assert code == 0, log
    assert PLANTED not in log
    return on_topic(kafka, topics.payloads)


@pytest.mark.kafka
def test_no_secret_reaches_kafka(kafka: str, topics: Topics, tmp_path: Path) -> None:
    """JSON, gzip, tensors, headers, query, broken and too long bodies: the client gets all, the topic no secret."""
    pages: list[str] = []
    found = run(kafka, topics, tmp_path, {}, pages.append)
    events = [from_kafka(record.headers, record.value) for record in found]

    assert len(found) == 2 * CALLS
    assert PLANTED.encode() not in raw(found)
    assert b'"email":"customers:' in raw(found)
    assert {event.text("path") for event in events} == {"/v1/models/m:predict", "/v2/models/m/infer"}
    assert {event.text("metadata") for event in events} == {'{"x-client":["***"]}'}
    reasons = sorted(event.text("withheld") for event in events if event.type.endswith("request"))
    assert reasons == ["", "", "", "", "not-json", "not-json", "truncated"]
    assert 'sidelight_logger_withheld_total{reason="truncated"}' in pages[0]
    assert "sidelight_logger_redacted_total" in pages[0]


@pytest.mark.kafka
def test_encrypted_payloads_are_read_with_their_key(kafka: str, topics: Topics, tmp_path: Path) -> None:
    """On the topic there is ciphertext; `sidelight payloads` and the codec read it with the key, and not without."""
    found = run(kafka, topics, tmp_path, {"encryption": {"key": "payloads"}}, lambda _page: None)
    sidelight = Sidelight(tmp_path)
    keys = tmp_path / "reader.keys"
    keys.write_text(f"payloads {base64.b64encode(_KEYS['payloads']).decode()}")
    shown = ("payloads", "--kafka", kafka, "--prefix", topics.prefix, "--bodies")
    with_key, without = sidelight(*shown, "--keys", str(keys)), sidelight(*shown)
    plain = [opened(from_kafka(record.headers, record.value), Keyring(_KEYS)) for record in found]

    assert b"instances" not in raw(found)
    assert PLANTED.encode() not in raw(found)
    assert sum(b'"instances"' in (event.data or b"") for event in plain) == 4
    assert '"age":41' in with_key.stdout
    assert '"age":41' not in without.stdout
    assert without.stdout.count("missing-key: encrypted with key 'payloads'") == 2 * CALLS
    assert observed(sidelight, kafka, topics, keys) == 1
