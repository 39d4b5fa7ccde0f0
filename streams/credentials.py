"""How a Kafka client proves who it is and whom it trusts: files named once, read whenever a client is built.

Secrets live in files and in the client, never in a setting: a repr, a log line or an error names files and properties,
not what is in them. Files may change while we run (a mounted Kubernetes secret does); `stamp` tells, and whoever owns a
client builds a new one: `streams/publishers/confluent.py` for producers, `deploy/workers.py` for consumers.
"""

from __future__ import annotations

import re
import ssl
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Final

from confluent_kafka import KafkaException

from streams import pem
from streams.errors import BadCredentials

MECHANISMS: Final = ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER", "GSSAPI")
_PLAIN_LINE: Final = re.compile(r"\s*([a-z0-9._]+)\s*=(.*)", re.IGNORECASE)
_NAMED: Final = re.compile(r'property:? "?([\w.]+)"?')
_SHORTEST: Final = 4
"""Values shorter than this are words such as `all`; blotting them out would only make a message unreadable."""
# What our own promises rest on, and what would run code of the file's choosing.
_OURS: Final = frozenset({
    "acks", "request.required.acks", "auto.offset.reset", "bootstrap.servers", "metadata.broker.list", "client.id",
    "enable.auto.commit", "enable.auto.offset.store", "enable.idempotence", "enable.partition.eof", "group.id",
    "group.instance.id", "partition.assignment.strategy", "partitioner", "plugin.library.paths", "transactional.id",
    "delivery.timeout.ms", "message.timeout.ms",
})  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class KafkaSecurity:
    """Where credentials lie. None: not used."""

    ca_file: Path | None = None
    """Certificates of the authorities to trust, PEM; without it the system's are."""
    cert_file: Path | None = None
    """The client's own certificate, PEM, with what chains it to its authority; needs `key_file`."""
    key_file: Path | None = None
    """The private key of `cert_file`, PEM, without a pass phrase (with one: `ssl.key.password` in `config_file`)."""
    sasl_mechanism: str = ""
    """One of `MECHANISMS`. With SASL the connection is encrypted, unless `config_file` says `SASL_PLAINTEXT`."""
    username_file: Path | None = None
    password_file: Path | None = None
    config_file: Path | None = None
    """Lines `property=value` of librdkafka, for everything else; they win over what the fields above lead to."""

    def __bool__(self) -> bool:
        """Tell whether anything is set."""
        return any(getattr(self, item.name) for item in fields(self))

    def properties(self) -> dict[str, str]:
        """Read the files and give librdkafka's properties.

        Raises:
            BadCredentials: a file is missing, unreadable or not what it should be, or two settings do not go together.
        """
        self._check()
        found: dict[str, str] = {}
        protocol = "SASL_SSL" if self.sasl_mechanism else "SSL"
        if self.sasl_mechanism or self.ca_file or self.cert_file:
            found["security.protocol"] = protocol
        for name, path in (("ca", self.ca_file), ("certificate", self.cert_file), ("key", self.key_file)):
            if path is not None:
                found[f"ssl.{name}.location"] = str(path)
        if self.sasl_mechanism:
            found["sasl.mechanism"] = self.sasl_mechanism
        for name, path in (("username", self.username_file), ("password", self.password_file)):
            if path is not None:
                found[f"sasl.{name}"] = _secret(path)
        if self.config_file is not None:
            found |= _config(self.config_file)
        _check_tls(found)
        return found

    def stamp(self) -> tuple[tuple[int, ...] | None, ...]:
        """Give something that is another when a file is another; a swapped symbolic link counts."""
        return tuple(map(pem.stamp, self._files()))

    def _files(self) -> Iterator[Path]:
        for item in fields(self):
            value = getattr(self, item.name)
            if isinstance(value, Path):
                yield value

    def _check(self) -> None:
        if (self.cert_file is None) != (self.key_file is None):
            raise BadCredentials("a client certificate and its key go together: expected both files, got one")
        if (self.username_file is None) != (self.password_file is None):
            raise BadCredentials("SASL: expected both a user name and a password file, got one")
        if self.username_file is not None and not self.sasl_mechanism and self.config_file is None:
            raise BadCredentials(f"a user name needs a SASL mechanism: {', '.join(MECHANISMS)}")
        if self.sasl_mechanism and self.sasl_mechanism not in MECHANISMS:
            raise BadCredentials(f"SASL mechanism {self.sasl_mechanism!r}: expected one of {', '.join(MECHANISMS)}")
        if self.sasl_mechanism in MECHANISMS[:3] and self.username_file is None and self.config_file is None:
            raise BadCredentials(f"SASL {self.sasl_mechanism} needs a user name file and a password file")


def refused(exc: KafkaException, properties: Mapping[str, str]) -> BadCredentials:
    """Say why librdkafka takes no such client, without a value that came out of a file."""
    text = str(exc.args[0].str()) if exc.args and hasattr(exc.args[0], "str") else str(exc)
    for value in properties.values():
        if len(value) >= _SHORTEST:
            text = text.replace(value, "...")
    named = _NAMED.search(text)
    return BadCredentials(f"Kafka client settings{f': {named.group(1)}' if named else ''}: {text}")


def _secret(path: Path) -> str:
    text = _text(path).removesuffix("\n").removesuffix("\r")
    if not text:
        raise BadCredentials(f"{path}: expected a secret, the file is empty")
    return text


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as exc:
        raise BadCredentials(f"{path}: {(exc.strerror or str(exc)).lower()}") from exc
    except UnicodeDecodeError:
        # Without the cause, which holds the bytes.
        raise BadCredentials(f"{path}: expected UTF-8 text") from None


def _config(path: Path) -> dict[str, str]:
    found: dict[str, str] = {}
    for number, line in enumerate(_text(path).splitlines(), 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        match = _PLAIN_LINE.fullmatch(line)
        if match is None:
            raise BadCredentials(f"{path}, line {number}: expected property=value")
        name, value = match.group(1), match.group(2).strip()
        if name in _OURS:
            raise BadCredentials(f"{path}, line {number}: {name} is not for a file to set: our guarantees rest on it")
        found[name] = value
    return found


def _check_tls(properties: Mapping[str, str]) -> None:
    """Look at the certificates before librdkafka does, which calls most mistakes by one name."""
    for name, value in properties.items():
        if name.endswith(".location") and value != "probe" and not Path(value).exists():
            raise BadCredentials(f"{name}: {value}: no such file or directory")
    authorities, certificate = properties.get("ssl.ca.location", ""), properties.get("ssl.certificate.location", "")
    key = properties.get("ssl.key.location", "")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if authorities and Path(authorities).is_file():
        pem.load_authorities(context, authorities)
    if certificate and key:
        pem.load_chain(context, certificate, key, properties.get("ssl.key.password", ""))
