"""Claim checks: what is put comes back, from a folder and from S3; nothing else can be read through them."""

from __future__ import annotations

import socketserver
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from streams.claims import ClaimStore, FolderClaims, S3Claims, redeemed, store
from streams.errors import ClaimFailed, ClaimsAway
from streams.events import Event
from tests.objectstore import s3

CUT = b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nten bytes."


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
)  # fmt: skip
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


def test_a_link_to_itself_is_nothing(tmp_path: Path) -> None:
    """It is no body, and will never be one."""
    claims = FolderClaims(tmp_path / "bodies")
    url = claims.put("a", b"data")
    (tmp_path / "bodies" / "loop").symlink_to(tmp_path / "bodies" / "loop")
    with pytest.raises(ClaimFailed, match="loop"):
        claims.get(url[:-1] + "loop")


def test_a_store_that_is_away_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder that cannot be written or is not there, an S3 that does not answer: not now, in bounded time."""
    (tmp_path / "file").touch()
    with pytest.raises(ClaimsAway, match="cannot be written"):
        FolderClaims(tmp_path / "file").put("x", b"data")
    unmounted = FolderClaims(tmp_path / "unmounted")
    with pytest.raises(ClaimsAway, match="cannot be read"):
        unmounted.get(f"file://{tmp_path}/unmounted/x")
    with s3(monkeypatch, "bodies", "others") as client:
        client.put_object(Bucket="others", Key="a/secret", Body=b"s")
        client.put_object(Bucket="bodies", Key="b/secret", Body=b"s")
        monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
        claims = S3Claims("bodies", "p", timeout_s=0.5)
        with pytest.raises(ClaimsAway, match="s3://bodies/p"):
            claims.put("x", b"data")
        with pytest.raises(ClaimsAway, match="s3://bodies/p/x"):
            claims.get("s3://bodies/p/x")


def test_a_bucket_that_is_not_there_may_come(monkeypatch: pytest.MonkeyPatch) -> None:
    """An operator's mistake is none of whoever asks: it is told apart from an object that does not exist."""
    with s3(monkeypatch, "bodies"):
        with pytest.raises(ClaimsAway, match="NoSuchBucket"):
            S3Claims("other", "").get("s3://other/x")
        with pytest.raises(ClaimFailed, match="NoSuchKey"):
            S3Claims("bodies", "").get("s3://bodies/x")


@pytest.mark.parametrize("said", [b"HTTP/1.1 503 Slow Down\r\n", b"HTTP/1.1 403 Forbidden\r\n", CUT])
def test_a_store_that_refuses_or_breaks_off_is_away(monkeypatch: pytest.MonkeyPatch, said: bytes) -> None:
    """Overloaded, not to be read with these rights, or gone amid a body: not now, and nothing else is raised."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "k")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    with _Saying(("127.0.0.1", 0), said) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_address[1]}")
        with pytest.raises(ClaimsAway, match="s3://bodies/x"):
            S3Claims("bodies", "", timeout_s=30.0).get("s3://bodies/x")
        server.shutdown()


@pytest.mark.parametrize("code", ["XMinioInvalidObjectName", "XMinioInvalidResourceName", "InvalidObjectName"])
def test_a_name_that_no_object_can_have_is_not_waited_for(monkeypatch: pytest.MonkeyPatch, code: str) -> None:
    """A store of another maker may refuse a name that S3 takes: whoever wrote it did, and the store is there."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "k")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    body = f"<Error><Code>{code}</Code><Message>no name</Message></Error>".encode()
    said = b"HTTP/1.1 400 Bad Request\r\ncontent-length: %d\r\nconnection: close\r\n\r\n" % len(body) + body
    with _Saying(("127.0.0.1", 0), said) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{server.server_address[1]}")
        with pytest.raises(ClaimFailed, match=code):
            S3Claims("bodies", "", timeout_s=30.0).get("s3://bodies/a/./x")
        server.shutdown()


class _Saying(socketserver.ThreadingTCPServer):
    """Says the same to everybody."""

    def __init__(self, address: tuple[str, int], said: bytes) -> None:
        super().__init__(address, _Turn)
        self.said = said if b"\r\n\r\n" in said else said + b"content-length: 0\r\nconnection: close\r\n\r\n"


class _Turn(socketserver.StreamRequestHandler):
    server: _Saying

    def handle(self) -> None:
        while self.rfile.readline() not in {b"\r\n", b""}:
            pass
        self.wfile.write(self.server.said)


def test_a_name_that_no_file_can_have_is_the_requests_fault(claims: ClaimStore) -> None:
    """Such as one with a zero byte, or of thousands of letters."""
    base = claims.put("x", b"data").removesuffix("/x")
    for name in ("a%00b", "n" * 5_000):
        with pytest.raises(ClaimFailed):
            claims.get(f"{base}/{name}")


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
