"""Encrypted payloads, from the tap to whoever reads them: the assembler's codec and `sidelight payloads`."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from deploy.commands.payloads import opened_body, readable
from inference.observations import ArrowCodec, decode_inputs
from inference.protocol.errors import MalformedBody
from logger.privacy.tap import PrivateTap
from logger.settings import TapSettings
from logger.tap import Tap
from streams.bindings import from_kafka, to_kafka
from streams.envelope import opened
from streams.errors import Sealed
from streams.events import Event
from streams.keyring import Keyring
from streams.pairing import Exchange, Pairing, Undecodable
from streams.settings import PairingSettings
from streams.stage import Record
from tests.inference.serving import ROOT
from tests.logger.privacy.making import AT, KEYS, LIMIT, rules, seen

QUESTION, ANSWER = b'{"instances": [{"age": 41, "email": "a@b"}]}', b'{"predictions": [0.5]}'
SETTINGS = TapSettings(service="s", namespace="n", capture=LIMIT)
RING = Keyring.parse(KEYS)
_RINGS = [(Keyring(), "missing-key"), (Keyring({"payloads": b"x" * 32}), "wrong-key")]


def sealed(request: bytes = QUESTION, response: bytes = ANSWER) -> list[Event]:
    """Give the events of an exchange, redacted and encrypted."""
    privacy = rules({"pointer": "/instances/*/email", "action": "mask"}, encryption={"key": "payloads"})
    tap = PrivateTap(Tap(SETTINGS), SETTINGS, privacy, os.urandom)
    return [from_kafka(letter.headers, letter.value) for letter in tap.letters(seen(request, response), AT)]


def paired(events: list[Event]) -> Exchange:
    """Pair two events as the assembler does."""
    pairing = Pairing(PairingSettings())
    found: Exchange | None = None
    for offset, event in enumerate(events):
        headers, value = to_kafka(event)
        found = pairing.take(Record("p", 0, offset, b"k", value, headers, 0)).exchange
    assert found is not None
    return found


def test_the_assembler_reads_what_it_has_keys_for() -> None:
    """Rows come out as from plain events; what is on Kafka is neither the body nor anything like it."""
    request, response = sealed()
    decoded = ArrowCodec(RING).decode(paired([request, response]))

    assert b'"age"' not in (request.data or b"")
    assert b"predictions" not in (response.data or b"")
    assert request.datacontenttype == "application/octet-stream"
    assert list(decoded.columns["in.age"].values) == [41]
    assert list(decoded.columns["in.email"].values) == ["***"]


@pytest.mark.parametrize(("ring", "reason"), _RINGS)
def test_what_no_key_opens_is_a_dead_letter(ring: Keyring, reason: str) -> None:
    """The reason is on the letter, which holds the event as it was: with the right key it can be read again."""
    with pytest.raises(Undecodable) as caught:
        ArrowCodec(ring).decode(paired(sealed()))

    assert caught.value.reason == reason


def test_two_events_never_look_alike() -> None:
    """Equal bodies are different bytes, as each has a nonce of its own; an empty one is left empty."""
    first, second = sealed(), sealed(response=b"")

    assert first[0].data != second[0].data
    assert opened(first[0], RING).data == opened(second[0], RING).data == b'{"instances":[{"age":41,"email":"***"}]}'
    assert second[1].data == b""
    with pytest.raises(Sealed):
        opened(first[0], Keyring())


def test_payloads_are_shown_with_a_key() -> None:
    """With the key the body, without it the reason; in JSON the event as it was before it was sealed."""
    request, _ = sealed()

    assert opened_body(request, RING) == '{"instances":[{"age":41,"email":"***"}]}'
    assert "missing-key: encrypted with key 'payloads'; given: none" in opened_body(request, Keyring())
    assert readable(request, RING).datacontenttype == "application/json"
    assert readable(request, Keyring()) is request


def test_explaining_says_what_is_missing() -> None:
    """A reader without keys names the key instead of calling the body broken; a withheld body says so."""
    withheld, _ = sealed(b"no json")

    with pytest.raises(MalformedBody, match="encrypted with key 'payloads'"):
        decode_inputs(sealed()[0])
    with pytest.raises(MalformedBody, match="withheld by the logger's privacy rules: not-json"):
        decode_inputs(opened(withheld, RING))


def test_the_base_needs_no_cryptography() -> None:
    """Rules alone work in a base install; encryption without its library is one sentence that names the extra."""
    code = (
        "import sys\n"
        "for name in ('cryptography', 'numpy'): sys.modules[name] = None\n"
        "from logger.privacy.rules import read\n"
        "from logger.privacy.tap import PrivateTap\n"
        "from logger.settings import TapSettings\n"
        "from logger.tap import Tap\n"
        "from streams.errors import MissingExtra\n"
        "from streams.keyring import Keyring\n"
        f"ring = lambda _path: Keyring.parse({KEYS!r})\n"
        "settings = TapSettings()\n"
        "PrivateTap(Tap(settings), settings, read('rules: [{pointer: /a, action: mask}]', ring), bytes)\n"
        "try:\n"
        "    PrivateTap(Tap(settings), settings, read('{keys: k, encryption: {key: payloads}}', ring), bytes)\n"
        "except MissingExtra as exc:\n"
        "    print(exc)\n"
    )
    run = subprocess.run((sys.executable, "-c", code), cwd=ROOT, capture_output=True, text=True, check=False)

    assert run.stdout == "encrypted payloads needs 'cryptography': pip install 'sidelight[encryption]'\n", run.stderr
