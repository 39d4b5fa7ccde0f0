"""Claim checks: what is put comes back, from a folder and from S3; nothing else can be read through them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from streams.claims import ClaimStore, FolderClaims, S3Claims, redeemed, store
from streams.errors import ClaimFailed
from streams.events import Event
from tests.objectstore import s3


@pytest.fixture(params=["folder", "s3"])
def claims(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ClaimStore]:
    """Give each kind of store."""
    if request.param == "folder":
        yield FolderClaims(tmp_path / "bodies")
        return
    with s3(monkeypatch, "bodies", "others") as client:
        client.put_object(Bucket="others", Key="a/secret", Body=b"s")
        client.put_object(Bucket="bodies", Key="b/secret", Body=b"s")
        yield store("s3://bodies/a/")


@pytest.mark.parametrize("name", ["n/s/2026-01-01/c1-q-5f", "n/s/caf\u00e9 %2F?#/..x", "one"])
def test_what_is_put_comes_back(claims: ClaimStore, name: str) -> None:
    """Under a URL of its own, whatever the name; putting it again replaces it."""
    claims.put(name, b"first")
    url = claims.put(name, bytes(range(256)) * 5_000)
    event = Event(id="1", source="s", type="t", extensions={"dataref": url})

    assert redeemed(event, claims).data == bytes(range(256)) * 5_000
    assert url.isascii()


def test_what_is_not_there_is_named(claims: ClaimStore) -> None:
    """An object that is gone: the error names its URL."""
    url = claims.put("x/y", b"data")
    with pytest.raises(ClaimFailed, match="x/z"):
        claims.get(url[:-1] + "z")


@pytest.mark.parametrize(
    "way", ["/../secret", "s3://others/a/secret", "s3://bodies/b/secret", "file:///etc/passwd", ""]
)
def test_nothing_else_can_be_read(claims: ClaimStore, way: str) -> None:
    """A URL that leads out of the store is refused, whoever wrote it into an event."""
    base = claims.put("x", b"data").removesuffix("/x")
    with pytest.raises(ClaimFailed, match="does not lie under"):
        claims.get(base + way if way.startswith("/") else way)


def test_links_lead_nowhere(tmp_path: Path) -> None:
    """A link inside the folder that points out of it is not followed."""
    (tmp_path / "secret").write_bytes(b"s")
    claims = FolderClaims(tmp_path / "bodies")
    url = claims.put("a", b"data")
    (tmp_path / "bodies" / "link").symlink_to(tmp_path / "secret")
    with pytest.raises(ClaimFailed, match="does not lie under"):
        claims.get(url[:-1] + "link")


def test_a_store_that_is_away_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder that cannot be written, an S3 that does not answer: ClaimFailed, in bounded time."""
    (tmp_path / "file").touch()
    with pytest.raises(ClaimFailed, match="cannot be written"):
        FolderClaims(tmp_path / "file").put("x", b"data")
    with s3(monkeypatch, "bodies", "others") as client:
        client.put_object(Bucket="others", Key="a/secret", Body=b"s")
        client.put_object(Bucket="bodies", Key="b/secret", Body=b"s")
        monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
        with pytest.raises(ClaimFailed, match="s3://bodies/p"):
            S3Claims("bodies", "p", timeout_s=0.5).put("x", b"data")


def test_events_with_data_need_no_store() -> None:
    """And one without store says which flag names it."""
    event = Event(id="1", source="s", type="t", extensions={"dataref": "file:///x/y"})

    assert redeemed(Event(id="1", source="s", type="t", data=b"d"), None).data == b"d"
    with pytest.raises(ClaimFailed, match="file:///x/y; name the store with --claims"):
        redeemed(event, None)


@pytest.mark.parametrize("url", ["", "/folder", "file://relative", "s3:///x", "http://h/x"])
def test_other_urls_are_refused(url: str) -> None:
    """With what is expected."""
    with pytest.raises(ValueError, match="expected file:///folder or s3://bucket/prefix"):
        store(url)
