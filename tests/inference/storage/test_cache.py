"""Fetching models: whole or not there, of the promised digest, once, and again when they change."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
from base64 import b64encode
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from inference.errors import ModelLoadFailed
from inference.folders import ModelFolder, Stored
from inference.repository import Repository
from inference.settings import Trust
from inference.storage.archives import Bounds
from inference.storage.cache import Storage, StorageSettings, digest_of
from inference.storage.fetching import Patience
from tests.inference.shelves import ANSWERING, answer, write
from tests.inference.storage.test_archives import tarred
from tests.inference.storage.webserver import Web, web
from tests.objectstore import s3

QUICK = Patience(timeout_s=10, tries=4, pause_s=0.01)
CONTENT = bytes(range(256)) * 20_000


@pytest.fixture(name="storage")
def _storage(tmp_path: Path) -> Storage:
    return _with(tmp_path)


def _with(tmp_path: Path, **settings: object) -> Storage:
    return Storage(StorageSettings(**{"cache": tmp_path / "cache", "patience": QUICK, **settings}))  # type: ignore[arg-type]


@pytest.fixture(name="site")
def _site() -> Iterator[Web]:
    with web() as served:
        yield served


@pytest.fixture(name="bucket")
def _bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[object]:
    with s3(monkeypatch, "models") as client:
        yield client


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _in_cache(tmp_path: Path) -> list[str]:
    return [path.name for path in (tmp_path / "cache").iterdir() if not path.name.startswith(".lock-")]


def test_paths_are_themselves(tmp_path: Path, storage: Storage) -> None:
    """A folder here is not copied, however it is spelt."""
    folder = write(tmp_path / "a model", 1)
    mounted = _with(tmp_path, volumes={"claim": tmp_path})

    assert storage.folder(str(folder)) == folder
    assert storage.folder(f"file://{tmp_path}/a%20model") == folder
    assert mounted.folder("pvc://claim/a%20model") == folder
    assert storage.folder(str(folder / "model.answer")) == folder
    assert not (tmp_path / "cache").exists()


def test_a_file_over_http(site: Web, storage: Storage, tmp_path: Path) -> None:
    """A file is fetched under its own name, once as long as its tag is the same."""
    site.files["/a/model.bst"], site.tags["/a/model.bst"] = CONTENT, '"one"'
    first = storage.folder(f"{site.url}/a/model.bst")
    second = storage.folder(f"{site.url}/a/model.bst")
    asked = len(site.asked)
    site.files["/a/model.bst"], site.tags["/a/model.bst"] = b"new", '"two"'
    third = storage.folder(f"{site.url}/a/model.bst")

    assert (first / "model.bst").read_bytes() == CONTENT
    assert second == first
    assert asked == 3
    assert (third / "model.bst").read_bytes() == b"new"
    assert len(_in_cache(tmp_path)) == 2


def test_an_archive_over_http(site: Web, storage: Storage, tmp_path: Path) -> None:
    """An archive is unpacked, and the folder inside it found."""
    archive = tarred(tmp_path / "m.tgz", ("income/1/model.answer", b"5"), ("income/rollout.yaml", b"{stable: 1}"))
    site.files["/m.tgz"] = archive.read_bytes()
    folder = storage.folder(f"{site.url}/m.tgz")

    assert folder.name == "income"
    assert (folder / "1" / "model.answer").read_bytes() == b"5"


def test_a_download_that_breaks_off_goes_on(site: Web, storage: Storage) -> None:
    """What was fetched is not fetched again, if the server gives ranges and the file is the same."""
    site.files["/m.bst"], site.tags["/m.bst"] = CONTENT, '"one"'
    # The first is the look at the head.
    site.cuts = [0, 3_000_000, 1_000_000]
    folder = storage.folder(f"{site.url}/m.bst")
    places = [place for _, place in site.asked if place]

    assert (folder / "m.bst").read_bytes() == CONTENT
    assert places == ["bytes=3000000-", "bytes=4000000-"]


@pytest.mark.parametrize("tag", ['"one"', 'W/"one"', ""])
def test_without_ranges_it_begins_again(site: Web, storage: Storage, tag: str) -> None:
    """A server without ranges, or without a strong tag, gives the whole file again, and it is right."""
    site.files["/m.bst"], site.tags["/m.bst"] = CONTENT, tag
    site.ranges, site.cuts = False, [0, 3_000_000]

    assert (storage.folder(f"{site.url}/m.bst") / "m.bst").read_bytes() == CONTENT


def test_failures_that_pass_are_tried_again(site: Web, storage: Storage) -> None:
    """Overload and broken gateways pass; what is missing or forbidden does not, and is not asked for again."""
    site.files["/m.bst"] = CONTENT
    site.failures = [503, 429, 500]
    folder = storage.folder(f"{site.url}/m.bst")
    asked = len(site.asked)

    assert (folder / "m.bst").read_bytes() == CONTENT
    with pytest.raises(ModelLoadFailed, match=r"/gone\.bst: HTTP 404"):
        storage.folder(f"{site.url}/gone.bst")
    assert len(site.asked) == asked + 1
    site.failures = [503] * 10
    with pytest.raises(ModelLoadFailed, match="given up after 4 tries: HTTP Error 503"):
        storage.folder(f"{site.url}/m.bst")


def test_the_digest_is_checked(site: Web, storage: Storage, tmp_path: Path) -> None:
    """Another content than promised is not kept; the promised one is found again without asking the server."""
    site.files["/m.bst"] = CONTENT
    with pytest.raises(ModelLoadFailed, match=f"expected digest sha256:{'0' * 64}, got sha256:{_sha256(CONTENT)}"):
        storage.folder(f"{site.url}/m.bst?sha256={'0' * 64}")
    nothing = _in_cache(tmp_path)
    folder = storage.folder(f"{site.url}/m.bst?sha256={_sha256(CONTENT)}")
    site.failures = [500] * 100
    again = storage.folder(f"{site.url}/elsewhere.bst", f"sha256:{_sha256(CONTENT)}")

    assert nothing == []
    assert again == folder
    with pytest.raises(ModelLoadFailed, match="digest: expected sha256: and 64 hexadecimal digits, got 'md5:1'"):
        storage.folder(f"{site.url}/m.bst", "md5:1")


def test_the_digest_of_a_folder_is_what_a_shell_says(tmp_path: Path, storage: Storage) -> None:
    """Whoever publishes a folder computes its digest with sha256sum."""
    folder = write(tmp_path / "m" / "1", 5).parent
    write(folder / "10", 6)
    (folder / "B").write_bytes(b"")
    command = "find * -type f | LC_ALL=C sort | xargs sha256sum | sha256sum"
    shell = subprocess.run(command, shell=True, cwd=folder, capture_output=True, text=True, check=True)  # noqa: S602 - as documented
    digest = shell.stdout.split()[0]

    assert digest_of(folder) == digest
    assert storage.folder(str(folder), digest) == folder
    with pytest.raises(ModelLoadFailed, match="expected digest"):
        storage.folder(f"file://{folder}?sha256={'1' * 64}")


def test_secrets_of_a_uri_are_not_shown(
    site: Web, storage: Storage, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    """Passwords are used, and neither they nor signatures come into logs, messages or the cache."""
    site.files["/m.bst"], site.tags["/m.bst"] = CONTENT, '"one"'
    site.authorization = f"Basic {b64encode(b'user:pa55/word').decode()}"
    host = site.url.removeprefix("http://")
    site.failures = [503]
    caplog.set_level("INFO")
    storage.folder(f"http://user:pa55%2Fword@{host}/m.bst?signature=s1gned")
    site.failures = [403]
    with pytest.raises(ModelLoadFailed) as caught:
        storage.folder(f"http://user:pa55%2Fword@{host}/m.bst?signature=s1gned")
    said = caplog.text + str(caught.value) + " ".join(map(str, (tmp_path / "cache").rglob("*")))

    assert "m.bst: HTTP Error 503" in caplog.text
    assert not any(secret in said for secret in ("pa55", "s1gned"))


def test_nothing_half_is_ever_seen(site: Web, storage: Storage, tmp_path: Path) -> None:
    """A fetch that fails leaves nothing under any model's name; what a killed process left is cleared away."""
    site.files["/m.bst"], site.tags["/m.bst"] = CONTENT, '"one"'
    site.cuts = [1000] * 100
    with pytest.raises(ModelLoadFailed, match="given up after 4 tries"):
        storage.folder(f"{site.url}/m.bst")
    after_failure = _in_cache(tmp_path)
    lock = next((tmp_path / "cache").glob(".lock-*")).name.removeprefix(".lock-")
    (tmp_path / "cache" / f".incoming-{lock}-killed").mkdir()
    site.cuts = []
    folder = storage.folder(f"{site.url}/m.bst")

    assert after_failure == []
    assert _in_cache(tmp_path) == [folder.name]


def test_two_at_once_fetch_once(site: Web, storage: Storage, tmp_path: Path) -> None:
    """Whoever comes second waits, and takes what the first has fetched."""
    site.files["/m.bst"], site.tags["/m.bst"] = CONTENT, '"one"'
    storages = [storage, *(_with(tmp_path) for _ in range(5))]
    with ThreadPoolExecutor(6) as threads:
        folders = set(threads.map(lambda each: each.folder(f"{site.url}/m.bst"), storages))

    assert len(folders) == 1
    # Each looks at the head; one takes the body.
    assert len(site.asked) == 7


def test_bounds_hold_for_downloads(site: Web, tmp_path: Path) -> None:
    """A file beyond the bound is given up while it comes in."""
    site.files["/m.bst"] = CONTENT
    storage = _with(tmp_path, bounds=Bounds(bytes=1_000_000))

    with pytest.raises(ModelLoadFailed, match="expected at most 1000000 bytes, got more"):
        storage.folder(f"{site.url}/m.bst")
    assert _in_cache(tmp_path) == []


def test_long_downloads_say_how_far_they_are(site: Web, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Progress is said in megabytes, of how many, and at what rate."""
    site.files["/m.bst"] = CONTENT
    caplog.set_level("INFO")
    _with(tmp_path, patience=Patience(progress_s=0.0)).folder(f"{site.url}/m.bst")

    assert "m.bst: 5 of 5 MB, " in caplog.text
    assert "MB/s" in caplog.text


def test_a_folder_in_s3(bucket: object, storage: Storage) -> None:
    """All objects under a prefix are fetched, once as long as none of them changes."""
    put = bucket.put_object  # type: ignore[attr-defined]
    put(Bucket="models", Key="income/1/model.answer", Body=b"1")
    put(Bucket="models", Key="income/2/model.answer", Body=b"2")
    put(Bucket="models", Key="income-other/model.answer", Body=b"3")
    first = storage.folder("s3://models/income")
    again = storage.folder("s3://models/income/")
    put(Bucket="models", Key="income/3/model.answer", Body=b"33")
    changed = storage.folder("s3://models/income")

    assert sorted(str(path.relative_to(first)) for path in first.rglob("*.answer")) == [
        "1/model.answer", "2/model.answer"
    ]  # fmt: skip
    assert again == first
    assert (changed / "3" / "model.answer").read_bytes() == b"33"
    assert storage.folder("s3://models/income", digest_of(changed)) != first


def test_an_archive_in_s3(bucket: object, storage: Storage, tmp_path: Path) -> None:
    """One object is a file, or an archive."""
    archive = tarred(tmp_path / "m.tar.gz", ("model.answer", b"4"))
    bucket.put_object(Bucket="models", Key="m.tar.gz", Body=archive.read_bytes())  # type: ignore[attr-defined]
    folder = storage.folder(f"s3://models/m.tar.gz?sha256={digest_of(archive)}")

    assert (folder / "model.answer").read_bytes() == b"4"


def test_what_is_missing_in_s3_is_named(bucket: object, storage: Storage) -> None:
    """A prefix without objects, or a bucket that is not there, is named."""
    assert bucket is not None
    with pytest.raises(ModelLoadFailed, match="s3://models/nothing: nothing is there"):
        storage.folder("s3://models/nothing")
    with pytest.raises(ModelLoadFailed, match="s3://nowhere/x"):
        storage.folder("s3://nowhere/x")


@pytest.mark.parametrize(
    ("uri", "says"),
    [
        ("ftp://host/m", "ftp://host/m: scheme 'ftp' is not known; expected a path or one of file, pvc, http"),
        ("pvc://claim/m", "claim 'claim' has no folder here; name one: --volume claim=DIR"),
        ("file:///nowhere/m.zip", "/nowhere/m.zip: no such file"),
    ],
)
def test_mistakes_are_named(storage: Storage, uri: str, says: str) -> None:
    """A URI that cannot be served says what would be."""
    with pytest.raises(ModelLoadFailed) as caught:
        storage.folder(uri)

    assert says in str(caught.value)


def test_a_model_behind_a_uri_is_loaded_and_reloaded(site: Web, storage: Storage, tmp_path: Path) -> None:
    """A load call looks at the store again; what does not have the promised digest is not loaded."""
    site.files["/m.tgz"] = tarred(tmp_path / "m.tgz", ("1/model.answer", b"1")).read_bytes()
    site.tags["/m.tgz"] = '"one"'
    repository = Repository({"m": Stored(storage, f"{site.url}/m.tgz", "", Trust(), ANSWERING)})
    repository.load("m")
    first = answer(repository, "m")
    site.files["/m.tgz"] = tarred(tmp_path / "m.tgz", ("2/model.answer", b"2")).read_bytes()
    site.tags["/m.tgz"] = '"two"'
    repository.load("m")
    second = answer(repository, "m")
    site.failures = [404]
    with pytest.raises(ModelLoadFailed, match="HTTP 404"):
        repository.load("m")

    assert (first, second, answer(repository, "m")) == ((1.0, "1"), (2.0, "2"), (2.0, "2"))


def test_a_models_settings_may_name_where_it_lies(site: Web, storage: Storage, tmp_path: Path) -> None:
    """A folder of the repository may hold nothing but settings that say where the model's files are."""
    site.files["/model.answer"] = b"9"
    folder = tmp_path / "m"
    folder.mkdir()
    digest = _sha256(b"9")
    (folder / "sidelight.json").write_text(f'{{"storage_uri": "{site.url}/model.answer", "digest": "sha256:{digest}"}}')
    repository = Repository({"m": ModelFolder(str(folder), Trust(), ANSWERING, storage)})
    repository.load("m")
    without = Repository({"m": ModelFolder(str(folder), Trust(), ANSWERING)})

    assert answer(repository, "m") == (9.0, "1")
    with pytest.raises(ModelLoadFailed, match="storage_uri needs a cache folder"):
        without.load("m")


def test_a_cache_that_was_emptied_is_filled_again(site: Web, storage: Storage, tmp_path: Path) -> None:
    """The cache may be deleted at any time between loads."""
    site.files["/m.bst"], site.tags["/m.bst"] = CONTENT, '"one"'
    storage.folder(f"{site.url}/m.bst")
    shutil.rmtree(tmp_path / "cache")

    assert (storage.folder(f"{site.url}/m.bst") / "m.bst").read_bytes() == CONTENT
