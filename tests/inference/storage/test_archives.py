"""Archives of strangers: unpacked inside their folder and within bounds, or refused."""

from __future__ import annotations

import io
import stat
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from inference.errors import ModelLoadFailed
from inference.storage.archives import Bounds, descended, is_archive, unpack

Member = tuple[str, bytes | str]
"""Name, and content; a text is a link's target."""


def tarred(path: Path, *members: Member, mode: str = "w:gz") -> Path:
    """Write a tar archive."""
    with tarfile.open(path, mode) as tar:  # type: ignore[call-overload]
        for name, content in members:
            info = tarfile.TarInfo(name)
            if isinstance(content, str):
                info.type, info.linkname = tarfile.SYMTYPE, content
                tar.addfile(info)
            else:
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    return path


def zipped(path: Path, *members: Member) -> Path:
    """Write a zip archive."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as folder:
        for name, content in members:
            info = zipfile.ZipInfo(name)
            info.compress_type = zipfile.ZIP_DEFLATED
            if isinstance(content, str):
                info.external_attr = (stat.S_IFLNK | 0o777) << 16
            folder.writestr(info, content)
    return path


KINDS = pytest.mark.parametrize(("write", "ending"), [(tarred, ".tar.gz"), (zipped, ".zip")])
Write = Callable[..., Path]


@pytest.fixture(name="into")
def _into(tmp_path: Path) -> Path:
    folder = tmp_path / "inside" / "into"
    folder.mkdir(parents=True)
    return folder


@KINDS
def test_files_come_out_as_they_went_in(tmp_path: Path, into: Path, write: Write, ending: str) -> None:
    """Names, folders and content are kept."""
    content = bytes(range(256)) * 10_000
    archive = write(tmp_path / f"m{ending}", ("1/model.bst", content), ("1/deep/er/x", b""), ("rollout.yaml", b"{}"))
    unpack(archive, archive.name, into, Bounds())

    assert (into / "1" / "model.bst").read_bytes() == content
    assert (into / "1" / "deep" / "er" / "x").read_bytes() == b""
    assert (into / "rollout.yaml").read_bytes() == b"{}"


@KINDS
@pytest.mark.parametrize("name", ["../out", "a/../../out", "/tmp/out", "..", "a\\..\\out"])  # noqa: S108 - refused
def test_nothing_leaves_the_folder(tmp_path: Path, into: Path, write: Write, ending: str, name: str) -> None:
    """A member whose name leads outside is refused, and nothing appears there."""
    archive = write(tmp_path / f"m{ending}", (name, b"x"))
    before = sorted(tmp_path.rglob("*"))

    with pytest.raises(ModelLoadFailed, match="would lie outside the model's folder"):
        unpack(archive, archive.name, into, Bounds())
    assert sorted(tmp_path.rglob("*")) == before


@KINDS
def test_links_are_refused(tmp_path: Path, into: Path, write: Write, ending: str) -> None:
    """A link could lead anywhere, also for a file that follows under its name."""
    archive = write(tmp_path / f"m{ending}", ("link", "/etc"), ("link/passwd", b"x"))

    with pytest.raises(ModelLoadFailed, match="expected files and folders only"):
        unpack(archive, archive.name, into, Bounds())
    assert list(into.iterdir()) == []


@pytest.mark.parametrize("kind", [tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE])
def test_devices_and_pipes_are_refused(tmp_path: Path, into: Path, kind: bytes) -> None:
    """Only plain files and folders are models."""
    path = tmp_path / "m.tar"
    with tarfile.open(path, "w") as tar:
        info = tarfile.TarInfo("thing")
        info.type, info.linkname = kind, "other"
        tar.addfile(info)

    with pytest.raises(ModelLoadFailed, match="'thing' is"):
        unpack(path, path.name, into, Bounds())


@KINDS
def test_bombs_stop_at_the_bound(tmp_path: Path, into: Path, write: Write, ending: str) -> None:
    """What comes out is counted, not what the archive says of itself."""
    archive = write(tmp_path / f"m{ending}", *((f"f{number}", bytes(1_000_000)) for number in range(20)))

    with pytest.raises(ModelLoadFailed, match="expected at most 5000000 bytes, unpacked"):
        unpack(archive, archive.name, into, Bounds(bytes=5_000_000))
    assert sum(path.stat().st_size for path in into.iterdir()) <= 5_000_000


@KINDS
def test_too_many_files_are_refused(tmp_path: Path, into: Path, write: Write, ending: str) -> None:
    """Files cost more than their bytes."""
    archive = write(tmp_path / f"m{ending}", *((f"f{number}", b"") for number in range(20)))

    with pytest.raises(ModelLoadFailed, match="expected at most 10 files"):
        unpack(archive, archive.name, into, Bounds(files=10))


@KINDS
@pytest.mark.parametrize("damage", ["cut", "noise", "empty"])
def test_damaged_archives_are_refused(tmp_path: Path, into: Path, write: Write, ending: str, damage: str) -> None:
    """A damaged archive is an error that names it, whatever the library says of it."""
    archive = write(tmp_path / f"m{ending}", ("model.bst", bytes(range(256)) * 1000))
    content = archive.read_bytes()
    archive.write_bytes({"cut": content[: len(content) // 2], "noise": b"\x93\x01\xfe" * 300, "empty": b""}[damage])

    with pytest.raises(ModelLoadFailed, match=rf"m\{ending}: no whole archive"):
        unpack(archive, archive.name, into, Bounds())


def test_the_same_name_twice_is_refused(tmp_path: Path, into: Path) -> None:
    """Which of two files is the model is not guessed."""
    archive = tarred(tmp_path / "m.tar.gz", ("a", b"1"), ("a", b"2"))

    with pytest.raises(ModelLoadFailed, match="no whole archive"):
        unpack(archive, archive.name, into, Bounds())


@pytest.mark.parametrize(
    ("members", "expected"),
    [
        (("model/model.bst",), "model"),
        (("1/model.bst",), "."),
        (("model.bst",), "."),
        (("a/x", "b/x"), "."),
        (("model/model.bst", ".DS_Store"), "model"),
    ],
)
def test_one_folder_around_everything_is_the_model(tmp_path: Path, members: tuple[str, ...], expected: str) -> None:
    """Archives are often made of the folder itself; a folder whose name is a number is a version."""
    for member in members:
        (tmp_path / member).parent.mkdir(exist_ok=True)
        (tmp_path / member).touch()

    assert descended(tmp_path) == tmp_path / expected


def test_archives_are_known_by_name() -> None:
    """Every ending that is unpacked, in any case; nothing else."""
    assert all(map(is_archive, ["m.zip", "m.tar", "m.tar.gz", "M.TGZ", "m.tar.bz2", "m.tar.xz"]))
    assert not any(map(is_archive, ["m.gz", "model.pt", "zip", "m.tar.gz.txt"]))
