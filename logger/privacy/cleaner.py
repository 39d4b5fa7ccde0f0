"""Applies the rules to an exchange, and fails closed: length and digest take the place of a body that is not certain.

Pure but for its counts. What leaves here still decodes as it did before: `logger/tap.py` makes events of it.
"""

from __future__ import annotations

import gzip
import hashlib
import hmac
import io
import json
import zlib
from collections import Counter
from typing import Any, Final

import orjson

from logger.heads import Fields
from logger.privacy import pointers, tensors
from logger.privacy.actions import DROP, MASK, Action
from logger.privacy.errors import Unreadable
from logger.privacy.rules import REQUEST, RESPONSE, Plan, PointerRule, Privacy, TensorRule, apply_headers
from logger.tap import Body, Marks, Seen
from streams.events import REDACTED, WITHHELD

_ENCODING: Final = b"content-encoding"
_HEADER_LENGTH: Final = b"inference-header-content-length"
_TYPE: Final = b"content-type"
_PLAIN: Final = frozenset({b"", b"identity"})
_GZIP: Final = frozenset({b"gzip", b"x-gzip"})
_MAGIC: Final = b"\x1f\x8b"
_FREE: Final = 64 << 10
_RATIO: Final = 200
"""Above 64 KiB, most bytes that one compressed byte may become."""
_DIGITS: Final = bytes(ord("0" if byte in b"0123456789" else " ") for byte in range(256))
_LONG: Final = b"0" * 19
"""Whole numbers below 19 digits fit 64 bits; of longer ones orjson would make floating-point numbers."""
_KEYS: Final = {REQUEST: "inputs", RESPONSE: "outputs"}
_OTHER: Final = {"inputs": "outputs", "outputs": "inputs"}
_V1_ROWS: Final = ("instances", "inputs")
_DATA: Final = "data"
_REDACTED: Final[Marks] = ((f"ce_{REDACTED}", b"true"),)
_MASK: Final = Action(kind=MASK)


class Clean(Body):
    """A body that rules were applied to."""

    __slots__ = ("_cut", "_marks")

    def __init__(self, content: bytes, marks: Marks, *, cut: bool = False) -> None:
        super().__init__([content], len(content), len(content))
        self._marks, self._cut = marks, cut

    @property
    def truncated(self) -> bool:
        """Tell whether content was missing before."""
        return self._cut

    @property
    def marks(self) -> Marks:
        """Give what the event says of it."""
        return self._marks


class Cleaner:
    """Applies one privacy file.

    Args:
        limit: bytes of the largest body that may leave here, compressed or not.
        mode: which side is logged: `all`, `request` or `response`; the other is left alone.
    """

    def __init__(self, privacy: Privacy, limit: int, mode: str = "all") -> None:
        self._privacy, self._limit = privacy, limit
        self._rules = bool(privacy.request or privacy.response)
        self._sides = {REQUEST, RESPONSE} if mode == "all" else {mode}
        self.counts: Counter[str] = Counter()
        """Bodies that were redacted (under `redacted`) and withheld (under the reason)."""

    def clean(self, seen: Seen) -> Seen:
        """Give an exchange as it may be logged: the same object, changed. Never raises."""
        privacy, v1 = self._privacy, _is_v1(seen.path)
        failed = not 200 <= seen.status < 300  # noqa: PLR2004 - HTTP's class of successes
        if privacy.headers:
            seen.request_fields = apply_headers(seen.request_fields, privacy.headers)
        if privacy.request and REQUEST in self._sides:
            seen.request, seen.request_fields = self._side(
                seen.request, seen.request_fields, REQUEST, privacy.request, v1=v1
            )
        if RESPONSE not in self._sides:
            return seen
        if failed and self._rules and not privacy.keep_failed:
            # What a model says of an input that it cannot take often quotes it.
            seen.response, seen.response_fields = self._withheld(seen.response, seen.response_fields, "failed-call")
        elif privacy.response:
            seen.response, seen.response_fields = self._side(
                seen.response, seen.response_fields, RESPONSE, privacy.response, v1=v1
            )
        return seen

    def _side(self, body: Body, fields: Fields, side: str, plan: Plan, *, v1: bool) -> tuple[Body, Fields]:
        try:
            if body.truncated:
                raise Unreadable("truncated")  # noqa: TRY301 - one way out for all reasons
            if not body.kept:
                return body, fields
            plain = _plain(b"".join(body.chunks), fields, self._limit)
            head = None if v1 else _header_length(fields, len(plain))
            content, length = _redacted(plain, head, side, plan, v1=v1)
            if len(content) > self._limit:
                raise Unreadable("too-large")  # noqa: TRY301 - as above
        except Unreadable as exc:
            return self._withheld(body, fields, exc.reason)
        except RecursionError:
            return self._withheld(body, fields, "too-deep")
        except Exception:  # noqa: BLE001 - a fault of ours; its text might quote the body, so it is counted, not logged
            return self._withheld(body, fields, "fault")
        self.counts["redacted"] += 1
        kept = [item for item in fields if item[0] not in {_ENCODING, _HEADER_LENGTH}]
        if length is not None:
            kept.append((_HEADER_LENGTH, b"%d" % length))
        return Clean(content, _REDACTED), kept

    def _withheld(self, body: Body, fields: Fields, reason: str) -> tuple[Body, Fields]:
        """Put length and digest in a body's place; one of which nothing was kept has nothing to hide."""
        if not body.kept:
            return body, fields
        self.counts[reason] += 1
        digest = self._privacy.digest
        content = b"".join(body.chunks)
        told: dict[str, Any] = {"withheld": reason, "length": body.size}
        if body.truncated:
            told["kept"] = body.kept
        if digest is None:
            told["sha256"] = hashlib.sha256(content).hexdigest()
        else:
            told |= {"hmac-sha256": hmac.digest(digest.key, content, "sha256").hex(), "key": digest.key_id}
        dropped = {_ENCODING, _HEADER_LENGTH, _TYPE}
        kept = [(_TYPE, b"application/json"), *(item for item in fields if item[0] not in dropped)]
        marks = ((f"ce_{WITHHELD}", reason.encode()),)
        return Clean(orjson.dumps(told), marks, cut=body.truncated), kept


def _is_v1(path: str) -> bool:
    return path.endswith(":predict")


def _plain(data: bytes, fields: Fields, limit: int) -> bytes:
    """Give a body without its compression."""
    codings = [value.strip().lower() for name, value in fields if name == _ENCODING]
    if len(codings) > 1 or not set(codings) <= _PLAIN | _GZIP:
        raise Unreadable("encoding")
    if data[:2] != _MAGIC and not _GZIP & set(codings):
        return data
    most = min(limit, max(_FREE, _RATIO * len(data)))
    try:
        with gzip.open(io.BytesIO(data)) as stream:
            plain: bytes = stream.read(most + 1)
    except (OSError, EOFError, zlib.error):
        raise Unreadable("gzip") from None
    if len(plain) > most:
        raise Unreadable("inflated")
    return plain


def _header_length(fields: Fields, size: int) -> int | None:
    """Give where the JSON part of a V2 body ends, if the sender says so."""
    given = {value.strip() for name, value in fields if name == _HEADER_LENGTH}
    if not given:
        return None
    text = given.pop()
    if given or not text.isdigit() or len(text) > len(str(size)) or not 0 < int(text) <= size:
        raise Unreadable("header-length")
    return int(text)


def _redacted(plain: bytes, head: int | None, side: str, plan: Plan, *, v1: bool) -> tuple[bytes, int | None]:
    """Apply the rules to a body; give it and the length of its JSON part, if that is not all of it."""
    fields = _loads(plain if head is None else plain[:head])
    if v1:
        for rule in plan.pointers:
            _count(rule, sum(pointers.redact(fields, tokens, rule.action) for tokens in _v1_tokens(rule, side)))
        _count_missing_tensors(plan)
        return _dumps(fields), None
    tail = b"" if head is None else plain[head:]
    key = _KEYS[side]
    touched = bool(plan.tensors)
    for rule in plan.pointers:
        touched |= rule.tokens[0] in {key, pointers.EVERY}
        _count(rule, _point(fields, rule, key))
    if touched:
        tail = _change_tensors(fields, key, tail, plan.tensors)
    content = _dumps(fields)
    return (content, None) if head is None else (content + tail, len(content))


def _v1_tokens(rule: PointerRule, side: str) -> list[pointers.Tokens]:
    """Give a pointer in the spellings that V1 takes for one: `instances` and `inputs` mean the same."""
    if side == REQUEST and rule.tokens[0] in _V1_ROWS:
        return [(name, *rule.tokens[1:]) for name in _V1_ROWS]
    return [rule.tokens]


def _point(fields: Any, rule: PointerRule, key: str) -> int:  # noqa: ANN401 - whatever JSON holds
    """Apply a pointer to the JSON part of a V2 body; the data of a tensor has to stay what its datatype says."""
    tokens = rule.tokens
    if tokens[0] != key or tokens[2:3] != (_DATA,):
        return pointers.redact(fields, tokens, rule.action)
    count = 0
    for item in pointers.children(fields, tokens[:2]):
        if isinstance(item, dict) and _DATA not in item:
            # The values lie behind the JSON, where no pointer leads; a rule for the tensor does.
            raise Unreadable("binary")
        tensor = tensors.Tensor(item, memoryview(b""))
        action = _MASK if rule.action.kind == DROP else rule.action

        def replace(value: Any, tensor: tensors.Tensor = tensor, action: Action = action) -> Any:  # noqa: ANN401 - as above
            return tensor.cell(value, action)

        count += pointers.change(pointers.children(item, tokens[2:-1]), tokens[-1], replace)
    return count


def _change_tensors(fields: Any, key: str, tail: bytes, rules: tuple[TensorRule, ...]) -> bytes:  # noqa: ANN401 - as above
    """Apply the rules for tensors, and make sure that all tensors are whole; give the binary part anew."""
    found = tensors.read(fields, key, tail)
    dropped: list[tensors.Tensor] = []
    for rule in rules:
        named = [tensor for tensor in found if tensor.name == rule.name]
        _count(rule, len(named))
        for tensor in named:
            if rule.action.kind != DROP or rule.column is not None:
                tensor.change(rule.column, rule.action)
            elif tensor not in dropped:
                dropped.append(tensor)
    if dropped and not any(tensor.count for tensor in found if tensor not in dropped):
        # Rows are counted by what is left of the tensors, so the last one stays, without its values.
        last = max(dropped, key=lambda tensor: tensor.count)
        last.change(None, _MASK)
        dropped.remove(last)
    kept = [tensor for tensor in found if tensor not in dropped]
    tail = b"".join([tensor.close() for tensor in kept])
    fields[key] = [tensor.item for tensor in kept]
    _change_strays(fields.get(_OTHER[key]), rules)
    return tail


def _change_strays(items: Any, rules: tuple[TensorRule, ...]) -> None:  # noqa: ANN401 - as above
    """Apply the rules for tensors to data where the protocol has none: an answer may repeat its inputs."""
    for item in items if isinstance(items, list) else ():
        if isinstance(item, dict) and _DATA in item:
            tensor = tensors.Tensor(item, memoryview(b""))
            for rule in rules:
                if rule.name == tensor.name:
                    tensor.change(rule.column, _MASK if rule.action.kind == DROP else rule.action)


def _count(rule: PointerRule | TensorRule, count: int) -> None:
    if rule.required and not count:
        raise Unreadable("missing")


def _count_missing_tensors(plan: Plan) -> None:
    for rule in plan.tensors:
        _count(rule, 0)


def _loads(text: bytes) -> Any:  # noqa: ANN401 - whatever JSON holds
    try:
        found = orjson.loads(text)
        return json.loads(text) if _LONG in text.translate(_DIGITS) else found
    except ValueError:
        raise Unreadable("not-json") from None


def _dumps(fields: Any) -> bytes:  # noqa: ANN401 - as above
    try:
        return orjson.dumps(fields)
    except TypeError:
        # Whole numbers beyond 64 bits, or nested deeper than orjson writes.
        return json.dumps(fields, ensure_ascii=False, separators=(",", ":")).encode()
