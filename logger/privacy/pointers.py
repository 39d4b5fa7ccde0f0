"""JSON pointers (RFC 6901) with `*` for every element, and the walk along them. Pure.

A walk that meets another kind of value than the pointer speaks of cannot tell where the values went that it is to hide,
so it gives up on the whole body. A key that is not there is another matter: there is nothing to hide.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any, Final

from logger.privacy.actions import DROP, Action
from logger.privacy.errors import Unreadable

EVERY: Final = "*"
_POINTER: Final = re.compile(r"(?:/(?:[^~/]|~[01])*)+")
_INDEX: Final = re.compile(r"0|[1-9][0-9]{0,8}", re.ASCII)

Tokens = tuple[str, ...]


def parse(text: str) -> Tokens | None:
    """Give a pointer's tokens; None when it is none. The empty pointer, which is all of the body, is none here."""
    if not _POINTER.fullmatch(text):
        return None
    return tuple(token.replace("~1", "/").replace("~0", "~") for token in text[1:].split("/"))


def redact(root: Any, tokens: Tokens, action: Action) -> int:  # noqa: ANN401 - whatever JSON holds
    """Do an action wherever a pointer leads to; give how many values that were.

    A member that is dropped goes; an element of a list becomes null, for the others must keep their places.

    Raises:
        Unreadable: something on the way is neither what the pointer speaks of nor null.
    """
    replace = (lambda _value: None) if action.kind == DROP else action.value
    return change(children(root, tokens[:-1]), tokens[-1], replace, drop=action.kind == DROP)


def children(root: Any, tokens: Sequence[str]) -> list[Any]:  # noqa: ANN401 - as above
    """Give the values that tokens lead to."""
    found = [root]
    for token in tokens:
        found = [child for node in found for child in _below(node, token)]
    return found


def change(nodes: Sequence[Any], token: str, replace: Callable[[Any], Any], *, drop: bool = False) -> int:
    """Replace what one more token leads to from each of some values; give how many that were."""
    count = 0
    for node in nodes:
        for place in _places(node, token):
            if drop and isinstance(node, dict):
                del node[place]
            else:
                node[place] = replace(node[place])
            count += 1
    return count


def _below(node: Any, token: str) -> list[Any]:  # noqa: ANN401 - as above
    return [node[place] for place in _places(node, token)]


def _places(node: Any, token: str) -> Sequence[Any]:  # noqa: ANN401 - as above
    if isinstance(node, dict):
        if token == EVERY:
            return list(node)
        return (token,) if token in node else ()
    if isinstance(node, list):
        if token == EVERY:
            return range(len(node))
        if _INDEX.fullmatch(token):
            return (int(token),) if int(token) < len(node) else ()
        raise Unreadable("shape")
    if node is None:
        return ()
    raise Unreadable("shape")
