"""The privacy file is read strictly: what is not understood is refused, with the field and what was meant."""

from __future__ import annotations

import json

import pytest

from logger.errors import BadRules
from logger.privacy import pointers
from logger.privacy.errors import REASONS
from logger.privacy.rules import Privacy, read
from streams.errors import BadKeys
from streams.keyring import Keyring
from tests.inference.serving import ROOT
from tests.logger.privacy.making import KEYS, rules

WHOLE = """
keys: privacy.keys
failed_calls: keep
digest_key: customers
encryption: {key: payloads}
rules:
  - {pointer: /instances/*/email, action: pseudonym, key: customers, in: request}
  - {pointer: /parameters/a~1b~0c, action: truncate, length: 4, required: true}
  - {tensor: features, column: 3, action: bucket, width: 10}
  - {tensor: age, action: bucket, edges: [0, 18, 65]}
  - {header: X-Client, action: mask}
"""


def test_a_whole_file() -> None:
    """Every setting arrives where it acts."""
    asked: list[str] = []

    def keys_of(path: str) -> Keyring:
        asked.append(path)
        return Keyring.parse(KEYS)

    privacy = read(WHOLE, keys_of)

    assert asked == ["privacy.keys"]
    assert privacy.keep_failed
    assert [rule.tokens for rule in privacy.request.pointers] == [("instances", "*", "email"), ("parameters", "a/b~c")]
    assert [rule.tokens for rule in privacy.response.pointers] == [("parameters", "a/b~c")]
    assert privacy.response.pointers[0].required
    assert [(rule.name, rule.column) for rule in privacy.response.tensors] == [("features", 3), ("age", None)]
    assert list(privacy.headers) == [b"x-client"]
    assert privacy.encryption is not None
    assert privacy.encryption.key == b"p" * 32


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("rulez: []", "privacy file: unknown key 'rulez'; did you mean 'rules'?"),
        ("rules: [{pionter: /a, action: mask}]", r"rules\[0\]: unknown key 'pionter'; did you mean 'pointer'?"),
        ("rules: [{pointer: /a, action: mask, with: 3}]", r"rules\[0\]: unknown key 'with'; did you mean 'width'?"),
        ("rules: [{pointer: /a, action: mask, width: 3}]", r"rules\[0\].width: has no meaning for pointer and mask"),
        ("rules: [{pointer: /a, action: maks}]", r"rules\[0\].action: .* got 'maks'; did you mean 'mask'?"),
        ("rules: [{pointer: /a}]", r"rules\[0\].action: is missing; expected one of drop"),
        ("rules: [{action: mask}]", r"rules\[0\]: expected one of pointer, tensor, header, got none"),
        ("rules: [{pointer: /a, tensor: b, action: mask}]", "got pointer and tensor"),
        ("rules: [{pointer: a, action: mask}]", r"rules\[0\].pointer: expected a JSON pointer"),
        ("rules: [{pointer: '', action: mask}]", r"rules\[0\].pointer: expected a JSON pointer"),
        ("rules: [{pointer: /a~2, action: mask}]", r"rules\[0\].pointer: expected a JSON pointer"),
        ("rules: [{pointer: /*/a, action: mask}]", "whose first part is a name"),
        ("rules: [{tensor: t, column: -1, action: mask}]", r"rules\[0\].column: expected an index from 0 up, got -1"),
        ("rules: [{tensor: t, action: pseudonym, key: k}]", r"rules\[0\].key: expected the id of a key; known: none"),
        ("rules: [{tensor: t, action: pseudonym}]", r"rules\[0\].key: expected the id of a key"),
        ("rules: [{tensor: t, action: bucket}]", "bucket needs either width or edges"),
        ("rules: [{tensor: t, action: bucket, width: 0}]", r"rules\[0\].width: expected a number above 0, got 0"),
        ("rules: [{tensor: t, action: bucket, width: .inf}]", "expected a number above 0, got inf"),
        ("rules: [{tensor: t, action: bucket, edges: [2, 1]}]", r"rules\[0\].edges: expected rising numbers"),
        ("rules: [{tensor: t, action: truncate}]", r"rules\[0\].length: expected a number of characters"),
        ("rules: [{tensor: t, action: mask, in: requests}]", r"rules\[0\].in: .* did you mean 'request'?"),
        ("rules: [{tensor: t, action: mask, required: 1}]", r"rules\[0\].required: expected true or false, got 1"),
        ("rules: [{header: x y, action: mask}]", r"rules\[0\].header: expected a header's name"),
        ("rules: [{header: authorization, action: mask}]", "'authorization' is never logged"),
        ("rules: [{header: X-Request-Id, action: mask}]", "'x-request-id' says how an event is read"),
        ("rules: [{header: a, action: bucket, width: 1}]", r"rules\[0\].action: expected one of drop, mask, pseudonym"),
        ("rules: [{header: a, action: mask}, {header: A, action: drop}]", "a header has two rules"),
        ("rules: []\nrules: [{header: a, action: mask}]", "key 'rules' comes twice"),
        ("rules: [{pointer: /a, pointer: /b, action: mask}]", "line 1: key 'pointer' comes twice"),
        ("rules: {}", "rules: expected a list, got dict"),
        ("- 1", "privacy file: expected keys and values, got list"),
        ("rules: [", "not YAML in line 1: "),
        ("failed_calls: perhaps", "failed_calls: expected one of withhold, keep"),
        ("keys: 3", "keys: expected a path, got 3"),
        ("encryption: {}", "encryption.key: expected the id of a key; known: none"),
        ("encryption: {kye: a}", "encryption: unknown key 'kye'; did you mean 'key'?"),
    ],
)
def test_what_cannot_be_meant_is_refused(text: str, problem: str) -> None:
    """A rule that silently did nothing would be a leak, so each mistake ends the start, with its field."""
    with pytest.raises(BadRules, match=problem):
        read(text, lambda _path: Keyring())


def test_a_key_has_one_use() -> None:
    """The key that encrypts makes no pseudonyms: whoever may read payloads must not be able to undo the others."""
    with pytest.raises(BadRules, match="'customers' makes pseudonyms or digests already"):
        rules({"header": "a", "action": "pseudonym", "key": "customers"}, encryption={"key": "customers"})


def test_a_key_in_the_wrong_place_is_not_repeated() -> None:
    """A key given as an id, or a file of keys given as rules, is refused without being told; ids are suggested."""
    key = KEYS.split()[1]

    for text in (KEYS, "rules: [\n" + KEYS, f"keys: k\nencryption: {{key: '{key}'}}"):
        with pytest.raises(BadRules) as caught:
            read(text, lambda _path: Keyring.parse(KEYS))
        assert key not in str(caught.value)
    with pytest.raises(BadRules, match=r"known: customers, payloads; did you mean 'customers'\?"):
        rules({"header": "a", "action": "pseudonym", "key": "customer"})
    with pytest.raises(BadKeys) as turned:
        Keyring.parse(f"{key.rstrip('=')} customers")
    assert key.rstrip("=") not in str(turned.value)


def test_no_repr_shows_a_key() -> None:
    """Settings end up in logs and tracebacks; keys do not."""
    privacy = rules({"pointer": "/a", "action": "pseudonym", "key": "customers"}, encryption={"key": "payloads"})
    shown = repr(privacy) + repr(Keyring.parse(KEYS)) + json.dumps(privacy, default=repr)

    assert "customers" in shown
    assert "ppp" not in shown
    assert "\\x01" not in shown


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "expected at least one line"),
        ("# nothing\n\n", "expected at least one line"),
        ("key", "line 1: expected an id"),
        ("\nk\u00e9y c2VjcmV0", "line 2: expected an id"),
        ("a c2VjcmV0", "line 1: expected a key of at least 32 bytes, got 6"),
        ("a c2VjcmV0!", "line 1: expected a key in base64"),
        (KEYS + "\n" + KEYS, "line 3: key 'customers' comes twice"),
    ],
)
def test_a_file_of_keys_is_refused_without_telling_any(text: str, problem: str) -> None:
    """The text names line and id. The key stays out of it, even where the line is malformed."""
    with pytest.raises(BadKeys, match=problem) as caught:
        Keyring.parse(text)

    assert "c2VjcmV0" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "tokens"),
    [("/a", ("a",)), ("/", ("",)), ("/a/*/0", ("a", "*", "0")), ("/~01", ("~1",)), ("/m~0n~1o", ("m~n/o",))],
)
def test_pointers_follow_their_rfc(text: str, tokens: tuple[str, ...]) -> None:
    """RFC 6901, sections 3 to 5: ~1 is read before ~0."""
    assert pointers.parse(text) == tokens


def test_the_documented_file_is_read() -> None:
    """The example in the documentation is one that the logger takes."""
    text = (ROOT / "docs" / "privacy.md").read_text(encoding="utf-8")
    example = text.partition("```yaml\n")[2].partition("```")[0]
    privacy = read(example, lambda _path: Keyring.parse(KEYS))

    assert len(privacy.request.pointers) + len(privacy.request.tensors) + len(privacy.headers) == 6
    assert all(f"`{reason}`" in text for reason in REASONS)


def test_nothing_is_said_means_nothing_is_done() -> None:
    """An empty list of rules is valid, and has no effect."""
    assert read("rules: []", lambda _path: Keyring()) == Privacy(headers={})
