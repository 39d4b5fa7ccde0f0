"""A tap that cleans what it is given and seals what it gives; it takes the plain one's place when rules are given."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from logger.privacy.cleaner import Cleaner
from logger.privacy.rules import Privacy
from logger.settings import TapSettings
from logger.tap import Letter, Seen, Tap
from streams.envelope import NONCE, SCHEME, SEALED_TYPE, Sealer
from streams.events import ENCRYPTED_TYPE, ENCRYPTION, ENCRYPTION_KEY

_TYPE: Final = "content-type"


class PrivateTap(Tap):
    """Has another tap make payload events, by the rules of a privacy file.

    Args:
        inner: makes the events.
        settings: the inner tap's; `capture` bounds redacted bodies, too.
        privacy: the file.
        random: gives so many random bytes, of a quality that keys have.
    """

    def __init__(self, inner: Tap, settings: TapSettings, privacy: Privacy, random: Callable[[int], bytes]) -> None:
        super().__init__(settings)
        self._inner = inner
        self.events_each = inner.events_each
        self.cleaner = Cleaner(privacy, settings.capture, settings.mode)
        self._sealer = None if privacy.encryption is None else Sealer(privacy.encryption.key_id, privacy.encryption.key)
        self._random = random

    def letters(self, seen: Seen, recorded_us: int) -> list[Letter]:
        """Give the events of one exchange; see `Tap.letters`."""
        letters = self._inner.letters(self.cleaner.clean(seen), recorded_us)
        sealer = self._sealer
        return letters if sealer is None else [self._sealed(letter, sealer) for letter in letters]

    def _sealed(self, letter: Letter, sealer: Sealer) -> Letter:
        if not letter.value:
            return letter
        found = dict(letter.headers)
        value = sealer.seal(letter.value, self._random(NONCE), found["ce_id"].decode(), found["ce_type"].decode())
        headers = [item for item in letter.headers if item[0] != _TYPE]
        headers += (
            (_TYPE, SEALED_TYPE.encode()), (f"ce_{ENCRYPTION}", SCHEME.encode()),
            (f"ce_{ENCRYPTION_KEY}", sealer.key_id.encode()),
        )  # fmt: skip
        if _TYPE in found:
            headers.append((f"ce_{ENCRYPTED_TYPE}", found[_TYPE]))
        return Letter(letter.key, value, tuple(headers))
