"""Has the C library keep what calls free, for the next calls need as much. Used by `inference/server.py`.

glibc gives the top of its heap back to the system when more is free there than twice the largest block that was freed
so far; and a page that is asked for again costs what copying it twice does. Bodies of 80 KB, a few at a time, were a
fault for each of their pages.
"""

from __future__ import annotations

from typing import Final

_BLOCK: Final = 8 << 20
"""Up to twice as much stays. A larger block that calls free raises that, as ever; `malloc_trim` gives it all back."""


def keep_freed() -> None:
    """Free one large block. Once, at the start."""
    bytearray(_BLOCK)
