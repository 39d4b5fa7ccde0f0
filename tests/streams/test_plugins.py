"""Plug-ins by file name: listing imports nothing, finding imports one, and every mistake is named."""

from __future__ import annotations

import subprocess
import sys

import pytest

from streams.errors import MissingExtra, UnknownPlugin
from streams.plugins import Folder
from tests.streams.shapes._base import Shape

PACKAGE = "tests.streams.shapes"
SHAPES = Folder("shape", PACKAGE, Shape, {"sidelight_rounding": "round"})
NAMES = ("empty", "faulty", "long-square", "needs-nobody", "needs-rounding", "twins")


def test_listing_is_by_file_name_and_imports_nothing() -> None:
    """Dashes for underscores, sorted, private files left out; a file that fails on import is listed all the same."""
    assert SHAPES.names() == NAMES
    assert f"{PACKAGE}.faulty" not in sys.modules


def test_finding_imports_that_one_file() -> None:
    """A heavy library of another plug-in is not loaded."""
    code = (
        "import sys\nfrom tests.streams.test_plugins import SHAPES\nfound = SHAPES.find('long-square').__name__\n"
        f"print(found, *sorted(name for name in sys.modules if name.startswith('{PACKAGE}.')))"
    )
    run = subprocess.run((sys.executable, "-c", code), capture_output=True, text=True, check=True)

    assert run.stdout.split() == ["LongSquare", f"{PACKAGE}._base", f"{PACKAGE}.long_square"]


def test_a_class_from_outside_is_named_in_full() -> None:
    """Whatever file it is in, and also where a file has several."""
    assert SHAPES.find(f"{PACKAGE}.twins:Right").__name__ == "Right"


@pytest.mark.parametrize("name", ["square", "long_square", "Long-Square", "_base", "", "long-square.py", "../shapes"])
def test_an_unknown_name_lists_the_known_ones(name: str) -> None:
    """One spelling for each; the message has them all."""
    with pytest.raises(UnknownPlugin) as refused:
        SHAPES.find(name)

    assert str(refused.value) == f"unknown shape {name!r}; known: {', '.join(NAMES)}"
    assert (refused.value.kind, refused.value.name, refused.value.known) == ("shape", name, NAMES)


@pytest.mark.parametrize(
    "name",
    [
        f"{PACKAGE}.nowhere:Left", "nowhere:Left", f"{PACKAGE}.twins:", f"{PACKAGE}.twins:Middle", ":Left",
        f"{PACKAGE}.long_square:Corner", f"{PACKAGE}.long_square:__name__", "..twins:Left", "a b:Left", ":", "a/b:C",
    ],
)  # fmt: skip
def test_what_is_no_shape_outside_is_refused(name: str) -> None:
    """No such module, no such class, or a class of something else: one error, with the name as it was given."""
    with pytest.raises(UnknownPlugin, match="unknown shape ") as refused:
        SHAPES.find(name)

    assert refused.value.name.startswith(name)


@pytest.mark.parametrize("name", ["twins", "empty"])
def test_a_file_without_a_single_class_is_refused(name: str) -> None:
    """Two are one too many, and an imported one is not the file's own."""
    with pytest.raises(UnknownPlugin, match=rf"{name} \(no single subclass of Shape\)"):
        SHAPES.find(name)


@pytest.mark.parametrize("name", ["needs-rounding", f"{PACKAGE}.needs_rounding:X"])
def test_a_missing_library_names_its_extra(name: str) -> None:
    """One sentence that says what to install."""
    with pytest.raises(MissingExtra) as missing:
        SHAPES.find(name)

    assert str(missing.value) == f"shape {name!r} needs 'sidelight_rounding': pip install 'sidelight[round]'"


@pytest.mark.parametrize("name", ["needs-nobody", f"{PACKAGE}.needs_nobody:X"])
def test_another_missing_library_is_told_as_it_is(name: str) -> None:
    """Not as an unknown plug-in, even when its name begins as the plug-in's module does: the file is there."""
    with pytest.raises(ModuleNotFoundError, match="No module named 'te'"):
        SHAPES.find(name)


def test_a_plug_in_that_fails_fails_loudly() -> None:
    """A bug in a plug-in is nothing to translate."""
    with pytest.raises(RuntimeError, match="imported"):
        SHAPES.find("faulty")
