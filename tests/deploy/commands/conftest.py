"""Fixtures of the command tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.deploy.commands.calling import Sidelight


@pytest.fixture
def sidelight(tmp_path: Path) -> Sidelight:
    """Give the command, in a home where nothing runs."""
    return Sidelight(tmp_path)
