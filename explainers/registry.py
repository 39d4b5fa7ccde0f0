"""Finds explainers by name."""

from __future__ import annotations

from typing import Final

from explainers.base import Explainer
from streams.plugins import Folder

LIBRARY: Final = Folder(
    kind="explainer",
    package="explainers.library",
    base=Explainer,
    extras={"alibi": "alibi", "shap": "alibi", "art": "adversarial"},
)
