"""Encrypted data: what was sealed comes back, and nothing else opens it."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.envelope import NONCE, SCHEME, Sealer, is_sealed, opened, require
from streams.errors import BadKeys, Sealed
from streams.events import ENCRYPTED_TYPE, ENCRYPTION, ENCRYPTION_KEY, Event
from streams.keyring import Keyring

KEY = bytes(range(32))
RING = Keyring({"k1": KEY, "short": b"s" * 40})


def sealed(data: bytes = b"body", key_id: str = "k1", nonce: bytes = b"n" * NONCE) -> Event:
    """Make an event with encrypted data."""
    return Event(
        id="e1", source="/", type="t", datacontenttype="application/octet-stream",
        data=Sealer(key_id, KEY).seal(data, nonce, "e1", "t"),
        extensions={ENCRYPTION: SCHEME, ENCRYPTION_KEY: key_id, ENCRYPTED_TYPE: "text/plain", "other": "x"},
    )  # fmt: skip


@given(st.binary(), st.binary(min_size=NONCE, max_size=NONCE))
def test_what_was_sealed_comes_back(data: bytes, nonce: bytes) -> None:
    """Data, content type and extensions are what they were; nothing tells that they were sealed."""
    event = sealed(data, nonce=nonce)
    found = opened(event, RING)

    assert (found.data, found.datacontenttype, dict(found.extensions)) == (data, "text/plain", {"other": "x"})
    assert is_sealed(event)
    assert not is_sealed(found)


def test_a_published_vector() -> None:
    """The ciphertext of test case 16 of GCM's specification comes out; its tag, over other associated data, cannot."""
    key = bytes.fromhex("feffe9928665731c6d6a8f9467308308" * 2)
    nonce = bytes.fromhex("cafebabefacedbaddecaf888")
    plain = bytes.fromhex(
        "d9313225f88406e5a55909c5aff5269a86a7a9531534f7da2e4c303d8a318a72"
        "1c3c0c95956809532fcf0e2449a6b525b16aedf5aa0de657ba637b39"
    )
    found = Sealer("k", key).seal(plain, nonce, "e", "t")

    assert found[NONCE:-16].hex() == (
        "522dc1f099567d07f47f37a32a84427d643a8cdcbfe5c0c97598a2bd2555d1aa"
        "8cb08e48590dbb3da7b08b1056828838c5f61e6393ba7a0abcc9f662"
    )


def test_an_event_that_never_was_sealed_comes_back_as_it_is() -> None:
    """Without the extension there is nothing to open, whatever is on the ring."""
    event = Event(id="1", source="/", type="t", data=b"body")

    assert opened(event, Keyring()) is event


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"id": "e2"}, "wrong-key"), ({"type": "u"}, "wrong-key"), ({"data": None}, "wrong-key"),
        ({"data": b"short"}, "wrong-key"), ({"extensions": {ENCRYPTION: SCHEME}}, "missing-key"),
        ({"extensions": {ENCRYPTION: SCHEME, ENCRYPTION_KEY: "k2"}}, "missing-key"),
        ({"extensions": {ENCRYPTION: SCHEME, ENCRYPTION_KEY: "short"}}, "wrong-key"),
        ({"extensions": {ENCRYPTION: "ROT13", ENCRYPTION_KEY: "k1"}}, "unknown-encryption"),
    ],
)  # fmt: skip
def test_nothing_else_opens(change: dict[str, object], reason: str) -> None:
    """Another event's id or type, another key, another scheme: refused with a word and a sentence."""
    with pytest.raises(Sealed) as caught:
        opened(replace(sealed(), **change), RING)  # type: ignore[arg-type] # a table of fields

    assert caught.value.reason == reason


@given(st.integers(0, 31), st.integers(1, 255))
def test_every_turned_byte_is_found(at: int, bits: int) -> None:
    """Nonce, ciphertext and tag are all covered."""
    event = sealed()
    turned = bytearray(event.data or b"")
    turned[at] ^= bits

    with pytest.raises(Sealed, match="another key under this id, or the event was changed"):
        opened(replace(event, data=bytes(turned)), RING)


def test_no_text_tells_a_key() -> None:
    """What is refused names ids and lengths only."""
    with pytest.raises(Sealed) as caught:
        opened(sealed(key_id="short"), RING)
    with pytest.raises(BadKeys, match="key 'k': AES-256 needs exactly 32 bytes, got 33") as refused:
        Sealer("k", b"s" * 33)

    assert "sss" not in f"{caught.value}{refused.value}{RING!r}"
    assert repr(RING) == "Keyring(k1, short)"


def test_the_library_is_there() -> None:
    """The extra is part of the development set, so this must not raise."""
    require()
