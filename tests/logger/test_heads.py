"""Heads are judged strictly and rebuilt, never forwarded."""

from __future__ import annotations

import pytest

from logger.heads import Fields, RequestHead, forwarded_line, judge, origin, request_bytes

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
        (head(HOST, (b"connection", b"x-hop"), (b"x-hop", b"1")), 400),
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
    text = request_bytes(head(*fields), b"new", None, chunked=False)

    assert text == (
        b"POST /p HTTP/1.1\r\nx-request-id: new\r\nhost: h\r\ncontent-type: a/b\r\nx-kept: 2\r\n"
        b"via: 1.1 sidelight\r\n\r\n"
    )


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


@pytest.mark.parametrize(
    ("came", "told"),
    [
        ([], b"192.0.2.1"),
        ([(b"x-forwarded-for", b"10.0.0.1, 10.0.0.2")], b"10.0.0.1, 10.0.0.2, 192.0.2.1"),
        (
            [(b"x-forwarded-for", b"10.0.0.1"), (b"a", b"b"), (b"x-forwarded-for", b"10.0.0.2")],
            b"10.0.0.1, 10.0.0.2, 192.0.2.1",
        ),
        ([(b"x-forwarded-for", b"")], b"192.0.2.1"),
        ([(b"x-forwarded-for", b""), (b"x-forwarded-for", b"10.0.0.2")], b"10.0.0.2, 192.0.2.1"),
        ([(b"a", b"b"), (b"a", b"c"), (b"x-forwarded-for", b"10.0.0.1")], b"10.0.0.1, 192.0.2.1"),
        ([(b"connection", b"x-forwarded-for"), (b"x-forwarded-for", b"10.0.0.1")], b"192.0.2.1"),
        ([(b"x_forwarded_for", b"10.0.0.1")], b"192.0.2.1"),
    ],
)
def test_the_model_is_told_who_asks(came: Fields, told: bytes) -> None:
    """As behind KServe's agent: the client's address stands at the end of one X-Forwarded-For, behind what it holds."""
    text = request_bytes(head(*came), b"id", None, chunked=False, forwarded=forwarded_line("192.0.2.1"))
    lines = [line for line in text.split(b"\r\n") if b"forwarded" in line]

    assert lines == [b"x-forwarded-for: " + told]


@pytest.mark.parametrize(
    ("address", "told"),
    [("192.0.2.1", b"192.0.2.1"), ("2001:db8::1", b"2001:db8::1"), ("::ffff:192.0.2.1", b"192.0.2.1")],
)
def test_an_address_is_written_as_others_write_it(address: str, told: bytes) -> None:
    """No brackets, no port; an IPv4 address that came through a socket for both families is one."""
    assert forwarded_line(address) == b"x-forwarded-for: %b\r\n" % told


def test_who_has_no_address_changes_nothing() -> None:
    """Behind a unix socket there is nobody to name: the field goes on as it came."""
    text = request_bytes(head((b"x-forwarded-for", b"10.0.0.1")), b"id", None, chunked=False)

    assert text.count(b"x-forwarded-for: 10.0.0.1\r\n") == 1


def test_what_connection_names_is_gone_everywhere() -> None:
    """The fields by name are those that are left: who looks one up sees what the model sees."""
    found = head((b"connection", b"ce-id, x-hop"), (b"ce-id", b"evil"), (b"x-hop", b"1"), (b"a", b"b"))

    assert found.first == dict(found.fields) == {b"host": b"h", b"connection": b"ce-id, x-hop", b"a": b"b"}
