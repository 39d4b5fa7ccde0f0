"""The rules of a service, read from YAML. Strict: a rule that silently does nothing would be a leak.

Pure; the file of keys comes in through a function. Next on the path: `logger/privacy/cleaner.py`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, Final

import yaml

from logger.errors import BadRules
from logger.heads import Fields
from logger.privacy import pointers
from logger.privacy.actions import ACTIONS, BUCKET, DROP, MASK, PSEUDONYM, TRUNCATE, Action
from logger.tap import SECRET
from streams.keyring import Keyring

REQUEST: Final = "request"
RESPONSE: Final = "response"
_BOTH: Final = "both"
_SIDES: Final = (_BOTH, REQUEST, RESPONSE)
_TARGETS: Final = ("pointer", "tensor", "header")
_TOP: Final = ("rules", "keys", "failed_calls", "digest_key", "encryption")
# What each action needs beside its target, and what it may have.
_NEEDED: Final[Mapping[str, tuple[str, ...]]] = {
    DROP: (), MASK: (), PSEUDONYM: ("key",), BUCKET: ("width", "edges"), TRUNCATE: ("length",),
}  # fmt: skip
_ALLOWED: Final[Mapping[str, tuple[str, ...]]] = {
    "pointer": ("in", "action", "required"), "tensor": ("column", "in", "action", "required"), "header": ("action",),
}  # fmt: skip
_HEADER_ACTIONS: Final = (DROP, MASK, PSEUDONYM)
_NAME: Final = re.compile(r"[a-z0-9!#$%&'*+.^_`|~-]+", re.ASCII)
# Their values say how to read a body, or are the event's own id.
_FIXED: Final = frozenset({
    "content-type", "content-encoding", "inference-header-content-length", "x-request-id", "traceparent",
})  # fmt: skip
_ANSWERS: Final = ("withhold", "keep")


@dataclass(frozen=True, slots=True, kw_only=True)
class PointerRule:
    """A rule for JSON bodies."""

    tokens: pointers.Tokens
    action: Action
    required: bool = False
    """Whether a body without such a value is withheld."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorRule:
    """A rule for V2 tensors."""

    name: str
    column: int | None
    action: Action
    required: bool = False


@dataclass(frozen=True, slots=True)
class Plan:
    """The rules for one side."""

    pointers: tuple[PointerRule, ...] = ()
    tensors: tuple[TensorRule, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.pointers or self.tensors)


@dataclass(frozen=True, slots=True, kw_only=True)
class Privacy:
    """A whole privacy file."""

    request: Plan = Plan()
    response: Plan = Plan()
    headers: Mapping[bytes, Action]
    """By name in lower case."""
    keep_failed: bool = False
    """Whether answers of other statuses than 2xx go through the rules as all others do; models quote inputs in them."""
    digest: Action | None = None
    """Has the key for digests of bodies that are withheld; None is plain SHA-256."""
    encryption: Action | None = None
    """Has the key that encrypts."""


def read(text: str, keys_of: Callable[[str], Keyring]) -> Privacy:
    """Read a privacy file; `keys_of` reads the file of keys that it names.

    Raises:
        BadRules: not YAML, an unknown key, or a rule that cannot be meant; the text names the field.
    """
    top = _mapping(_yaml(text), "privacy file", _TOP)
    path = top.get("keys")
    if path is not None and not (isinstance(path, str) and path):
        raise BadRules(f"keys: expected a path, got {path!r}")
    ring = Keyring() if path is None else keys_of(path)
    rules = top.get("rules", [])
    if not isinstance(rules, list):
        raise BadRules(f"rules: expected a list, got {type(rules).__name__}")
    found = [_rule(rule, f"rules[{index}]", ring) for index, rule in enumerate(rules)]
    answers = _one_of(top.get("failed_calls", _ANSWERS[0]), _ANSWERS, "failed_calls")
    digest = top.get("digest_key")
    return _whole(
        found, ring, keep_failed=answers == "keep",
        digest=None if digest is None else _keyed(digest, "digest_key", ring), encryption=top.get("encryption"),
    )  # fmt: skip


def apply_headers(fields: Fields, actions: Mapping[bytes, Action]) -> Fields:
    """Apply the rules for header values."""
    return [
        (name, actions[name].raw(value) if name in actions else value)
        for name, value in fields
        if name not in actions or actions[name].kind != DROP
    ]


_Rule = tuple[tuple[str, ...], PointerRule | TensorRule | tuple[bytes, Action]]


def _whole(
    rules: Sequence[_Rule], ring: Keyring, *, keep_failed: bool, digest: Action | None, encryption: object
) -> Privacy:
    plans = {
        side: Plan(
            tuple(rule for sides, rule in rules if side in sides and isinstance(rule, PointerRule)),
            tuple(rule for sides, rule in rules if side in sides and isinstance(rule, TensorRule)),
        )
        for side in (REQUEST, RESPONSE)
    }
    headers = dict(rule for _, rule in rules if isinstance(rule, tuple))
    if len(headers) != sum(isinstance(rule, tuple) for _, rule in rules):
        raise BadRules("rules: a header has two rules")
    sealed = None if encryption is None else _encryption(encryption, ring)
    hashing = [*(rule[1] if isinstance(rule, tuple) else rule.action for _, rule in rules), digest]
    if sealed is not None and sealed.key_id in {action.key_id for action in hashing if action is not None}:
        raise BadRules(
            f"encryption.key: {sealed.key_id!r} makes pseudonyms or digests already; expected a key of its own"
        )
    return Privacy(
        request=plans[REQUEST], response=plans[RESPONSE], headers=headers, keep_failed=keep_failed, digest=digest,
        encryption=sealed,
    )  # fmt: skip


def _rule(given: object, where: str, ring: Keyring) -> _Rule:
    known = tuple(dict.fromkeys((*_TARGETS, *(name for names in _ALLOWED.values() for name in names), *_SETTINGS)))
    fields = _mapping(given, where, known)
    targets = [name for name in _TARGETS if name in fields]
    if len(targets) != 1:
        raise BadRules(f"{where}: expected one of {', '.join(_TARGETS)}, got {' and '.join(targets) or 'none'}")
    target = targets[0]
    if "action" not in fields:
        raise BadRules(f"{where}.action: is missing; expected one of {', '.join(ACTIONS)}")
    kind = _one_of(fields["action"], ACTIONS if target != "header" else _HEADER_ACTIONS, f"{where}.action")
    allowed = (target, *_ALLOWED[target], *_NEEDED[kind])
    for name in fields:
        if name not in allowed:
            raise BadRules(f"{where}.{name}: has no meaning for {target} and {kind}; expected {', '.join(allowed)}")
    action = _action(kind, fields, where, ring)
    if target == "header":
        return (), (_header(fields["header"], f"{where}.header"), action)
    side = _one_of(fields.get("in", _BOTH), _SIDES, f"{where}.in")
    sides = (REQUEST, RESPONSE) if side == _BOTH else (side,)
    return sides, (_pointer if target == "pointer" else _tensor)(fields, where, action)


def _pointer(fields: Mapping[str, Any], where: str, action: Action) -> PointerRule:
    tokens = pointers.parse(fields["pointer"]) if isinstance(fields["pointer"], str) else None
    if tokens is None or tokens[0] == pointers.EVERY:
        text = "expected a JSON pointer such as /instances/*/email, whose first part is a name"
        raise BadRules(f"{where}.pointer: {text}, got {fields['pointer']!r}")
    return PointerRule(tokens=tokens, action=action, required=_required(fields, where))


def _tensor(fields: Mapping[str, Any], where: str, action: Action) -> TensorRule:
    name, column = fields["tensor"], fields.get("column")
    if not isinstance(name, str) or not name:
        raise BadRules(f"{where}.tensor: expected a tensor's name, got {name!r}")
    if column is not None and (not isinstance(column, int) or isinstance(column, bool) or column < 0):
        raise BadRules(f"{where}.column: expected an index from 0 up, got {column!r}")
    return TensorRule(name=name, column=column, action=action, required=_required(fields, where))


def _required(fields: Mapping[str, Any], where: str) -> bool:
    required = fields.get("required", False)
    if not isinstance(required, bool):
        raise BadRules(f"{where}.required: expected true or false, got {required!r}")
    return required


_SETTINGS: Final = ("key", "width", "edges", "length")


def _action(kind: str, fields: Mapping[str, Any], where: str, ring: Keyring) -> Action:
    if kind == PSEUDONYM:
        return _keyed(fields.get("key"), f"{where}.key", ring)
    if kind == TRUNCATE:
        length = fields.get("length")
        if not isinstance(length, int) or isinstance(length, bool) or length < 0:
            raise BadRules(f"{where}.length: expected a number of characters from 0 up, got {length!r}")
        return Action(kind=kind, length=length)
    return _bucket(fields, where) if kind == BUCKET else Action(kind=kind)


def _bucket(fields: Mapping[str, Any], where: str) -> Action:
    if ("width" in fields) == ("edges" in fields):
        raise BadRules(f"{where}: bucket needs either width or edges")
    if "width" in fields:
        width = fields["width"]
        if not _is_number(width) or width <= 0:
            raise BadRules(f"{where}.width: expected a number above 0, got {width!r}")
        return Action(kind=BUCKET, width=width)
    edges = fields["edges"]
    numbers = edges if isinstance(edges, list) and all(map(_is_number, edges)) else []
    if not numbers or sorted(set(numbers)) != numbers:
        raise BadRules(f"{where}.edges: expected rising numbers, got {edges!r}")
    return Action(kind=BUCKET, edges=tuple(numbers))


def _keyed(key_id: object, where: str, ring: Keyring) -> Action:
    key = ring.get(key_id) if isinstance(key_id, str) else None
    if key is None:
        # What stands there may be a key that somebody took for its id.
        known = ", ".join(ring.ids()) or "none"
        raise BadRules(f"{where}: expected the id of a key; known: {known}{_meant(key_id, ring.ids())}")
    return Action(kind=PSEUDONYM, key_id=str(key_id), key=key)


def _header(name: object, where: str) -> bytes:
    if not isinstance(name, str) or not _NAME.fullmatch(name.lower()):
        raise BadRules(f"{where}: expected a header's name, got {name!r}")
    lower = name.lower()
    if lower in _FIXED:
        raise BadRules(f"{where}: {lower!r} says how an event is read; it cannot be changed")
    if lower.encode() in SECRET:
        raise BadRules(f"{where}: {lower!r} is never logged, so it needs no rule")
    return lower.encode()


def _encryption(given: object, ring: Keyring) -> Action:
    fields = _mapping(given, "encryption", ("key",))
    return _keyed(fields.get("key"), "encryption.key", ring)


def _one_of(value: object, known: Sequence[str], where: str) -> str:
    if not isinstance(value, str) or value not in known:
        raise BadRules(f"{where}: expected one of {', '.join(known)}, got {value!r}{_meant(value, known)}")
    return value


def _mapping(value: object, where: str, known: Sequence[str]) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise BadRules(f"{where}: expected keys and values, got {type(value).__name__}")
    for name in value:
        if name not in known:
            raise BadRules(f"{where}: unknown key {name!r}{_meant(name, known)}; known: {', '.join(known)}")
    return value


def _meant(value: object, known: Sequence[str]) -> str:
    near = get_close_matches(value, known, n=1) if isinstance(value, str) else []
    return f"; did you mean {near[0]!r}?" if near else ""


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


class _Strict(yaml.SafeLoader):
    """YAML of which nothing is lost: a key that comes twice is refused, where others let the last one win."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:  # noqa: FBT001, FBT002 - as in the base class
        names = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        for name in names:
            if names.count(name) > 1:
                raise BadRules(f"line {node.start_mark.line + 1}: key {name!r} comes twice")
        return super().construct_mapping(node, deep=deep)


def _yaml(text: str) -> object:
    try:
        return yaml.load(text, Loader=_Strict)  # noqa: S506 - a SafeLoader
    except yaml.YAMLError as exc:
        # Not its whole text, which quotes the file: that may be one of keys, given by mistake.
        mark = getattr(exc, "problem_mark", None)
        place = "" if mark is None else f" in line {mark.line + 1}"
        raise BadRules(f"not YAML{place}: {getattr(exc, 'problem', None) or 'unreadable'}") from None
