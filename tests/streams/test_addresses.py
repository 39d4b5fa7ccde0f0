"""Addresses: IPv6 with and without brackets, and every one of both kinds."""

from __future__ import annotations

import socket
from contextlib import closing

import pytest

from streams.addresses import bare, bound, parsed, shown


def has_ipv6() -> bool:
    """Say whether this machine has IPv6 on its loopback."""
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


@pytest.mark.parametrize(
    ("text", "host", "url"),
    [
        ("127.0.0.1", "127.0.0.1", "127.0.0.1:80"),
        ("model.default", "model.default", "model.default:80"),
        ("::", "::", "[::]:80"),
        ("[::1]", "::1", "[::1]:80"),
        ("2001:db8::1", "2001:db8::1", "[2001:db8::1]:80"),
    ],
)
def test_brackets_are_for_urls(text: str, host: str, url: str) -> None:
    """Both spellings are taken, one is shown."""
    assert (bare(text), shown(text, 80)) == (host, url)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("model", ("model", 80)),
        ("model:8080", ("model", 8080)),
        ("127.0.0.1:8080", ("127.0.0.1", 8080)),
        ("[::1]", ("::1", 80)),
        ("[::1]:8080", ("::1", 8080)),
        ("::1", ("::1", 80)),
        ("2001:db8::1", ("2001:db8::1", 80)),
    ],
)
def test_host_and_port(text: str, found: tuple[str, int]) -> None:
    """An IPv6 address with a port has brackets; one without may have them."""
    assert parsed(text, 80) == found


@pytest.mark.parametrize("text", ["", ":80", "http://model", "model/v1", "model:many", "[::1", "a@model"])
def test_what_is_no_address(text: str) -> None:
    """Refused, with what was expected."""
    with pytest.raises(ValueError, match=r"HOST|[Pp]ort|IPv6"):
        parsed(text, 80)


@pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6")
@pytest.mark.parametrize(
    ("host", "reached", "refused"),
    [
        ("127.0.0.1", ("127.0.0.1",), ("::1",)),
        ("0.0.0.0", ("127.0.0.1",), ("::1",)),  # noqa: S104 - what is tested
        ("localhost", ("127.0.0.1",), ()),
        ("::1", ("::1",), ("127.0.0.1",)),
        ("[::1]", ("::1",), ("127.0.0.1",)),
        ("::", ("::1", "127.0.0.1"), ()),
        ("[::]", ("::1", "127.0.0.1"), ()),
    ],
)
def test_bound_addresses(host: str, reached: tuple[str, ...], refused: tuple[str, ...]) -> None:
    """One address is that alone; `::` is every one of both kinds."""
    with closing(bound(host, 0, shared=False)) as listening:
        listening.listen()
        port = listening.getsockname()[1]
        for address in reached:
            socket.create_connection((address, port), timeout=30).close()
        for address in refused:
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection((address, port), timeout=30)
