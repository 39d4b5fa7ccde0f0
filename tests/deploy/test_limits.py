"""The flags for limits and time-outs reach the proxy's settings."""

from __future__ import annotations

import argparse
from dataclasses import asdict

import pytest

from deploy.errors import UserError
from deploy.limits import add_limit_arguments, limits
from logger.settings import ProxySettings


def parsed(*words: str) -> ProxySettings:
    """Give the settings that words on the command line make."""
    parser = argparse.ArgumentParser()
    add_limit_arguments(parser)
    return ProxySettings(**limits(parser.parse_args(words)))


def test_without_flags_the_settings_are_the_defaults() -> None:
    """The table repeats none of them."""
    assert parsed() == ProxySettings()


@pytest.mark.parametrize(
    ("flag", "name"),
    [
        ("--max-connections", "max_connections"),
        ("--max-connections-per-address", "max_per_address"),
        ("--max-requests-per-connection", "max_requests"),
        ("--max-body-bytes", "max_body"),
        ("--max-url-bytes", "max_target"),
        ("--max-head-bytes", "max_head"),
        ("--max-headers", "max_headers"),
        ("--head-timeout", "head_s"),
        ("--idle-timeout", "idle_s"),
        ("--min-body-rate", "min_rate"),
        ("--send-timeout", "send_s"),
        ("--connect-timeout", "connect_s"),
        ("--first-byte-timeout", "first_byte_s"),
        ("--answer-timeout", "answer_s"),
        ("--request-timeout", "total_s"),
        ("--drain-timeout", "drain_s"),
    ],
)
def test_a_flag_sets_its_setting_alone(flag: str, name: str) -> None:
    """What the tests of the proxy show of a setting holds of its flag."""
    changed = asdict(parsed(flag, "7"))

    assert changed == {**asdict(ProxySettings()), name: 7}


@pytest.mark.parametrize(("flag", "value"), [("--max-headers", "-1"), ("--head-timeout", "nan")])
def test_what_is_no_limit_is_refused(flag: str, value: str) -> None:
    """The message names the flag."""
    with pytest.raises(UserError, match=f"{flag}: expected 0 or more, got {value}"):
        parsed(flag, value)


def test_a_socket_takes_the_ports_place() -> None:
    """The path is passed on as it is."""
    assert parsed("--component-socket", "/run/model").upstream_socket == "/run/model"
