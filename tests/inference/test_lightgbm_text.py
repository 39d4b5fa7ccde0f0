"""What must be refused before LightGBM's own parser, which would end the process, sees it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from inference import lightgbm_text
from inference.lightgbm_text import Damaged
from inference.runtime import RUNTIMES


@pytest.fixture(name="model", scope="module")
def _model(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    directory: Path = tmp_path_factory.mktemp("lightgbm")
    RUNTIMES.find("lightgbm").example(directory)
    return (directory / "model.txt").read_bytes()


def test_every_cut_is_refused(model: bytes) -> None:
    """A file cut anywhere before the end of its trees is refused, never handed on."""
    end = model.index(b"end of trees")
    for length in range(0, end, 13):
        with pytest.raises(Damaged):
            lightgbm_text.check(model[:length])
    lightgbm_text.check(model)


@pytest.mark.parametrize(
    ("pattern", "replacement", "says"),
    [
        (rb"^tree", b"true", "first line"),
        (rb"max_feature_idx=3", b"max_feature_idx=4", "feature_names: expected 5 entries"),
        (rb"max_feature_idx=3", b"max_feature_idx=x", "expected a whole number"),
        (rb"num_tree_per_iteration=3", b"num_tree_per_iteration=4", "do not make up iterations of 4"),
        (rb"tree_sizes=\d", b"tree_sizes=9", "tree 0: "),
        (rb"Tree=1\n", b"Tree=7\n", "expected 'Tree=1', got 'Tree=7'"),
        (rb"num_leaves=3", b"num_leaves=4", "leaf_value: expected 4 numbers, got 3"),
        (rb"num_cat=0", b"num_cat=1", "cat_boundaries: expected 2 numbers, got 0"),
        (rb"is_linear=0", b"is_linear=1", "leaf_const: expected 3 numbers, got 0"),
        (rb"split_feature=\d", b"split_feature=8", "split_feature: expected whole numbers from 0 to 3"),
        (rb"left_child=1 ", b"left_child=0 ", "left_child: a split leads back"),
        (rb"right_child=-2", b"right_child=-9", "right_child: expected whole numbers from -3 to 1"),
        (rb"threshold=\d", b"threshold=x", "threshold: expected numbers"),
        (rb"num_cat=0", b"shrinkage", "is given twice|expected a whole number"),
    ],
)
def test_damage_is_named(model: bytes, pattern: bytes, replacement: bytes, says: str) -> None:
    """What the parser and the walk rely on is checked, and the message says which tree and field."""
    damaged, count = re.subn(pattern, replacement, model, count=1, flags=re.MULTILINE)

    assert count == 1
    with pytest.raises(Damaged, match=says):
        lightgbm_text.check(damaged)
