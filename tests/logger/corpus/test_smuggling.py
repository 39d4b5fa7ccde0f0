"""Our own hostile requests through the proxy to servers of every kind: what each one saw is what the proxy logged."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.logger.corpus.backends import BACKENDS
from tests.logger.corpus.hostile import cases
from tests.logger.corpus.passage import pass_through


@pytest.mark.parametrize("name", BACKENDS)
def test_nothing_is_smuggled(name: str, tmp_path: Path) -> None:
    """Every request that a server saw is one that the proxy made, with the content that the proxy logged."""
    passage = pass_through(cases(), name, tmp_path)

    passage.check()
    for case in cases():
        if case.legal:
            assert passage.answers[case.name].count(b"HTTP/1.1 200") == 2, (case, passage.answers[case.name])
