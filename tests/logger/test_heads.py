"""Heads are judged strictly and rebuilt, never forwarded."""

from __future__ import annotations

import pytest

from logger.heads import Fields, RequestHead, end_to_end, judge, origin, request_bytes

HOST = (b"host", b"h")


def head(
    *fields: tuple[bytes, bytes],
    method: bytes = b"POST",
    target: bytes = b"/p",
    version: str = "1.1",
    host: bool = True,
) -> RequestHead:
    """Make a head."""
    return RequestHead(method, target, version, [*([HOST] if host else []), *fields])


@pytest.mark.parametrize(
    ("bad", "status"),
    [
        (head((b"transfer-encoding", b"chunked"), version="1.0"), 400),
        (head(host=False), 400),
        (head(HOST), 400),
        (head((b"transfer-encoding", b"gzip, chunked")), 501),
        (head((b"transfer-encoding", b"chunked"), (b"transfer-encoding", b"chunked")), 501),
        (head((b"transfer-encoding", b"chunked"), (b"content-length", b"3")), 400),
        (head(method=b"CONNECT"), 501),
        (head(version="0.9"), 400),
        (head(version="2.0"), 505),
        (head(target=b"/a b"), 400),
        (head(target=b"/a\x80"), 400),
        (head(target=b"evil"), 400),
    ],
)
def test_what_two_servers_could_read_differently_is_refused(bad: RequestHead, status: int) -> None:
    """Each has its own status; none of them reaches the model."""
    refusal = judge(bad, upgrade=False)

    assert refusal is not None
    assert refusal.status == status


def test_upgrades_are_refused() -> None:
    """A second protocol behind the proxy's back could not be logged."""
    refusal = judge(head(), upgrade=True)

    assert refusal is not None
    assert refusal.status == 501


def test_ordinary_requests_pass() -> None:
    """What clients really send is not refused."""
    assert judge(head((b"content-length", b"3")), upgrade=False) is None
    assert judge(head((b"transfer-encoding", b"Chunked")), upgrade=False) is None
    assert judge(head(host=False, version="1.0"), upgrade=False) is None
    assert judge(head(target=b"*", method=b"OPTIONS"), upgrade=False) is None


def test_absolute_targets_lose_their_authority() -> None:
    """The model sees a path, whoever the client thought it was talking to."""
    assert origin(b"http://evil:80/a?b=c") == b"/a?b=c"
    assert origin(b"HTTPS://evil") == b"/"
    assert origin(b"/plain") == b"/plain"


def test_hop_by_hop_fields_stay_behind() -> None:
    """Also those that Connection names, but never a field that says what the message means."""
    fields: Fields = [
        (b"connection", b"close, X-Secret, content-type"), (b"x-secret", b"1"), (b"keep-alive", b"5"), (b"te", b"gzip"),
        (b"upgrade", b"h2c"), (b"http2-settings", b"x"), (b"content-type", b"a/b"), (b"x-kept", b"2"),
    ]  # fmt: skip

    assert end_to_end(fields) == [(b"content-type", b"a/b"), (b"x-kept", b"2")]


def test_a_request_has_one_framing_and_one_correlation() -> None:
    """Length, coding, expectation and correlation id are written anew."""
    given = head((b"content-length", b"3"), (b"expect", b"100-continue"), (b"x-request-id", b"old"))
    text = request_bytes(given, b"new", 3, chunked=False)

    assert (
        text == b"POST /p HTTP/1.1\r\nx-request-id: new\r\nhost: h\r\nvia: 1.1 sidelight\r\ncontent-length: 3\r\n\r\n"
    )


@pytest.mark.parametrize("name", [b"content_length", b"transfer_encoding", b"x_request_id", b"content-length", b"te"])
def test_names_that_some_servers_take_for_ours_stay_behind(name: bytes) -> None:
    """Behind CGI-like interfaces `-` and `_` are one: there the field would be a second length, coding or id."""
    text = request_bytes(head((name, b"5")), b"id", 3, chunked=False)

    assert name + b": 5" not in text
