"""Commands that read Kafka, before a broker that lets nobody in without a password or a certificate."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, replace
from os import getpid
from pathlib import Path

import orjson
import pytest

from deploy.kafka.topics import ensure_topics
from deploy.runfile import Run
from deploy.security import flags_from, kafka_security, spelt
from streams.events import Event
from streams.topics import Topics
from tests import secured
from tests.deploy.commands.calling import Sidelight, lines_of
from tests.deploy.laying import Laid, event, lay
from tests.deploy.serving import answering
from tests.secured import PASSWORDS, Secured

pytestmark = pytest.mark.kafka

ALERT = orjson.dumps({"state": "opened", "family": "drift", "message": "it drifts", "detector": {"name": "d"}})
EXPLANATION = orjson.dumps({"predictions": [1], "explanations": [{"method": "exact"}], "stats": {}})


@pytest.fixture(scope="module", name="broker")
def _broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    with secured.kafka(tmp_path_factory.mktemp("secured")) as found:
        yield found


@pytest.fixture
def sidelight(tmp_path: Path) -> Sidelight:
    """Give the command, in a home where nothing runs."""
    return Sidelight(tmp_path)


@pytest.fixture
def laid(broker: Secured, topics: Topics) -> Topics:
    """Put a request and an alert on topics of their own, through the open door."""
    ensure_topics(broker.open, topics.declared(1))
    lay(broker.open, topics.payloads, [Laid(request())])
    lay(broker.open, topics.alerts("drift"), [Laid(event("alert", ALERT))])
    return topics


def request() -> Event:
    """Make a logged V1 request."""
    made = event("q", b'{"instances":[[1,2]]}')
    return replace(made, extensions={**made.extensions, "protocol": "v1", "modelname": "m"})


def password(folder: Path, broker: Secured, name: str, text: str = "") -> tuple[str, ...]:
    """Give the flags of a user, whose secrets lie in files."""
    (folder / "username").write_text(name)
    (folder / "password").write_text(text or PASSWORDS[name])
    return (
        "--kafka-ca-file", str(broker.authority.file), "--kafka-sasl-mechanism", "PLAIN",
        "--kafka-username-file", str(folder / "username"), "--kafka-password-file", str(folder / "password"),
    )  # fmt: skip


def write_run(home: Path, kafka: str, prefix: str, flags: tuple[str, ...]) -> None:
    """Note a run as `sidelight up` does."""
    run = Run(name="local", pid=getpid(), kafka=kafka, prefix=prefix, kafka_flags=flags)
    (home / "run").mkdir()
    (home / "run" / "local.json").write_text(json.dumps(asdict(run)))


def test_payloads_and_alerts_with_a_password(
    sidelight: Sidelight, broker: Secured, laid: Topics, tmp_path: Path
) -> None:
    """A user name and a password from files open the door; without them the door is why nothing is shown."""
    where = ("--kafka", broker.sasl, "--prefix", laid.prefix)
    flags = password(tmp_path, broker, "alice")
    payloads = lines_of(sidelight("payloads", *where, *flags, "--json"))
    alerts = lines_of(sidelight("alerts", *where, *flags, "--family", "drift"))
    refused = sidelight("payloads", *where, *password(tmp_path, broker, "alice", "wrong-secret"))

    assert [json.loads(line)["id"] for line in payloads] == ["q"]
    assert "it drifts" in alerts[0]
    assert refused.returncode == 2
    assert "does not let us in: " in refused.stderr
    assert "uthentication" in refused.stderr
    assert "wrong-secret" not in refused.stderr


def test_payloads_with_a_client_certificate(sidelight: Sidelight, broker: Secured, laid: Topics) -> None:
    """A certificate and its key, by their files."""
    certificate, key = broker.authority.issue("reader")
    flags = (
        "--kafka-ca-file", str(broker.authority.file), "--kafka-cert-file", str(certificate), "--kafka-key-file",
        str(key),
    )  # fmt: skip
    found = lines_of(sidelight("payloads", "--kafka", broker.mutual, "--prefix", laid.prefix, "--json", *flags))

    assert [json.loads(line)["id"] for line in found] == ["q"]


def test_explain_with_a_password(sidelight: Sidelight, broker: Secured, laid: Topics, tmp_path: Path) -> None:
    """The request is found behind the same door."""
    flags = password(tmp_path, broker, "bob")
    with answering(EXPLANATION) as explainer:
        run = sidelight(
            "explain", "--event", "q", "--kafka", broker.sasl, "--prefix", laid.prefix, *flags,
            "--explainer-url", explainer.url, "--json",
        )  # fmt: skip

    assert json.loads(run.stdout)["explanations"] == [{"method": "exact"}], run.stderr


@pytest.mark.parametrize("named", [True, False], ids=["named", "noted"])
def test_status_with_a_password(
    sidelight: Sidelight, broker: Secured, laid: Topics, tmp_path: Path, *, named: bool
) -> None:
    """Flags are named, or those of the run count: its file has the names of their files, and no secret is in it."""
    flags = password(tmp_path, broker, "alice")
    kept = spelt(flags_from(flags))
    write_run(tmp_path, broker.sasl, laid.prefix, () if named else kept)
    facts = json.loads(sidelight("status", "--json", *(flags if named else ())).stdout)
    payloads = [] if named else lines_of(sidelight("payloads", "--json"))

    assert facts["problem"] == ""
    assert facts["ledger"]["payloads"] == 1
    assert [json.loads(line)["id"] for line in payloads] == ([] if named else ["q"])
    assert PASSWORDS["alice"] not in (tmp_path / "run" / "local.json").read_text()


def test_flags_are_the_same_when_spelt_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """For a process that runs elsewhere: whole paths, and nothing that was not given."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "more").write_text("socket.keepalive.enable=true\n")
    words = spelt(flags_from(["--kafka-config", "more", "--kafka-ca-file", ""]))

    assert words == (f"--kafka-config={tmp_path / 'more'}",)
    assert kafka_security(flags_from(words)).properties() == {"socket.keepalive.enable": "true"}
    assert spelt(flags_from([])) == ()
