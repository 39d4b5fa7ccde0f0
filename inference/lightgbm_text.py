"""Checks a LightGBM text model before the library sees it. Pure.

LightGBM 4.5 parses trees inside an OpenMP region, where its own error ends the whole process, and walks trees without
looking at bounds. A cut download must be one refused load, not a dead server, so what parser and walk rely on is
checked here. Format: `SaveModelToString` of the LightGBM project. Used by `inference/runtimes/lightgbm.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.float64]

_PER_SPLIT: Final = (b"split_feature", b"threshold", b"decision_type", b"left_child", b"right_child")
_PER_SPLIT_EXTRA: Final = (b"split_gain", b"internal_value", b"internal_weight", b"internal_count")
_PER_LEAF_EXTRA: Final = (b"leaf_weight", b"leaf_count")
_CATEGORICAL: Final = 1
"""Bit of a split's decision_type."""


class Damaged(ValueError):
    """The text is no complete LightGBM model; the message says where."""


def check(content: bytes) -> None:
    """Check a model.

    Raises:
        Damaged: the header, a tree or the end is missing, or numbers do not fit together.
    """
    head, _, rest = content.partition(b"\n\n")
    lines = head.split(b"\n")
    if lines[0].rstrip() != b"tree":
        raise Damaged("expected 'tree' as the first line")
    fields = _fields(lines[1:], "header")
    features = _whole(fields, b"max_feature_idx", "header") + 1
    for name in (b"feature_names", b"feature_infos"):
        if len(fields.get(name, b"").split()) != features:
            raise Damaged(f"header: {name.decode()}: expected {features} entries")
    sizes = _numbers(fields, b"tree_sizes", "header").astype(int)
    per_iteration = _whole(fields, b"num_tree_per_iteration", "header")
    if per_iteration < 1 or not len(sizes) or len(sizes) % per_iteration or sizes.min() < 1:
        raise Damaged(f"header: {len(sizes)} trees do not make up iterations of {per_iteration}")
    at = 0
    for index, size in enumerate(sizes.tolist()):
        _check_tree(rest[at : at + size], index, features)
        at += size
    if not rest[at:].startswith(b"end of trees"):
        raise Damaged(f"expected 'end of trees' after {len(sizes)} trees")


def _check_tree(block: bytes, index: int, features: int) -> None:
    where = f"tree {index}"
    lines = block.strip().split(b"\n")
    if lines[0] != b"Tree=%d" % index:
        raise Damaged(f"{where}: expected 'Tree={index}', got {lines[0][:20].decode(errors='replace')!r}")
    fields = _fields(lines[1:], where)
    leaves = _whole(fields, b"num_leaves", where)
    _sized(fields, b"leaf_value", leaves, where)
    if _whole(fields, b"num_cat", where):
        _check_categories(fields, where)
    if fields.get(b"is_linear", b"0") != b"0":
        _check_linear(fields, leaves, features, where)
    if leaves > 1:
        _check_splits(fields, leaves, features, where)


def _check_splits(fields: Mapping[bytes, bytes], leaves: int, features: int, where: str) -> None:
    split_feature, _, _, left, right = (_sized(fields, name, leaves - 1, where) for name in _PER_SPLIT)
    for name in _PER_SPLIT_EXTRA:
        _sized(fields, name, leaves - 1, where, optional=True)
    for name in _PER_LEAF_EXTRA:
        _sized(fields, name, leaves, where, optional=True)
    _within(split_feature, 0, features - 1, f"{where}: split_feature")
    own = np.arange(leaves - 1)
    for side, child in (("left_child", left), ("right_child", right)):
        _within(child, -leaves, leaves - 2, f"{where}: {side}")
        # A split's children come after it; else a walk may never end.
        if ((child >= 0) & (child <= own)).any():
            raise Damaged(f"{where}: {side}: a split leads back")


def _check_categories(fields: Mapping[bytes, bytes], where: str) -> None:
    count = _whole(fields, b"num_cat", where)
    boundaries = _sized(fields, b"cat_boundaries", count + 1, where)
    if boundaries[0] != 0 or (np.diff(boundaries) < 0).any():
        raise Damaged(f"{where}: cat_boundaries: expected rising numbers from 0")
    _sized(fields, b"cat_threshold", int(boundaries[-1]), where)
    thresholds, decisions = _numbers(fields, b"threshold", where), _numbers(fields, b"decision_type", where)
    if len(thresholds) != len(decisions):
        raise Damaged(f"{where}: threshold and decision_type: expected as many of each")
    categorical = thresholds[decisions.astype(int) & _CATEGORICAL == _CATEGORICAL]
    _within(categorical, 0, count - 1, f"{where}: threshold of a categorical split")


def _check_linear(fields: Mapping[bytes, bytes], leaves: int, features: int, where: str) -> None:
    _sized(fields, b"leaf_const", leaves, where)
    counts = _sized(fields, b"num_features", leaves, where)
    _within(counts, 0, features, f"{where}: num_features")
    _within(_sized(fields, b"leaf_features", int(counts.sum()), where), 0, features - 1, f"{where}: leaf_features")
    _sized(fields, b"leaf_coeff", int(counts.sum()), where)


def _fields(lines: list[bytes], where: str) -> dict[bytes, bytes]:
    fields: dict[bytes, bytes] = {}
    for line in lines:
        name, separator, value = line.partition(b"=")
        if name in fields:
            raise Damaged(f"{where}: {name[:20].decode(errors='replace')!r} is given twice")
        fields[name] = value if separator else b"1"
    return fields


def _whole(fields: Mapping[bytes, bytes], name: bytes, where: str) -> int:
    value = fields.get(name, b"")
    if not value.isdigit():
        raise Damaged(f"{where}: {name.decode()}: expected a whole number, got {value[:20].decode(errors='replace')!r}")
    return int(value)


def _numbers(fields: Mapping[bytes, bytes], name: bytes, where: str) -> Numbers:
    try:
        return np.array(fields.get(name, b"").split(), np.float64)
    except ValueError as exc:
        raise Damaged(f"{where}: {name.decode()}: expected numbers: {exc}") from exc


def _sized(fields: Mapping[bytes, bytes], name: bytes, count: int, where: str, *, optional: bool = False) -> Numbers:
    numbers = _numbers(fields, name, where)
    if len(numbers) != count and not (optional and not len(numbers)):
        raise Damaged(f"{where}: {name.decode()}: expected {count} numbers, got {len(numbers)}")
    return numbers


def _within(numbers: NDArray[Any], least: int, most: int, where: str) -> None:
    if len(numbers) and not (numbers.min() >= least and numbers.max() <= most and (numbers % 1 == 0).all()):
        raise Damaged(f"{where}: expected whole numbers from {least} to {most}")
