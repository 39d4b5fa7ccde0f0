"""Credentials for Kafka: what is refused before a client is built, and that no secret is ever shown."""

from __future__ import annotations

import traceback
from pathlib import Path

import pytest

from streams.credentials import KafkaSecurity
from streams.errors import BadCredentials
from streams.publishers.confluent import ConfluentPublisher, PublisherSettings
from tests.secured import Authority

SECRET = "hunter2-hunter2"  # noqa: S105 - what must not be shown


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    """Give a certificate authority."""
    return Authority(tmp_path, "authority")


def file(folder: Path, name: str, content: str) -> Path:
    """Write a file."""
    path = folder / name
    path.write_text(content)
    return path


def told(security: KafkaSecurity) -> str:
    """Give all that is said when a producer with these credentials is built, traceback included."""
    try:
        ConfluentPublisher(PublisherSettings(bootstrap="127.0.0.1:1", security=security))
    except BadCredentials as exc:
        return "".join(traceback.format_exception(exc))
    raise AssertionError("it was accepted")


def test_nothing_set_leads_to_nothing() -> None:
    """Without credentials the client's settings stay as they were."""
    assert not KafkaSecurity()
    assert KafkaSecurity().properties() == {}


def test_files_lead_to_properties(tmp_path: Path, authority: Authority) -> None:
    """TLS and SASL follow from what is named; the end of a secret's line is no part of it; the config file wins."""
    certificate, key = authority.issue("client")
    found = KafkaSecurity(
        ca_file=authority.file, cert_file=certificate, key_file=key, sasl_mechanism="SCRAM-SHA-512",
        username_file=file(tmp_path, "u", "me\n"), password_file=file(tmp_path, "p", f" {SECRET} \r\n"),
        config_file=file(tmp_path, "c", "# a comment\n\nsocket.timeout.ms = 5000\nsecurity.protocol=SASL_PLAINTEXT\n"),
    ).properties()  # fmt: skip

    assert found == {
        "security.protocol": "SASL_PLAINTEXT", "sasl.mechanism": "SCRAM-SHA-512", "sasl.username": "me",
        "sasl.password": f" {SECRET} ", "ssl.ca.location": str(authority.file), "socket.timeout.ms": "5000",
        "ssl.certificate.location": str(certificate), "ssl.key.location": str(key),
    }  # fmt: skip


def test_sasl_is_always_encrypted(tmp_path: Path) -> None:
    """A password never goes over a plain connection, unless the config file says so in as many words."""
    pair = {"username_file": file(tmp_path, "u", "me"), "password_file": file(tmp_path, "p", SECRET)}

    assert KafkaSecurity(sasl_mechanism="PLAIN", **pair).properties()["security.protocol"] == "SASL_SSL"


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"ca_file": "gone"}, "gone: no such file"),
        ({"ca_file": "rubbish"}, "expected PEM"),
        ({"cert_file": "rubbish"}, "expected both files, got one"),
        ({"cert_file": "rubbish", "key_file": "rubbish"}, "expected PEM that belongs together"),
        ({"sasl_mechanism": "PLAIN"}, "needs a user name file and a password file"),
        ({"sasl_mechanism": "MAGIC"}, "expected one of PLAIN"),
        ({"sasl_mechanism": "PLAIN", "username_file": "secret"}, "expected both a user name and a password"),
        ({"username_file": "secret", "password_file": "secret"}, "a user name needs a SASL mechanism"),
        ({"sasl_mechanism": "PLAIN", "username_file": "secret", "password_file": "gone"}, "gone: no such file"),
        ({"sasl_mechanism": "PLAIN", "username_file": "secret", "password_file": "empty"}, "the file is empty"),
        ({"sasl_mechanism": "PLAIN", "username_file": "secret", "password_file": "binary"}, "expected UTF-8"),
        ({"config_file": "gone"}, "gone: no such file"),
        ({"config_file": "rubbish"}, "line 1: expected property=value"),
        ({"config_file": "idempotence"}, "line 2: enable.idempotence is not for a file to set"),
        ({"config_file": "plugin"}, "plugin.library.paths is not for a file to set"),
        ({"config_file": "elsewhere"}, "ssl.ca.location: /nowhere/ca.pem: no such file"),
        ({"config_file": "unknown"}, "No such configuration property"),
        ({"config_file": "misplaced"}, "security.protocol"),
    ],
)
def test_what_cannot_be_used_is_refused(tmp_path: Path, fields: dict[str, str], expected: str) -> None:
    """Each mistake is named with its file or property, before anything is sent; and no secret is in what is said."""
    file(tmp_path, "rubbish", SECRET)
    file(tmp_path, "secret", SECRET)
    file(tmp_path, "empty", "\n")
    (tmp_path / "binary").write_bytes(SECRET.encode() + b"\xff")
    file(tmp_path, "idempotence", f"sasl.password={SECRET}\nenable.idempotence=false")
    file(tmp_path, "plugin", "plugin.library.paths=evil")
    file(tmp_path, "elsewhere", "ssl.ca.location=/nowhere/ca.pem")
    file(tmp_path, "unknown", f"sasl.passwort={SECRET}")
    file(tmp_path, "misplaced", f"security.protocol={SECRET}")
    paths = {name: value if name == "sasl_mechanism" else tmp_path / value for name, value in fields.items()}
    text = told(KafkaSecurity(**paths))  # type: ignore[arg-type] # a table of both kinds

    assert expected in text
    assert SECRET not in text


def test_a_pair_that_does_not_fit_is_refused(authority: Authority) -> None:
    """A certificate with another one's key: half of a rotation, for instance."""
    certificate, _ = authority.issue("one")
    _, key = authority.issue("two")

    with pytest.raises(BadCredentials, match="belongs together: key_values_mismatch"):
        KafkaSecurity(cert_file=certificate, key_file=key).properties()


def test_a_repr_holds_no_secret(tmp_path: Path) -> None:
    """Settings name files; what is in them is nowhere to be seen."""
    security = KafkaSecurity(
        sasl_mechanism="PLAIN", username_file=file(tmp_path, "u", "me"), password_file=file(tmp_path, "p", SECRET)
    )

    assert SECRET not in repr(PublisherSettings(bootstrap="b", security=security))


def test_a_stamp_follows_the_files(tmp_path: Path) -> None:
    """It changes with a file's content, with the link that leads to it, and when the file goes; else it stays."""
    for name in ("old", "new"):
        (tmp_path / name).mkdir()
        file(tmp_path / name, "ca", name)
    link = tmp_path / "mounted"
    link.symlink_to("old")
    security = KafkaSecurity(ca_file=link / "ca")
    stamps = [security.stamp(), security.stamp()]
    (tmp_path / "swap").symlink_to("new")
    (tmp_path / "swap").replace(link)
    stamps.append(security.stamp())
    (link / "ca").unlink()
    stamps.append(security.stamp())

    assert stamps[0] == stamps[1]
    assert len(set(stamps)) == 3
