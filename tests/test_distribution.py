"""What the distribution promises about names, imports and size."""

from __future__ import annotations

import importlib.metadata
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("streams", "inference", "logger", "detectors", "explainers", "deploy")
HEAVY = ("numpy", "pandas", "pyarrow", "scipy", "sklearn", "torch", "xgboost")


def test_nobody_else_owns_our_names() -> None:
    """Another distribution with a package of one of our names would be imported in its place, or ours in its."""
    owners = importlib.metadata.packages_distributions()

    # An editable install of our own is not listed, so it may be nobody.
    assert {owner for name in PACKAGES for owner in owners.get(name, [])} <= {"sidelight"}


@pytest.mark.parametrize("command", ["logger", "collector", "kafka", "alerts", "payloads"])
def test_the_base_needs_no_numpy(command: str) -> None:
    """A base install has none of the heavy libraries, so its commands must not import them."""
    block = "".join(f"sys.modules[{name!r}] = None\n" for name in HEAVY)
    code = f"import sys\n{block}from deploy.cli import load\nload({command!r})"
    run = subprocess.run((sys.executable, "-c", code), capture_output=True, text=True, check=False)

    assert run.returncode == 0, run.stderr


@pytest.mark.parametrize(("command", "extra"), [("assembler", "inference"), ("detector", "detectors")])
def test_a_missing_extra_is_one_sentence(command: str, extra: str) -> None:
    """Without its extra a command says which one to install, and nothing else."""
    code = (
        "import sys\n"
        "class Absent:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        f"        if name.partition('.')[0] in {HEAVY!r}:\n"
        "            raise ModuleNotFoundError(f'No module named {name!r}', name=name)\n"
        "sys.meta_path.insert(0, Absent())\n"
        f"from deploy.cli import main\nsys.exit(main([{command!r}, '--help']))"
    )
    run = subprocess.run((sys.executable, "-c", code), capture_output=True, text=True, check=False)

    assert run.returncode == 2
    assert f"pip install 'sidelight[{extra}]'" in run.stderr
    assert len(run.stderr.splitlines()) == 1


def test_help_lists_every_command() -> None:
    """`sidelight` alone shows each command with its one line; each one's own help has examples."""
    overview = subprocess.run((sys.executable, "-m", "deploy.cli"), capture_output=True, text=True, check=True).stdout
    names = [path.stem for path in (ROOT / "deploy" / "commands").glob("[a-z]*.py")]

    assert all(f"  {name} " in overview for name in names)
    for name in names:
        run = subprocess.run(
            (sys.executable, "-m", "deploy.cli", name, "--help"), capture_output=True, text=True, check=True
        )
        assert f"sidelight {name}" in run.stdout.partition("examples:")[2]


def test_an_unknown_command_names_the_known_ones() -> None:
    """A misspelt command is one line and exit code 2."""
    run = subprocess.run((sys.executable, "-m", "deploy.cli", "pedictor"), capture_output=True, text=True, check=False)

    assert run.returncode == 2
    assert "unknown command 'pedictor'; known: " in run.stderr


def test_the_lock_holds_no_addresses() -> None:
    """The lock file is names, versions and digests; where they come from is the machine's affair."""
    text = (ROOT / "requirements" / "dev.lock").read_text()
    pinned = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]["dev"]

    assert "://" not in text
    assert all(name.partition("==")[0] in text for name in pinned if "==" in name)
