"""Places in traces: what W3C's header says, and ids that are the same for the same."""

from __future__ import annotations

import pytest

from streams.tracecontext import Place, below, recorded

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (f"00-{TRACE}-{SPAN}-01", Place(TRACE, SPAN, "01")),
        (f"00-{TRACE}-{SPAN}-03", Place(TRACE, SPAN, "03")),
        (f"01-{TRACE}-{SPAN}-01-later", Place(TRACE, SPAN, "01")),
        (f"00-{TRACE}-{SPAN}-00", None),
        (f"ff-{TRACE}-{SPAN}-01", None),
        (f"00-{'0' * 32}-{SPAN}-01", None),
        (f"00-{TRACE}-{'0' * 16}-01", None),
        (f"00-{TRACE.upper()}-{SPAN}-01", None),
        (f"00-{TRACE}-{SPAN}", None),
        (f"00-{TRACE}-{SPAN}-01\n", None),
        ("", None),
        ("é", None),
    ],
)
def test_what_is_recorded(text: str, found: Place | None) -> None:
    """A header that is none, or whose flag says that nobody records the trace, is no place in one."""
    assert recorded(text) == found


def test_a_span_is_named_by_what_it_is_about() -> None:
    """The same twice is one span; another thing, or another parent, is another. The trace and its flags stay."""
    parent = Place(TRACE, SPAN, "01")
    first, again, other = below(parent, "a", 1), below(parent, "a", 1), below(parent, "a", 2)

    assert first == again
    assert len({first.span, other.span, below(first, "a", 1).span, SPAN}) == 4
    assert (other.trace, other.flags) == (TRACE, "01")
    assert recorded(str(first)) == first
