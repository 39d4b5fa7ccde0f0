"""Classes that come with models: trusted, separate, read anew."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import pytest

from inference.errors import ModelLoadFailed, UnsafeFormat
from inference.modelcode import ModelCode
from inference.runtime import Source
from inference.settings import Trust


def _code(directory: Path, name: str = "model:Model", *, trusted: bool = True) -> ModelCode:
    return ModelCode(name, Source(path=directory, trust=Trust(code=trusted)))


def test_nothing_is_imported_without_trust(tmp_path: Path) -> None:
    """A class is refused with the flag that allows it, before any of its code has run."""
    (tmp_path / "model.py").write_text("from pathlib import Path\n(Path(__file__).parent / 'planted').touch()\n")

    with pytest.raises(UnsafeFormat, match=r"model\.py: Model: .*--trusted"):
        _code(tmp_path, trusted=False)
    assert not (tmp_path / "planted").exists()
    with pytest.raises(UnsafeFormat, match="this:Model"):
        _code(tmp_path, "this:Model", trusted=False)
    assert "this" not in sys.modules


def test_files_of_one_directory_see_each_other(tmp_path: Path) -> None:
    """Files import their neighbours relatively, folders too, also after the load; two models never share a module."""
    built: list[Any] = []
    for name in ("a", "b"):
        (tmp_path / name / "parts").mkdir(parents=True)
        (tmp_path / name / "model.py").write_text(
            "from .helper import NAME\n\nclass Model:\n    name = NAME\n"
            "    def late(self):\n        from .parts import late\n        return late.NAME\n"
        )
        (tmp_path / name / "helper.py").write_text(f"NAME = {name!r}\n")
        (tmp_path / name / "parts" / "__init__.py").touch()
        (tmp_path / name / "parts" / "late.py").write_text(f"NAME = {name * 2!r}\n")
        built.append(_code(tmp_path / name).build({}))

    assert [(model.name, model.late()) for model in built] == [("a", "aa"), ("b", "bb")]


def test_code_is_read_anew_and_leaves_nothing(tmp_path: Path) -> None:
    """A changed file of the same size and time counts at the next load; no compiled file is written; modules go."""
    before = set(sys.modules), list(sys.meta_path)
    versions = []
    for version in (1, 2):
        (tmp_path / "model.py").write_text(f"class Model:\n    version = {version}\n")
        os.utime(tmp_path / "model.py", (0, 0))
        code = _code(tmp_path)
        versions.append(code.kind.version)
        code.forget()

    assert versions == [1, 2]
    assert [path.name for path in tmp_path.iterdir()] == ["model.py"]
    assert (set(sys.modules), list(sys.meta_path)) == before


def test_installed_packages_are_found(tmp_path: Path) -> None:
    """Without such a file in the directory, the module is an installed one."""
    assert _code(tmp_path, "fractions:Fraction").build({"numerator": 3}) == 3


@pytest.mark.parametrize(
    ("text", "name", "says"),
    [
        ("", "model:Model", r"model\.py: Model: the module has no such class"),
        ("Model = 3", "model:Model", "the module has no such class"),
        ("class Model(", "model:Model", r"model\.py: Model: SyntaxError"),
        ("import absent_module", "model:Model", "ModuleNotFoundError: No module named 'absent_module'"),
        ("raise SystemExit(3)", "model:Model", "SystemExit: 3"),
        ("", "absent_module:Model", "absent_module:Model: ModuleNotFoundError"),
        ("", "model", "expected module:Class"),
        ("", "../model:Model", "expected module:Class"),
    ],
)
def test_code_that_cannot_be_loaded_is_refused(tmp_path: Path, text: str, name: str, says: str) -> None:
    """Whatever is wrong with the code is said with the file, and nothing of it stays."""
    (tmp_path / "model.py").write_text(text)
    before = set(sys.modules), list(sys.meta_path)

    with pytest.raises(ModelLoadFailed, match=says):
        _code(tmp_path, name)
    assert (set(sys.modules), list(sys.meta_path)) == before


def test_wrong_arguments_are_refused(tmp_path: Path) -> None:
    """Arguments that the class does not take are said in its own words."""
    (tmp_path / "model.py").write_text("class Model:\n    def __init__(self, depth):\n        self.depth = depth\n")

    assert _code(tmp_path).build({"depth": 3}).depth == 3
    with pytest.raises(ModelLoadFailed, match=r"model\.py: Model\(\): TypeError: .*'width'"):
        _code(tmp_path).build({"width": 3})
