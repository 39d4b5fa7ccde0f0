"""Keys by their ids: what is read, and that no mistake and no repr shows one."""

from __future__ import annotations

import base64

import pytest

from streams.errors import BadKeys
from streams.keyring import Keyring

FIRST, SECOND = bytes(range(32)), b"\xff" * 64
CODED = base64.b64encode(FIRST).decode()


def test_keys_are_read_by_their_ids() -> None:
    """Comments and empty lines say nothing; the order is the file's; what is not there is None."""
    ring = Keyring.parse(f"# keys\n\n  b-2  {base64.b64encode(SECOND).decode()}\r\na {CODED}\n")

    assert ring.ids() == ("b-2", "a")
    assert (ring.get("a"), ring.get("b-2"), ring.get("c")) == (FIRST, SECOND, None)
    assert repr(ring) == "Keyring(b-2, a)"
    assert repr(Keyring()) == "Keyring(empty)"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "expected at least one line"),
        (f"# only\na {CODED}\na {CODED}", "line 3: key 'a' comes twice"),
        (CODED, "line 1: expected an id"),
        (f"a {CODED} more", "line 1: expected an id"),
        (f"ä {CODED}", "line 1: expected an id"),
        (f"{'a' * 65} {CODED}", "line 1: expected an id"),
        (f"a {CODED[:-1]}", "line 1: expected a key in base64"),
        (f"a {CODED.replace('A', '!', 1)}", "line 1: expected a key in base64"),
        (f"a {base64.b64encode(FIRST[:31]).decode()}", "line 1: expected a key of at least 32 bytes, got 31"),
        (f"{CODED.rstrip('=')[:40]} a", "line 1: expected "),
    ],
)
def test_a_wrong_line_is_named_and_no_key_shown(text: str, expected: str) -> None:
    """The number of the line and what was expected; whatever is wrong, the line may hold a key."""
    with pytest.raises(BadKeys) as caught:
        Keyring.parse(text)

    assert str(caught.value).startswith(expected)
    assert CODED[:12] not in str(caught.value)
    assert caught.value.__cause__ is None
