"""The encrypted form of an event's data: AES-256-GCM, so that a broker, a spool and a backup hold ciphertext only.

Data is nonce (96 bits), ciphertext and tag (128 bits). Associated data is the event's id and type, so that a body
cannot be put under another event. The content type becomes that of bytes; what it was stands in an extension.
`logger/privacy/tap.py` seals; the assembler's codec and `sidelight payloads` open. Needs the extra `encryption`.
"""

from __future__ import annotations

import struct
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from streams.errors import BadKeys, MissingExtra, Sealed
from streams.events import ENCRYPTED_TYPE, ENCRYPTION, ENCRYPTION_KEY, Event
from streams.keyring import Keyring

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

SCHEME: Final = "A256GCM"
SEALED_TYPE: Final = "application/octet-stream"
NONCE: Final = 12
"""Bytes of a nonce. Drawn at random, one key is good for 2^32 events."""
_KEY: Final = 32
_TAG: Final = 16
_LENGTH: Final = struct.Struct("<I")


class Sealer:
    """Encrypts under one key.

    Raises:
        BadKeys: not exactly 32 bytes.
        MissingExtra: the library is not installed.
    """

    def __init__(self, key_id: str, key: bytes) -> None:
        if len(key) != _KEY:
            raise BadKeys(f"key {key_id!r}: AES-256 needs exactly {_KEY} bytes, got {len(key)}")
        self.key_id = key_id
        self._cipher = _cipher(key)

    def seal(self, data: bytes, nonce: bytes, event_id: str, event_type: str) -> bytes:
        """Encrypt; a nonce must never come twice."""
        return nonce + self._cipher.encrypt(nonce, data, _bound(event_id, event_type))


def is_sealed(event: Event) -> bool:
    """Tell whether an event's data is encrypted."""
    return bool(event.text(ENCRYPTION))


def opened(event: Event, keys: Keyring) -> Event:
    """Give an event as it was before it was sealed; one that never was comes back as it is.

    Raises:
        Sealed: unknown scheme, no such key on the ring, another key under its id, or data that was changed.
    """
    scheme = event.text(ENCRYPTION)
    if not scheme:
        return event
    if scheme != SCHEME:
        raise Sealed("unknown-encryption", f"{scheme!r}: expected {SCHEME}")
    key_id = event.text(ENCRYPTION_KEY)
    key = keys.get(key_id)
    if key is None:
        raise Sealed("missing-key", f"encrypted with key {key_id!r}; given: {', '.join(keys.ids()) or 'none'}")
    data = _decrypted(event.data or b"", key, key_id, _bound(event.id, event.type))
    own = (ENCRYPTION, ENCRYPTION_KEY, ENCRYPTED_TYPE)
    rest = {name: value for name, value in event.extensions.items() if name not in own}
    return replace(event, data=data, datacontenttype=event.text(ENCRYPTED_TYPE) or None, extensions=rest)


def require() -> None:
    """Make sure that data can be opened here.

    Raises:
        MissingExtra: the library is not installed.
    """
    _cipher(bytes(_KEY))


def _decrypted(data: bytes, key: bytes, key_id: str, bound: bytes) -> bytes:
    if len(key) != _KEY or len(data) < NONCE + _TAG:
        raise Sealed("wrong-key", f"key {key_id!r} of {len(key)} bytes cannot open {len(data)} bytes")
    cipher = _cipher(key)
    from cryptography.exceptions import InvalidTag  # noqa: PLC0415 - an optional extra

    try:
        return cipher.decrypt(data[:NONCE], data[NONCE:], bound)
    except InvalidTag:
        text = f"key {key_id!r} does not open it: another key under this id, or the event was changed"
        raise Sealed("wrong-key", text) from None


def _bound(event_id: str, event_type: str) -> bytes:
    # The length first, so that no other id and type give the same bytes.
    name = event_id.encode()
    return _LENGTH.pack(len(name)) + name + event_type.encode()


def _cipher(key: bytes) -> AESGCM:
    try:
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM  # noqa: PLC0415 - an optional extra
    except ModuleNotFoundError as exc:
        raise MissingExtra("encrypted payloads", "encryption", "cryptography") from exc
    return AESGCM(key)
