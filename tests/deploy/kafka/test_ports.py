"""The choice of a broker's ports."""

from __future__ import annotations

import socket
import sys
from pathlib import Path

import pytest

from deploy.errors import UserError
from deploy.kafka import ports


def listening() -> socket.socket:
    """Give a socket that listens on a port of its own."""
    return socket.create_server(("127.0.0.1", 0))


def test_a_folder_keeps_its_ports(tmp_path: Path) -> None:
    """Clients that know the address find the broker again after a restart."""
    first = ports.choose(tmp_path, 0)

    assert ports.choose(tmp_path, 0) == first
    assert first[0] != first[1]


def test_a_kept_port_that_someone_took_is_left_to_him(tmp_path: Path) -> None:
    """The start takes another port instead of failing; the one that is still free stays."""
    client, controller = ports.choose(tmp_path, 0)
    with socket.create_server(("127.0.0.1", client)):
        other, same = ports.choose(tmp_path, 0)

    assert other != client
    assert same == controller
    assert ports.choose(tmp_path, 0) == (other, controller)


def test_a_named_port_is_taken_and_kept(tmp_path: Path) -> None:
    """--port says where; a later start without it stays there."""
    _, controller = ports.choose(tmp_path, 0)
    named = ports.free_port()

    assert ports.choose(tmp_path, named) == (named, controller)
    assert ports.choose(tmp_path, 0) == (named, controller)


def test_the_controller_makes_way_for_a_named_port(tmp_path: Path) -> None:
    """A user who names the port that the node's quorum happened to have gets it."""
    _, controller = ports.choose(tmp_path, 0)
    client, moved = ports.choose(tmp_path, controller)

    assert client == controller
    assert moved != controller


def test_a_named_port_in_use_is_refused(tmp_path: Path) -> None:
    """Who names a port wants that one: no silent other."""
    with listening() as taken:
        port: int = taken.getsockname()[1]
        with pytest.raises(UserError, match=rf"--port {port}: already in use on 127\.0\.0\.1"):
            ports.choose(tmp_path, port)


@pytest.mark.parametrize("text", ["", "{}", "[1]", '["a", "b"]', "[1, 2, 3]"])
def test_a_broken_note_is_as_good_as_none(tmp_path: Path, text: str) -> None:
    """A note that a full disk cut short costs an address, not the start."""
    (tmp_path / "ports.json").write_text(text, encoding="utf-8")
    client, controller = ports.choose(tmp_path, 0)

    assert ports.is_free(client)
    assert ports.choose(tmp_path, 0) == (client, controller)


def test_a_free_port_is_none_of_those_that_the_system_gives() -> None:
    """Whoever asks the system for any port, or connects, cannot take it before its server listens."""
    lowest = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    given = {ports.free_port() for _ in range(50)}

    assert len(given) > 40
    assert all(1_024 < port < max(lowest, 32_768) for port in given)
    assert all(ports.is_free(port) for port in given)


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a bound socket would keep the server away, too")
def test_a_free_port_is_given_once() -> None:
    """Two servers that start at once, in this process or in two, get two ports; nobody answers until they listen."""
    given = [ports.free_port() for _ in range(50)]
    with socket.socket() as other, pytest.raises(OSError, match="in use"):
        other.bind(("127.0.0.1", given[0]))
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", given[0]))

    assert len(set(given)) == len(given)
    with socket.create_server(("127.0.0.1", given[0])):
        socket.create_connection(("127.0.0.1", given[0])).close()
