"""`sidelight predict` on real files, as a command: equal to the model itself, killed and resumed, with clear errors."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from skops import io

from deploy import cli
from inference.offline.inputs import CSV_UNIT
from tests.inference.kafka.summing import SUMMING, stop
from tests.inference.serving import GATED

ROWS = 5_000
NAMES = ["age", "income", "debt"]


@pytest.fixture(scope="module")
def people() -> pd.DataFrame:
    """Give rows, with an id and a text that are no features, and the features in another order than the model's."""
    draw = np.random.default_rng(3)
    frame = pd.DataFrame(draw.normal(size=(ROWS, 3)), columns=["debt", "age", "income"])
    frame["id"] = np.arange(ROWS) * 7
    frame["city"] = [f"city {place % 5}" for place in range(ROWS)]
    return frame


@pytest.fixture(scope="module")
def named(people: pd.DataFrame, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """Give a model that names its features, and its folder."""
    features = people[NAMES]
    model = make_pipeline(StandardScaler(), LogisticRegression()).fit(features, features.sum(axis=1) > 0)
    folder = tmp_path_factory.mktemp("named")
    io.dump(model, folder / "model.skops")
    (folder / "sidelight.json").write_text('{"output": "predict_proba"}')
    return folder, model


@pytest.fixture(autouse=True)
def _threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have what the command says to native libraries end with the test: others' processes would hear it, too."""
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        monkeypatch.setenv(name, "1")


def predict(*words: str | Path, fails: bool = False) -> int:
    """Run the command in this process."""
    code = cli.main(["predict", *map(str, words)])

    assert (code != 0) == fails
    return code


def expected(model: Any, frame: pd.DataFrame) -> NDArray[np.float64]:  # noqa: ANN401 - any estimator
    """Give what the model says by itself."""
    return np.asarray(model.predict_proba(frame[NAMES]), np.float64)


def lists(table: pa.Table, name: str) -> NDArray[np.float64]:
    """Give a column of lists as an array."""
    column = table.column(name).combine_chunks()
    return np.asarray(column.flatten()).reshape(len(column), -1)


def test_parquet_gives_what_the_model_gives(people: pd.DataFrame, named: tuple[Path, Any], tmp_path: Path) -> None:
    """Columns go by name, kept ones go through as they are, and every row has its prediction, in order."""
    folder, model = named
    people.to_parquet(tmp_path / "in.parquet", row_group_size=700)
    predict("--model_dir", folder, "--input", tmp_path / "in.parquet", "--output", tmp_path / "out.parquet",
            "--keep", "id,city", "--batch_rows", "256")  # fmt: skip
    out = pq.read_table(tmp_path / "out.parquet")

    assert out.column_names == ["id", "city", "output-0"]
    assert out.column("id").to_pylist() == people["id"].tolist()
    assert out.column("city").to_pylist() == people["city"].tolist()
    np.testing.assert_allclose(lists(out, "output-0"), expected(model, people), rtol=1e-12)
    assert {path.name for path in tmp_path.iterdir()} == {"in.parquet", "out.parquet"}


def test_csv_gives_what_parquet_gives(people: pd.DataFrame, named: tuple[Path, Any], tmp_path: Path) -> None:
    """From CSV to CSV, with a column under another name; lists become columns of their own."""
    folder, model = named
    renamed = people.rename(columns={"income": "gross"})
    renamed.to_csv(tmp_path / "in.csv", index=False)
    predict("--model_dir", folder, "--input", tmp_path / "in.csv", "--output", tmp_path / "out.csv",
            "--keep", "id", "--columns", "income=gross", "--output_column", "risk", "--quiet")  # fmt: skip
    out = pd.read_csv(tmp_path / "out.csv")

    assert list(out.columns) == ["id", "risk.0", "risk.1"]
    assert out["id"].tolist() == people["id"].tolist()
    np.testing.assert_allclose(out[["risk.0", "risk.1"]].to_numpy(), expected(model, people), rtol=1e-9)


def test_a_folder_is_all_of_its_files(people: pd.DataFrame, named: tuple[Path, Any], tmp_path: Path) -> None:
    """A lake's folder with observations, whose inputs are called `in.…`; hidden files and markers are none of it."""
    folder, model = named
    lake = tmp_path / "lake" / "day=1"
    lake.mkdir(parents=True)
    frame = people.rename(columns={name: f"in.{name}" for name in NAMES} | {"id": "_id"})
    for place in range(4):
        frame[place * 1_250 : (place + 1) * 1_250].to_parquet(lake / f"{place}.parquet", row_group_size=500)
    (lake / "_SUCCESS").touch()
    predict("--model_dir", folder, "--input", tmp_path / "lake", "--output", tmp_path / "out.parquet", "--keep", "_id")
    out = pq.read_table(tmp_path / "out.parquet")

    assert out.column("_id").to_pylist() == people["id"].tolist()
    np.testing.assert_allclose(lists(out, "output-0"), expected(model, people), rtol=1e-12)


def test_a_model_without_names_gets_all_numbers(tmp_path: Path) -> None:
    """Columns that hold numbers, whole or not, in the file's order; kept ones are no features; missing ones are NaN."""
    table = pa.table({"id": [1, 2], "a": [1, 2], "t": ["x", "y"], "b": [0.5, None], "c": [True, False]})
    pq.write_table(table, tmp_path / "in.parquet")
    predict("--model_dir", tmp_path, "--runtime", SUMMING, "--input", tmp_path / "in.parquet",
            "--output", tmp_path / "out.parquet", "--keep", "id")  # fmt: skip
    out = pq.read_table(tmp_path / "out.parquet").to_pydict()

    assert out["id"] == [1, 2]
    assert out["sum"][0] == 2.5
    assert np.isnan(out["sum"][1])


def test_csv_units_are_cut_alike_every_time(tmp_path: Path) -> None:
    """More rows than a unit: none is lost at a cut, whatever the batches are."""
    count = 2 * CSV_UNIT + 17
    pa.csv.write_csv(pa.table({"id": range(count), "x": np.arange(count) * 1.0}), tmp_path / "in.csv")
    predict("--model_dir", tmp_path, "--runtime", SUMMING, "--input", tmp_path / "in.csv", "--output",
            tmp_path / "out.parquet", "--keep", "id", "--batch_rows", "5000", "--max_threads", "2")  # fmt: skip
    out = pq.read_table(tmp_path / "out.parquet")

    assert out.column("id").to_pylist() == list(range(count))
    assert out.column("sum").to_pylist() == [float(n) for n in range(count)]


def test_killed_it_goes_on_where_it_stopped(tmp_path: Path) -> None:
    """Killed several times, it keeps whole parts, does none again, and gives what an undisturbed run gives."""
    model = tmp_path / "model"
    model.mkdir()
    # After two parts it waits for its end, in the third.
    stop(model).write_text("1400")
    table = pa.table({"id": range(6_000), "x": np.arange(6_000) * 0.5})
    pq.write_table(table, tmp_path / "in.parquet", row_group_size=500)
    out, parts = tmp_path / "out.parquet", tmp_path / "out.parquet.parts"
    words = [
        "predict", "--model_dir", str(model), "--runtime", SUMMING, "--input", str(tmp_path / "in.parquet"),
        "--output", str(out), "--keep", "id", "--batch_rows", "64",
    ]  # fmt: skip
    kept: dict[str, int] = {}
    for kill in range(3):
        with (tmp_path / "log").open("wb") as log:
            process = subprocess.Popen([sys.executable, "-m", "deploy.cli", *words], stdout=log, stderr=log)
        await_parts(parts, 2 * kill + 2, process)
        process.send_signal(signal.SIGKILL)
        process.wait()
        now = {path.name: path.stat().st_mtime_ns for path in parts.glob("part-*.parquet")}

        assert not out.exists()
        assert {name: now.get(name) for name in kept} == kept, "a part that was whole was written again"
        kept = now
    stop(model).unlink()
    done = subprocess.run([sys.executable, "-m", "deploy.cli", *words], capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr
    assert f"of {len(kept)} parts are done" in done.stderr
    found = pq.read_table(out)
    assert found.column("id").to_pylist() == list(range(6_000))
    assert found.column("sum").to_pylist() == [n * 0.5 for n in range(6_000)]
    assert not parts.exists()


def await_parts(folder: Path, count: int, process: subprocess.Popen[bytes]) -> None:
    """Wait until so many parts are whole."""
    deadline = time.monotonic() + 60
    while len(list(folder.glob("part-*.parquet"))) < count:
        assert process.poll() is None, "it ended before it could be killed"
        assert time.monotonic() < deadline, "it never got that far"
        time.sleep(0.005)


def test_parts_of_another_run_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What was done for another input must not slip into this one; --restart forgets it."""
    bad = [1.0] * 900 + [-1.0] * 100
    pq.write_table(pa.table({"x": bad}), tmp_path / "in.parquet", row_group_size=100)
    words = ["--model_dir", str(tmp_path), "--runtime", SUMMING, "--output", str(tmp_path / "out.parquet"), "--input"]
    predict(*words, tmp_path / "in.parquet", fails=True)

    assert "in.parquet, row group 9, rows 0 to 99 of it: expected no negative number" in capsys.readouterr().err
    pq.write_table(pa.table({"x": [2.0] * 1_000}), tmp_path / "other.parquet", row_group_size=100)
    predict(*words, tmp_path / "other.parquet", fails=True)
    assert "holds parts of a run with another input" in capsys.readouterr().err
    predict("--restart", *words, tmp_path / "other.parquet")
    assert pq.read_table(tmp_path / "out.parquet").column("sum").to_pylist() == [2.0] * 1_000


@pytest.mark.parametrize(
    ("columns", "words", "said"),
    [
        ({"age": [1.0]}, [], "the model's input: the file has no column 'income', 'debt'; it has age"),
        ({"age": [1.0], "income": [1.0], "debt": [1.0]}, ["--keep", "id"], "--keep: the file has no column 'id'"),
        ({"age": [[1.0], [1.0, 2.0]], "income": [1.0] * 2, "debt": [1.0] * 2}, [], "column 'age': expected lists"),
        ({"age": ["old"], "income": [1.0], "debt": [1.0]}, [], "row group 0, rows 0 to 0 of it:"),
        ({"age": ["1", None], "income": [1.0] * 2, "debt": [1.0] * 2}, [], "column 'age': string: expected a value in"),
        (
            {"age": pa.array([0], pa.timestamp("s")), "income": [1.0], "debt": [1.0]}, [],
            "row group 0, rows 0 to 0 of it: column 'age': expected numbers, booleans, texts or lists",
        ),
        ({"age": [1.0], "income": [1.0], "debt": [1.0]}, ["--columns", "wage=age"], "the model has no ['wage']"),
        ({"age": [1.0], "income": [1.0], "debt": [1.0]}, ["--columns", "age,age"], "a name comes twice"),
    ],
)  # fmt: skip
def test_errors_name_file_rows_and_column(
    named: tuple[Path, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str],
    columns: dict[str, Any], words: list[str], said: str,
) -> None:  # fmt: skip
    """What is wrong with the data is one line that says where, and nothing is written under the output's name."""
    pq.write_table(pa.table(columns), tmp_path / "in.parquet")
    predict("--model_dir", named[0], "--input", tmp_path / "in.parquet", "--output", tmp_path / "out.parquet", *words,
            fails=True)  # fmt: skip

    assert said in capsys.readouterr().err
    assert not (tmp_path / "out.parquet").exists()


@pytest.mark.parametrize(
    ("source", "output", "said"),
    [
        ("nothing.parquet", "out.parquet", "no such file or folder"),
        ("in.txt", "out.parquet", "expected *.parquet, or *.csv or *.tsv, got in.txt"),
        ("broken.parquet", "out.parquet", "broken.parquet: "),
        ("in.csv", "out.xlsx", "expected a name that ends in .parquet or .csv"),
        ("in.csv", "nowhere/out.csv", "nowhere: no such folder"),
    ],
)
def test_files_that_cannot_be_used_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], source: str, output: str, said: str
) -> None:
    """Before anything is predicted."""
    (tmp_path / "in.txt").write_text("x")
    (tmp_path / "broken.parquet").write_text("x")
    (tmp_path / "in.csv").write_text("x\n1\n")
    predict("--model_dir", tmp_path, "--runtime", SUMMING, "--input", tmp_path / source, "--output", tmp_path / output,
            fails=True)  # fmt: skip

    assert said in capsys.readouterr().err


def test_the_output_is_no_part_of_the_input(
    named: tuple[Path, Any], people: pd.DataFrame, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Neither is the input replaced by its predictions, nor are these read by the next run, whatever the spelling."""
    folder = tmp_path / "in"
    folder.mkdir()
    file = folder / "people.parquet"
    people.to_parquet(file)
    (tmp_path / "link").symlink_to(folder)
    before = file.read_bytes()
    for words, says in (
        ((file, tmp_path / "link" / "people.parquet"), "is the input, which would be lost"),
        ((folder, tmp_path / "link" / "deeper" / ".." / "scores.parquet"), "lies within the input"),
    ):
        predict("--model_dir", named[0], "--input", words[0], "--output", words[1], fails=True)

        assert says in capsys.readouterr().err
    assert file.read_bytes() == before
    assert [each.name for each in folder.iterdir()] == ["people.parquet"]


def test_a_value_that_breaks_a_csv_column_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Numbers at first and text later: the error says in which column, of which file, after which row."""
    lines = ["x", *("1" for _ in range(700_000)), "many"]
    (tmp_path / "in.csv").write_text("\n".join(lines))
    predict("--model_dir", tmp_path, "--runtime", SUMMING, "--input", tmp_path / "in.csv", "--output",
            tmp_path / "out.parquet", "--quiet", fails=True)  # fmt: skip
    said = capsys.readouterr().err

    assert "in.csv, after row " in said
    assert "'many'" in said


def test_two_processes_do_not_write_one_output(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A second run of the same output is refused while the first is at work."""
    (tmp_path / "slow").write_text("5")
    pq.write_table(pa.table({"x": np.ones(20_000)}), tmp_path / "in.parquet", row_group_size=20)
    words = [
        "--model_dir", str(tmp_path), "--runtime", SUMMING, "--input", str(tmp_path / "in.parquet"),
        "--output", str(tmp_path / "out.parquet"),
    ]  # fmt: skip
    first = subprocess.Popen([sys.executable, "-m", "deploy.cli", "predict", *words], stderr=subprocess.DEVNULL)
    try:
        await_parts(tmp_path / "out.parquet.parts", 1, first)
        predict(*words, fails=True)
    finally:
        first.kill()
        first.wait()

    assert "another process is at work there" in capsys.readouterr().err


def test_a_lost_gpu_ends_the_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """No row holds an error: the command fails at the first batch that the device refuses, and there is no output."""
    model = tmp_path / "model"
    model.mkdir()
    for name in ("gpu", "lost"):
        (model / name).touch()
    (tmp_path / "rows.csv").write_text("a,b\n" + "1.0,2.0\n" * 10)
    files = ("--input", tmp_path / "rows.csv", "--output", tmp_path / "out.csv")
    predict("--model_dir", model, "--runtime", GATED, *files, "--batch_rows", "2", fails=True)

    assert "rows 0 to 1 of it: the gate is lost" in capsys.readouterr().err
    assert not (tmp_path / "out.csv").exists()
