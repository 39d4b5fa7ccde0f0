"""Actions on single values, and pseudonyms against the published vectors."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from logger.privacy.actions import Action, canonical

# RFC 4231, test cases 1, 2, 3, 6 and 7.
VECTORS = [
    (b"\x0b" * 20, b"Hi There", "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7"),
    (b"Jefe", b"what do ya want for nothing?", "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"),
    (b"\xaa" * 20, b"\xdd" * 50, "773ea91e36800e46854db8ebd09181a72959098b3ef8c122d9635514ced565fe"),
    (
        b"\xaa" * 131,
        b"Test Using Larger Than Block-Size Key - Hash Key First",
        "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54",
    ),
    (
        b"\xaa" * 131,
        (
            b"This is a test using a larger than block-size key and a larger than block-size data. "
            b"The key needs to be hashed before being used by the HMAC algorithm."
        ),
        "9b09ffa71b942fcb27635fbcd5b0e944bfdc63644f0713938a7f51535c3a35e2",
    ),
]


@pytest.mark.parametrize(("key", "value", "expected"), VECTORS)
def test_pseudonyms_are_hmac_sha_256(key: bytes, value: bytes, expected: str) -> None:
    """The published vectors come out, behind the key's id: anybody who has the key can make the same."""
    assert Action(kind="pseudonym", key_id="k", key=key).raw(value) == f"k:{expected}".encode()


def test_one_number_has_one_pseudonym() -> None:
    """Whole numbers are spelt one way, as text, integer or float, so that pseudonyms join over services."""
    action = Action(kind="pseudonym", key_id="k", key=b"k" * 32)

    assert action.value(7) == action.value(7.0) == action.value("7")
    assert action.value(7) != action.value(7.5)
    assert canonical(2.5) == b"2.5"
    assert action.value(True) == action.value("true")  # noqa: FBT003 - the value


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("secret", "***"),
        (4111, None),
        (1.5, None),
        (True, None),
        (None, None),
        (["a", 1], ["***", None]),
        ({"a": 1}, None),
    ],
)
def test_masks(value: object, expected: object) -> None:
    """A text becomes stars, whatever its length; a number becomes null; an object goes with its keys."""
    assert Action(kind="mask").value(value) == expected


@pytest.mark.parametrize(
    ("value", "expected"), [("abcdef", "abc"), ("ab", "ab"), ("\u00e9\u00e9\u00e9\u00e9", "\u00e9" * 3), (4111, None)]
)
def test_truncates(value: object, expected: object) -> None:
    """The beginning of a text stays; a number has none."""
    action = Action(kind="truncate", length=3)

    assert action.value(value) == expected
    if isinstance(value, str):
        assert action.raw(value.encode()).decode() == expected


def test_bytes_that_are_no_text_are_cut_as_bytes() -> None:
    """What is no UTF-8 has no characters to cut between."""
    assert Action(kind="truncate", length=2).raw(b"\xff\xfe\xfd") == b"\xff\xfe"


@pytest.mark.parametrize(
    ("value", "expected"),
    [(-5, 0), (0, 0), (17.9, 0), (18, 18), (64, 18), (65, 65), (10**400, None), (math.nan, None), (math.inf, None)],
)
def test_edges(value: float, expected: float | None) -> None:
    """A number becomes the edge below it; below the first it counts as in the first bucket."""
    assert Action(kind="bucket", edges=(0, 18, 65)).value(value) == expected


@given(st.integers(-(2**70), 2**70), st.integers(1, 10_000))
def test_widths_of_whole_numbers_are_exact(value: int, width: int) -> None:
    """The bucket of a whole number begins at a multiple of the width, at most one width below it."""
    lowest = Action(kind="bucket", width=width).value(value)

    assert lowest % width == 0
    assert 0 <= value - lowest < width


@given(st.floats(), st.floats(min_value=0, exclude_min=True, allow_infinity=False))
def test_buckets_of_any_float_are_finite_or_nothing(value: float, width: float) -> None:
    """No number makes an infinity, which JSON could not say."""
    lowest = Action(kind="bucket", width=width).value(value)

    assert lowest is None or math.isfinite(lowest)
