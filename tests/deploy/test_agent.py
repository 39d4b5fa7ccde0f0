"""The flags of KServe's agent in every spelling that Go and its controller know."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploy import agent
from deploy.commands import logger as command
from deploy.errors import UserError
from logger.batching.settings import BatchSettings
from logger.compat import KServeTap
from logger.settings import TapSettings

# What KServe's controller was seen to pass, word by word.
INJECTED = [
    "--log-url", "kafka://broker:9092/inference.payloads", "--source-uri", "", "--log-mode", "all",
    "--inference-service", "iris", "--namespace", "default", "--endpoint", "", "--component", "predictor",
    "--logger-tls-skip-verify", "false", "--component-port", "8080",
]  # fmt: skip
# Every flag of the agent 0.20 with a value that is not its default, and what becomes of it.
ALL = {
    "port": ("9082", 9082), "component-port": ("8081", 8081), "enable-puller": ("true", "true"),
    "config-dir": ("/c", "/c"), "model-dir": ("/m", "/m"), "log-url": ("http://h/", "http://h/"),
    "workers": ("7", "7"), "source-uri": ("http://s/", "http://s/"), "log-mode": ("request", "request"),
    "log-store-path": ("/p", "/p"), "log-store-format": ("csv", "csv"), "log-marshaller-url": ("http://m", "http://m"),
    "log-marshaller-port": ("9084", "9084"), "log-batch-size": ("2", "2"), "log-batch-interval": ("3s", "3s"),
    "inference-service": ("iris", "iris"), "namespace": ("n", "n"), "endpoint": ("canary", "canary"),
    "component": ("explainer", "explainer"), "metadata-headers": ("X-A,x-b", "X-A,x-b"),
    "metadata-annotations": ("k=v,l=w", "k=v,l=w"), "enable-batcher": ("true", True), "max-batchsize": ("64", 64),
    "max-latency": ("100", 100), "logger-ca-cert-file": ("ca.crt", "ca.crt"), "logger-tls-skip-verify": ("true", True),
}  # fmt: skip


def parsed(words: list[str]) -> dict[str, Any]:
    """Give what the command makes of its words."""
    parser = argparse.ArgumentParser(allow_abbrev=False)
    command.add_arguments(parser)
    return vars(parser.parse_args(command.spell(words)))


def test_what_the_controller_passes() -> None:
    """Empty values are none, and a `false` in a word of its own is false, not true and a stray word."""
    found = parsed(INJECTED)

    assert found["log_url"] == "kafka://broker:9092/inference.payloads"
    assert (found["source_uri"], found["endpoint"]) == ("", "")
    assert found["logger_tls_skip_verify"] is False
    assert (found["inference_service"], found["component_port"]) == ("iris", 8080)


@given(st.data())
def test_any_spelling_means_the_same(data: st.DataObject) -> None:
    """All flags, in any order, each with one dash or two, `=` or two words: always the same."""
    words: list[str] = []
    for name in data.draw(st.permutations(list(ALL))):
        dashes, value = data.draw(st.sampled_from(["-", "--"])), ALL[name][0]
        words += data.draw(st.sampled_from([[f"{dashes}{name}={value}"], [f"{dashes}{name}", value]]))
    found = parsed(words)

    assert {name: found[name.replace("-", "_")] for name in ALL} == {name: value for name, (_, value) in ALL.items()}


@pytest.mark.parametrize("name", sorted(ALL))
def test_an_empty_value_is_none(name: str) -> None:
    """Each flag with an empty value, in either form, is as if it had not been given."""
    without = parsed([])

    assert parsed([f"--{name}", ""]) == parsed([f"--{name}="]) == without


@pytest.mark.parametrize("name", ["enable-batcher", "logger-tls-skip-verify"])
@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([""], True), (["", "true"], True), (["", "false"], False), (["=false"], False), (["=T"], True),
        (["", "0"], False), (["", "--port", "9"], True),
    ],
)  # fmt: skip
def test_booleans(name: str, words: list[str], expected: bool) -> None:  # noqa: FBT001 - a table
    """Alone, with `=`, or with a word that follows; a flag that follows is not taken for the value."""
    found = parsed([f"--{name}{words[0]}", *words[1:]])

    assert found[name.replace("-", "_")] is expected
    assert found["port"] == (9 if "9" in words else 9081)


def test_a_value_may_begin_with_a_dash() -> None:
    """As in Go, the word after a flag is its value, whatever it looks like."""
    assert parsed(["-inference-service", "-odd", "--namespace", "--odd"])["inference_service"] == "-odd"
    assert parsed(["--namespace", "--odd"])["namespace"] == "--odd"


def test_other_words_stay_as_they_are() -> None:
    """What is no flag of the agent is left to the parser: our own flags, and what nobody knows."""
    words = ["--proxies", "2", "-h", "--unknown", "x", "---port", "1", "word", "--grpc-log-other", "-"]

    assert agent.spell(words) == words


@pytest.mark.parametrize(
    "words", [["--max-batchsize", "0"], ["--max-latency", "-1"], ["--max-latency", "1.5"], ["--enable-batcher=maybe"]]
)
def test_values_that_cannot_be_meant(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """They are refused with the flag and what was expected."""
    with pytest.raises(SystemExit):
        parsed(words)

    assert "expected" in capsys.readouterr().err


def _said(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Give what the module has said: threads of other tests may have something to say as well."""
    return [record.message for record in caplog.records if record.name == agent.log.name]


def test_flags_without_effect_are_named_once(caplog: pytest.LogCaptureFixture) -> None:
    """One line names all that were given; a `false`, an empty one and those with an effect are not in it."""
    words = ["--workers", "5", "--enable-puller", "false", "--log-store-path", "", "--config-dir=/c", "--port", "1"]
    arguments = argparse.Namespace(**parsed(words))
    with caplog.at_level(logging.WARNING):
        agent.name_idle_flags(arguments)

    assert _said(caplog) == ["accepted, and without effect here: --config-dir, --workers"]


def test_nothing_is_named_when_nothing_was_given(caplog: pytest.LogCaptureFixture) -> None:
    """What KServe's controller passes has an effect, all of it."""
    agent.name_idle_flags(argparse.Namespace(**parsed(INJECTED)))

    assert _said(caplog) == []


def test_batch_settings() -> None:
    """Off unless asked for; KServe's defaults."""
    assert agent.batch_settings(argparse.Namespace(**parsed([]))) is None
    assert agent.batch_settings(argparse.Namespace(**parsed(["--enable-batcher"]))) == BatchSettings()
    words = ["--enable-batcher", "--max-batchsize", "4", "--max-latency", "9", "--batch-early"]
    assert agent.batch_settings(argparse.Namespace(**parsed(words))) == BatchSettings(
        max_rows=4, max_latency_ms=9, early=True
    )


def test_the_authorities_of_sinks(tmp_path: Path) -> None:
    """A path is taken as it is, a bare name lies where KServe mounts it; one that is missing ends the start."""
    (tmp_path / "ca.crt").write_text("")
    here = argparse.Namespace(logger_ca_cert_file=str(tmp_path / "ca.crt"))

    assert agent.sink_authorities(here) == str(tmp_path / "ca.crt")
    assert agent.sink_authorities(argparse.Namespace(logger_ca_cert_file="")) == ""
    with pytest.raises(UserError, match=r"/etc/tls/logger/gone\.crt: no such file"):
        agent.sink_authorities(argparse.Namespace(logger_ca_cert_file="gone.crt"))


def test_the_compatibility_mode() -> None:
    """`--events kserve` gives KServe's own events; otherwise ours."""
    assert isinstance(agent.tap_for(argparse.Namespace(**parsed(["--events=kserve"])), TapSettings()), KServeTap)
    assert not isinstance(agent.tap_for(argparse.Namespace(**parsed([])), TapSettings()), KServeTap)
