"""The flags that say how Kafka is reached: TLS, SASL and librdkafka's own settings. Shared by all commands."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from deploy.errors import UserError
from streams.credentials import MECHANISMS, KafkaSecurity
from streams.errors import BadCredentials

_MECHANISM: Final = "kafka_sasl_mechanism"
_FLAGS: Final = (
    "kafka_ca_file", "kafka_cert_file", "kafka_key_file", _MECHANISM, "kafka_username_file", "kafka_password_file",
    "kafka_config",
)  # fmt: skip


def add_kafka_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments. An empty value counts as none."""
    group = parser.add_argument_group("Kafka's TLS and SASL", "files are read again when they change")
    group.add_argument("--kafka-ca-file", default="", metavar="FILE", help="PEM of authorities to trust; turns TLS on")
    group.add_argument("--kafka-cert-file", default="", metavar="FILE", help="PEM of the client's own certificate")
    group.add_argument("--kafka-key-file", default="", metavar="FILE", help="PEM of its private key")
    group.add_argument(
        "--kafka-sasl-mechanism", default="", metavar="NAME", help=f"{', '.join(MECHANISMS)}; always over TLS"
    )
    group.add_argument("--kafka-username-file", default="", metavar="FILE", help="SASL user name")
    group.add_argument("--kafka-password-file", default="", metavar="FILE", help="SASL password")
    group.add_argument(
        "--kafka-config", default="", metavar="FILE", help="lines property=value of librdkafka; they win over the rest"
    )


def kafka_security(arguments: argparse.Namespace) -> KafkaSecurity:
    """Give where the credentials lie.

    Raises:
        UserError: they cannot be used as they are now.
    """
    found = KafkaSecurity(
        ca_file=_file(arguments.kafka_ca_file),
        cert_file=_file(arguments.kafka_cert_file),
        key_file=_file(arguments.kafka_key_file),
        sasl_mechanism=arguments.kafka_sasl_mechanism.upper(),
        username_file=_file(arguments.kafka_username_file),
        password_file=_file(arguments.kafka_password_file),
        config_file=_file(arguments.kafka_config),
    )
    try:
        found.properties()
    except BadCredentials as exc:
        raise UserError(f"Kafka credentials: {exc}") from exc
    return found


def spelt(arguments: argparse.Namespace) -> tuple[str, ...]:
    """Give the flags that were given as words for another command, which may run elsewhere: the files' whole paths."""
    given = {name: getattr(arguments, name) for name in _FLAGS}
    whole = {name: text if name == _MECHANISM else str(Path(text).absolute()) for name, text in given.items() if text}
    return tuple(f"--{name.replace('_', '-')}={text}" for name, text in whole.items())


def flags_from(words: Sequence[str]) -> argparse.Namespace:
    """Read what `spelt` gave."""
    parser = argparse.ArgumentParser()
    add_kafka_arguments(parser)
    return parser.parse_args(words)


def _file(text: str) -> Path | None:
    return Path(text) if text else None
