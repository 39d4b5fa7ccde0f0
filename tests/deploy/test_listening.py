"""Where commands listen: an IPv6 address is taken by all of them, in brackets or without."""

from __future__ import annotations

import argparse
import socket
import subprocess
import sys
from contextlib import closing, suppress
from functools import partial
from pathlib import Path

import pytest

from deploy import cli
from deploy.commands.predictor import http_port
from deploy.errors import UserError
from deploy.kafka.ports import free_port
from deploy.listening import listening
from deploy.upstream import upstream_settings
from inference.settings import CertificateFiles
from streams.addresses import bound
from tests.inference.serving import ECHO, ROOT, eventually
from tests.streams.test_addresses import has_ipv6

_NEEDED = {
    "assembler": ("--kafka", "k:1"),
    "collector": ("--kafka", "k:1"),
    "detector": ("--kafka", "k:1", "--monitor", "m"),
    "explainer": ("--model_name", "m", "--predictor_host", "p", "--background_file", "b"),
    "stream": ("--kafka", "k:1"),
}


def _parsed(name: str, *words: str) -> argparse.Namespace:
    return cli.parser_of(name, cli.load(name)).parse_args([*_NEEDED.get(name, ()), *words])


@pytest.mark.parametrize(
    ("name", "flag"),
    [
        ("collector", "--host"),
        ("explainer", "--host"),
        ("logger", "--host"),
        ("logger", "--metrics-host"),
        ("predictor", "--host"),
        ("assembler", "--metrics-host"),
        ("detector", "--metrics-host"),
        ("stream", "--metrics-host"),
    ],
)
@pytest.mark.parametrize("word", ["::", "[::]", "2001:db8::1", "[2001:db8::1]", "127.0.0.1", "name.example"])
def test_every_command_takes_an_address(name: str, flag: str, word: str) -> None:
    """With the brackets that URLs have, and without; sockets want none."""
    found = getattr(_parsed(name, flag, word), flag.strip("-").replace("-", "_"))

    assert found == word.strip("[]")


@pytest.mark.parametrize(
    ("word", "host", "port"),
    [("::1", "::1", 80), ("[::1]", "::1", 80), ("[::1]:8080", "::1", 8080), ("p:8080", "p", 8080), ("p", "p", 80)],
)
def test_a_transformer_is_told_of_a_predictor(word: str, host: str, port: int) -> None:
    """By IPv6 as well, with and without a port."""
    settings = upstream_settings(_parsed("predictor", "--predictor_host", word))

    assert settings is not None
    assert (settings.host, settings.port) == (host, port)


@pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6")
@pytest.mark.parametrize("name", ["collector", "logger", "predictor"])
def test_every_address_of_both_kinds(tmp_path: Path, name: str) -> None:
    """`::` is reached by IPv6 and by IPv4, and so is a page."""
    port, page = free_port(), free_port()
    words = {
        "collector": ("--kafka", "127.0.0.1:1", "--port", str(port)),
        "logger": ("--port", str(port), "--metrics-port", str(page), "--metrics-host", "[::]"),
        "predictor": (
            "--model_name", "m", "--model_dir", str(tmp_path), "--runtime", ECHO, "--http_port", str(port),
            "--grpc_port", str(page),
        ),
    }  # fmt: skip
    command = [sys.executable, "-m", "deploy.cli", name, "--host", "[::]", *words[name]]
    log = tmp_path / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
    try:
        for asked in (port, page) if name in {"logger", "predictor"} else (port,):
            for host in ("::1", "127.0.0.1"):
                reached = partial(_reached, host, asked)
                eventually(lambda reached=reached: reached() or process.poll() is not None, f"{host}:{asked}")  # type: ignore[misc] # a default
        ended = process.poll()
    finally:
        process.terminate()
        process.wait(60)

    assert ended is None, log.read_text()


def test_an_address_that_is_taken() -> None:
    """Said in one line, as a URL has it."""
    if not has_ipv6():
        pytest.skip("this machine has no IPv6")
    with closing(bound("::1", 0, shared=False)) as other:
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(UserError, match=rf"^cannot listen on \[::1\]:{port}: address already in use$"):
            listening("::1", port)

    assert listening("127.0.0.1", 1) is None


_CERTIFICATE, _KEY = Path("tls.crt"), Path("tls.key")


@pytest.mark.parametrize(
    ("asked", "tls", "port"),
    [
        (8080, None, 8080),
        (8080, CertificateFiles(certificate=_CERTIFICATE, key=_KEY), 8443),
        (8080, CertificateFiles(certificate=_CERTIFICATE, key=None), 8080),
        (9000, CertificateFiles(certificate=_CERTIFICATE, key=_KEY), 9000),
        (0, CertificateFiles(certificate=_CERTIFICATE, key=_KEY), 0),
    ],
)
def test_the_port_with_tls(
    asked: int, tls: CertificateFiles | None, port: int, caplog: pytest.LogCaptureFixture
) -> None:
    """KServe's servers take 8443 for 8080 when both files are named; whoever reads the log is told so, and why."""
    caplog.set_level("INFO")
    found = http_port(asked, tls)

    assert found == port
    assert ("HTTP is on port 8443 in place of 8080, as KServe's servers do" in caplog.text) == (found != asked)


def _reached(host: str, port: int) -> bool:
    with suppress(OSError), socket.create_connection((host, port), timeout=5):
        return True
    return False
