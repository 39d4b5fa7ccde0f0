"""Models in Google's and Azure's object stores, through their own libraries, from a server that speaks both."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from inference.errors import ModelLoadFailed
from inference.storage.cache import Storage, StorageSettings, digest_of
from inference.storage.fetching import Patience
from tests.inference.storage.clouds import ACCOUNT, KEY, Cloud, cloud

LARGE = bytes(range(256)) * 30_000
SCHEMES = pytest.mark.parametrize("scheme", ["gs", "gcs", "az", "abfs", "azure"])


@pytest.fixture(name="served")
def _served(monkeypatch: pytest.MonkeyPatch) -> Iterator[Cloud]:
    with cloud() as found:
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", found.url)
        monkeypatch.setenv("NO_GCE_CHECK", "true")
        monkeypatch.setenv(
            "AZURE_STORAGE_CONNECTION_STRING",
            f"DefaultEndpointsProtocol=http;AccountName={ACCOUNT};AccountKey={KEY};BlobEndpoint={found.url}/{ACCOUNT};",
        )
        found.objects = {
            "models/income/model.ubj": LARGE, "models/income/a b/ü.txt": b"text", "models/incoming/model.ubj": b"other",
            "models/one.ubj": b"one",
        }  # fmt: skip
        yield found


@pytest.fixture(name="storage")
def _storage(tmp_path: Path) -> Storage:
    return Storage(StorageSettings(cache=tmp_path / "cache", patience=Patience(timeout_s=10, tries=2, pause_s=0.01)))


@SCHEMES
def test_a_folder_is_fetched_once_and_again_when_it_changes(scheme: str, served: Cloud, storage: Storage) -> None:
    """All objects below the prefix, and no others; the store's own marks tell whether they are still the same."""
    first = storage.folder(f"{scheme}://models/income")
    again = storage.folder(f"{scheme}://models/income/")
    served.objects["models/income/model.ubj"] = LARGE[::-1]
    changed = storage.folder(f"{scheme}://models/income")

    assert {path.relative_to(first).as_posix() for path in first.rglob("*") if path.is_file()} == {
        "model.ubj", "a b/ü.txt",
    }  # fmt: skip
    assert (first / "model.ubj").read_bytes() == LARGE
    assert (first / "a b" / "ü.txt").read_text() == "text"
    assert again == first
    assert (changed / "model.ubj").read_bytes() == LARGE[::-1]


@SCHEMES
def test_one_object_with_its_digest(scheme: str, served: Cloud, storage: Storage, tmp_path: Path) -> None:
    """One object is a model's folder of one file; with a digest another content is refused."""
    (tmp_path / "one").write_bytes(served.objects["models/one.ubj"])
    digest = digest_of(tmp_path / "one")
    folder = storage.folder(f"{scheme}://models/one.ubj?sha256={digest}")
    served.objects["models/one.ubj"] = b"two"

    assert (folder / "one.ubj").read_bytes() == b"one"
    assert storage.folder(f"{scheme}://models/one.ubj", digest) == folder
    with pytest.raises(ModelLoadFailed, match="expected digest"):
        storage.folder(f"{scheme}://models/one.ubj", "0" * 64)


@SCHEMES
def test_what_is_missing_is_named(scheme: str, served: Cloud, storage: Storage) -> None:
    """A prefix with nothing below it is said by its name."""
    with pytest.raises(ModelLoadFailed, match=f"{scheme}://models/nothing: "):
        storage.folder(f"{scheme}://models/nothing")
    assert served.asked
