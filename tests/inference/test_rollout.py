"""Which version answers: aliases, canary, shadows."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import pytest

from inference.errors import ModelLoadFailed
from inference.rollout import UNNUMBERED, Choice, Routes, parse, routes_of

VERSIONS = ("10", "9", "1")
NOTHING: Mapping[str, str] = {}


def _routes(text: str, model: str = "m") -> Routes:
    return Routes(model, VERSIONS, parse(text.encode(), "rollout.yaml"))


def _never() -> float:
    raise AssertionError("a request with a key is not drawn")


def _drawn(number: float) -> Callable[[], float]:
    return lambda: number


def test_without_a_rollout_the_highest_number_answers() -> None:
    """Versions are numbers, not texts: 10 comes after 9."""
    routes = Routes("m", VERSIONS)

    assert routes.choose(b"", NOTHING, _never) == Choice("10", steady=True)
    assert routes.wanted == ("10",)
    assert [routes.find(name) for name in (None, "latest", "stable", "9", "2", "")] == [
        "10",
        "10",
        "10",
        "9",
        None,
        None,
    ]


def test_models_without_versions_share_their_routes() -> None:
    """Thousands of models that have neither numbers nor a rollout keep one way between them; any other has its own."""
    first, second = (routes_of(name, (UNNUMBERED,), None) for name in ("a", "b"))
    own = routes_of("a", VERSIONS, None), routes_of("a", (UNNUMBERED,), parse(b"{stable: latest}", "rollout.yaml"))

    assert first is second
    assert (first.choose(b"", NOTHING, _never), first.wanted) == (Choice(None, steady=True), (UNNUMBERED,))
    assert own[0].wanted == ("10",)
    assert own[1] is not first


def test_aliases_name_versions_and_other_aliases() -> None:
    """An alias may stand wherever a version may, also for another alias."""
    routes = _routes(
        "{stable: champion, aliases: {champion: 9, best: champion, next: latest}, canary: {version: next}}"
    )

    assert [routes.find(name) for name in ("champion", "best", "next", None)] == ["9", "9", "10", "9"]
    assert routes.wanted == ("9", "10")


def test_a_canary_sticks_to_its_key() -> None:
    """One key meets one version; the share is what was asked for; who was in at 5 % is in at 20 %."""
    keys = [f"caller-{number}".encode() for number in range(20_000)]
    small, large = (_routes(f"{{stable: 9, canary: {{version: 10, percent: {percent}}}}}") for percent in (5, 20))
    first, again, grown = (
        {key for key in keys if routes.choose(key, NOTHING, _never).version == "10"} for routes in (small, small, large)
    )

    assert first == again
    assert first < grown
    # Four standard deviations of a binomial share.
    assert abs(len(first) / len(keys) - 0.05) < 4 * (0.05 * 0.95 / len(keys)) ** 0.5
    assert abs(len(grown) / len(keys) - 0.20) < 4 * (0.20 * 0.80 / len(keys)) ** 0.5


def test_canaries_of_different_models_are_different_callers() -> None:
    """Nobody is every model's canary: the model's name is part of what is hashed."""
    keys = [str(number).encode() for number in range(2000)]
    text = "{stable: 9, canary: {version: 10, percent: 50}}"
    one, other = (
        {key for key in keys if _routes(text, name).choose(key, NOTHING, _never).version == "10"} for name in ("a", "b")
    )

    assert 400 < len(one & other) < 600


def test_a_header_decides_when_it_is_named() -> None:
    """With a header named, correlation ids do not matter; a request without that header falls back to its id."""
    routes = _routes("{stable: 9, canary: {version: 10, percent: 50, header: X-User}}")
    by_user = {
        user: {routes.choose(b"%d" % call, {"x-user": user}, _never).version for call in range(50)}
        for user in map(str, range(50))
    }
    without = {routes.choose(b"%d" % call, NOTHING, _never).version for call in range(50)}

    assert all(len(versions) == 1 for versions in by_user.values())
    assert {version for versions in by_user.values() for version in versions} == {"9", "10"}
    assert without == {"9", "10"}


def test_requests_without_a_key_are_drawn() -> None:
    """Nothing to stick to: the draw decides."""
    routes = _routes("{stable: 9, canary: {version: 10, percent: 25}}")

    assert routes.choose(b"", NOTHING, _drawn(0.2499)).version == "10"
    assert routes.choose(b"", NOTHING, _drawn(0.25)).version == "9"


@pytest.mark.parametrize(("percent", "version"), [(0, "9"), (100, "10")])
def test_none_and_all(percent: int, version: str) -> None:
    """0 % is nobody and 100 % everybody, drawn or not."""
    routes = _routes(f"{{stable: 9, canary: {{version: 10, percent: {percent}}}}}")

    assert {routes.choose(b"%d" % key, NOTHING, _never).version for key in range(300)} == {version}
    assert {routes.choose(b"", NOTHING, _drawn(number)).version for number in (0.0, 0.999999)} == {version}


def test_shadows_get_copies_of_what_others_answer() -> None:
    """A shadow gets its share of the requests, and none that its version answers itself."""
    routes = _routes(
        "{stable: 9, canary: {version: 10, percent: 50}, shadows: [{version: 10}, {version: 1, percent: 0}]}"
    )
    choices = {routes.choose(b"%d" % key, NOTHING, _never) for key in range(100)}

    assert choices == {Choice("9", ("10",)), Choice("10")}
    assert routes.wanted == ("9", "10", "1")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("stable: [", "rollout.yaml: no valid YAML"),
        ("[]", "rollout.yaml: expected a mapping, got []"),
        ("{stabel: 9}", "unknown key 'stabel'; known: stable, aliases, canary, shadows"),
        ("{stable: true}", "stable: expected a version or an alias, got True"),
        ("{aliases: {1: 9}}", "aliases: expected a word that starts with a letter"),
        ("{aliases: {stable: 9}}", "not stable or latest, got 'stable'"),
        ("{canary: 9}", "canary: expected a mapping, got 9"),
        ("{canary: {percent: 5}}", "canary: expected a version, got {'percent': 5}"),
        ("{canary: {version: 9, percent: 101}}", "percent: expected a number from 0 to 100, got 101"),
        ("{canary: {version: 9, percent: .nan}}", "percent: expected a number from 0 to 100, got nan"),
        ("{canary: {version: 9, header: 5}}", "header: expected a header's name, got 5"),
        ("{shadows: {version: 9}}", "shadows: expected a list"),
        ("{shadows: [{version: 9, weight: 1}]}", "shadows[0]: unknown key 'weight'"),
        ("{stable: 2}", "model m: rollout: no version '2'; the folder has 10, 9, 1"),
        ("{stable: best}", "no version 'best'"),
        ("{stable: a, aliases: {a: b, b: a}}", "rollout: no version"),
    ],
)
def test_mistakes_are_named(text: str, says: str) -> None:
    """A mistake names the file, the key, what was expected and what stands there."""
    with pytest.raises(ModelLoadFailed) as caught:
        _routes(text)

    assert says in str(caught.value)
