"""What the rules do to bodies: to each protocol, encoding and datatype; and what is withheld, with which reason."""

from __future__ import annotations

import gzip
import hashlib
import hmac
import json
import struct
from typing import Any

import pytest

from logger.privacy.cleaner import Cleaner
from logger.privacy.errors import REASONS
from logger.settings import TapSettings
from logger.tap import Seen
from streams.events import CONTENT_ENCODING, INFERENCE_HEADER_LENGTH, REDACTED, TRUNCATED, WITHHELD
from tests.logger.privacy.making import (
    AT,
    LIMIT,
    V1,
    V2,
    binary,
    clean,
    cleaned,
    events,
    packed,
    private,
    rules,
    seen,
    sent,
    texts,
    v2,
)  # fmt: skip

MASK_EMAIL = rules({"pointer": "/instances/*/email", "action": "mask"})
SECRET = b"4111-1111"


def withheld(exchange: Seen, *found: dict[str, Any]) -> str:
    """Give the reason why a request is withheld, and make sure that it is."""
    request, _ = events(rules(*found), exchange)
    told = json.loads(request.data or b"")

    assert told["withheld"] == request.text(WITHHELD)
    assert request.datacontenttype == "application/json"
    return request.text(WITHHELD)


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ({"pointer": "/instances/*/a", "action": "drop"}, [{"b": 1}, {"b": [2, "x"]}]),
        ({"pointer": "/instances/*/a", "action": "mask"}, [{"a": "***", "b": 1}, {"a": None, "b": [2, "x"]}]),
        ({"pointer": "/instances/1/b/0", "action": "drop"}, [{"a": "s", "b": 1}, {"a": 7, "b": [None, "x"]}]),
        ({"pointer": "/instances/*/*", "action": "mask"}, [{"a": "***", "b": None}, {"a": None, "b": [None, "***"]}]),
        ({"pointer": "/instances/*", "action": "mask"}, [None, None]),
        ({"pointer": "/instances/7/a", "action": "mask"}, [{"a": "s", "b": 1}, {"a": 7, "b": [2, "x"]}]),
        (
            {"pointer": "/instances/*/a", "action": "bucket", "width": 5},
            [{"a": "***", "b": 1}, {"a": 5, "b": [2, "x"]}],
        ),
        ({"pointer": "/inputs/*/a", "action": "drop", "in": "request"}, [{"b": 1}, {"b": [2, "x"]}]),
        ({"pointer": "/predictions/0", "action": "drop"}, [{"a": "s", "b": 1}, {"a": 7, "b": [2, "x"]}]),
    ],
)
def test_pointers_in_v1_bodies(rule: dict[str, Any], expected: list[Any]) -> None:
    """A rule acts where its pointer leads and nowhere else; `instances` and `inputs` are one word in V1."""
    body = b'{"instances": [{"a": "s", "b": 1}, {"a": 7, "b": [2, "x"]}], "k": 1.50}'

    assert cleaned(rules(rule), body) == {"instances": expected, "k": 1.5}


def test_both_spellings_of_v1_rows_are_covered() -> None:
    """A rule for `instances` that a client could step around by writing `inputs` would be none."""
    assert cleaned(MASK_EMAIL, b'{"inputs": [{"email": "a@b"}]}') == {"inputs": [{"email": "***"}]}


def test_a_name_that_comes_twice_is_gone() -> None:
    """JSON with a name twice is read by its last value; the first one does not stay behind in the text."""
    body = b'{"instances": [{"email": "a@b", "email": null}], "user": {"email": "a@b"}, "user": 1}'

    assert b"a@b" not in clean(MASK_EMAIL, seen(body))[0]


def test_numbers_beyond_64_bits_stay_what_they_are() -> None:
    """Whole numbers of any length that no rule speaks of are not rounded on the way."""
    body = b'{"instances": [{"email": "a@b", "id": 123456789012345678901234567890}]}'

    assert cleaned(MASK_EMAIL, body)["instances"][0]["id"] == 123456789012345678901234567890


def test_deep_json_is_read_or_withheld() -> None:
    """JSON nested deeper than its writers like is logged as it was, or withheld; never cut, never raised."""
    for depth in (200, 300, 900, 1_020, 5_000):
        nested = b"[" * depth + b"]" * depth
        found = clean(MASK_EMAIL, seen(b'{"instances": [{"email": "a@b"}], "deep": ' + nested + b"}"))[0]

        assert b"a@b" not in found
        assert nested in found or b"withheld" in found
    assert nested not in found


def test_both_sides_have_their_own_rules() -> None:
    """`in` says which message a rule is for; the other is logged byte for byte."""
    body = b'{ "instances" : [{"email":"a@b"}] }'
    privacy = rules({"pointer": "/instances/*/email", "action": "mask", "in": "response"})

    assert clean(privacy, seen(body, body)) == (body, b'{"instances":[{"email":"***"}]}')
    assert clean(rules(), seen(body, body)) == (body, body)


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"no json", "not-json"),
        (b'{"instances": [{"email": NaN}]}', "not-json"),
        (b'{"instances": [{"email": "\xff"}]}', "not-json"),
        (b'{"instances": [["a@b"]]}', "shape"),
        (b'{"instances": ["a@b"]}', "shape"),
        (b'{"instances": "a@b"}', "shape"),
        (b'["a@b"]', "shape"),
        (b'{"instances": [{"mail": "a@b"}]}', "missing"),
        (b'{"other": 4111}', "missing"),
        (b"\x1f\x8b\x08 broken", "gzip"),
        (packed(b'{"instances": [{"email": "a@b"}]}')[:-9], "gzip"),
        (packed(b" " * (LIMIT + 1)), "inflated"),
    ],
)
def test_what_the_rules_cannot_read_is_withheld(body: bytes, reason: str) -> None:
    """Length and digest take its place; an extension has the reason; the body is nowhere in the records."""
    rule = {"pointer": "/instances/*/email", "action": "mask", "required": True}
    exchange = seen(body)

    assert withheld(exchange, rule) == reason
    told = json.loads(clean(rules(rule), seen(body))[0])
    assert told == {"withheld": reason, "length": len(body), "sha256": hashlib.sha256(body).hexdigest()}
    assert body not in sent(rules(rule), seen(body))


def test_a_body_that_was_cut_is_withheld() -> None:
    """The rest of a value might be what the rule is for; the event still says that it was cut."""
    exchange = seen(b'{"instances": [{"email": "a@b"}]}')
    exchange.request.size = 40
    request, _ = events(MASK_EMAIL, exchange)
    told = json.loads(request.data or b"")

    assert (request.text(WITHHELD), request.text(TRUNCATED)) == ("truncated", "true")
    assert (told["length"], told["kept"]) == (40, 33)


def test_a_body_that_was_dropped_stays_dropped() -> None:
    """Of an exchange that the outbox kept without its bodies there is nothing to withhold."""
    exchange = seen(b"question", b"answer")
    exchange.request.drop()
    request, _ = events(MASK_EMAIL, exchange)

    assert (request.data, request.text(TRUNCATED), request.text(WITHHELD)) == (b"", "true", "")


def test_a_digest_may_have_a_key() -> None:
    """A short body can be guessed from its plain digest; with a key it cannot."""
    privacy = rules({"pointer": "/a", "action": "mask"}, digest_key="customers")
    told = json.loads(clean(privacy, seen(b"4711"))[0])

    assert told["hmac-sha256"] == hmac.digest(bytes(range(32)), b"4711", "sha256").hex()
    assert told["key"] == "customers"
    assert "sha256" not in told


def test_a_result_that_would_not_fit_is_withheld() -> None:
    """Pseudonyms are longer than what they stand for; a record that the broker refuses would be lost as a whole."""
    rule = {"pointer": "/instances/*", "action": "pseudonym", "key": "customers"}
    body = json.dumps({"instances": list(range(2_000))}).encode()

    assert withheld(seen(body), rule) == "too-large"


def test_answers_of_failed_calls_are_withheld() -> None:
    """Models quote inputs that they cannot take; a file may say that theirs do not."""
    quoted = b'{"error": "could not convert \'4111\' to a number"}'
    body = b'{"instances": [{"email": "a@b"}]}'
    exchange = seen(body, quoted, status=400)
    kept = rules({"pointer": "/instances/*/email", "action": "mask"}, failed_calls="keep")
    _, response = events(MASK_EMAIL, exchange)

    assert response.text(WITHHELD) == "failed-call"
    assert json.loads(clean(kept, seen(body, quoted, status=400))[1]) == json.loads(quoted)


def test_gzip_is_logged_redacted_and_plain() -> None:
    """Whether or not the header says so: content encoding goes, and the rules have done their work."""
    body = packed(b'{"instances": [{"email": "a@b"}]}')
    for fields in ([(b"content-encoding", b"GZIP")], []):
        request, _ = events(MASK_EMAIL, seen(body, b"", V1, *fields))

        assert request.data == b'{"instances":[{"email":"***"}]}'
        assert CONTENT_ENCODING not in request.extensions
        assert request.text(REDACTED) == "true"


@pytest.mark.parametrize("fields", [[b"br"], [b"gzip, br"], [b"gzip", b"gzip"], [b"identity", b"deflate"]])
def test_other_encodings_are_withheld(fields: list[bytes]) -> None:
    """What cannot be unpacked cannot be read."""
    exchange = seen(b'{"instances": []}', b"", V1, *((b"content-encoding", value) for value in fields))

    assert withheld(exchange, {"pointer": "/a", "action": "mask"}) == "encoding"


def test_a_bomb_is_not_unpacked() -> None:
    """Neither the size nor the ratio of what is unpacked can be chosen by who sends it."""
    small = gzip.compress(b" " * (1 << 20))
    cleaner = Cleaner(MASK_EMAIL, 8 << 20)
    found = cleaner.clean(seen(small))

    assert b'"inflated"' in found.request.chunks[0]
    assert cleaner.counts == {"inflated": 1}


FLOATS = struct.pack("<4d", 1.5, 2.5, 3.5, 44.5)


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ({"tensor": "x", "column": 1, "action": "mask"}, (1.5, 0.0, 3.5, 0.0)),
        ({"tensor": "x", "column": 1, "action": "bucket", "width": 10}, (1.5, 0.0, 3.5, 40.0)),
        ({"tensor": "x", "action": "bucket", "edges": [2, 3]}, (2.0, 2.0, 3.0, 3.0)),
        ({"tensor": "x", "column": 0, "action": "pseudonym", "key": "customers"}, (0.0, 2.5, 0.0, 44.5)),
        ({"tensor": "x", "column": 0, "action": "drop"}, (0.0, 2.5, 0.0, 44.5)),
        ({"tensor": "x", "action": "mask"}, (0.0,) * 4),
        ({"tensor": "y", "action": "mask"}, (1.5, 2.5, 3.5, 44.5)),
    ],
)
def test_columns_of_binary_and_json_tensors_are_one(rule: dict[str, Any], expected: tuple[float, ...]) -> None:
    """A column comes out the same whichever way it came in, and nothing else of the tensor changes."""
    body, fields = binary([("x", "FP64", [2, 2], FLOATS), ("z", "BYTES", [1], texts(b"kept"))])
    request, _ = events(rules(rule), seen(body, b"", V2, *fields))
    found, head = request.data or b"", request.number(INFERENCE_HEADER_LENGTH) or 0
    nested: dict[str, Any] = {"name": "x", "datatype": "FP64", "shape": [2, 2], "data": [[1.5, 2.5], [3.5, 44.5]]}
    flat = nested | {"data": [1.5, 2.5, 3.5, 44.5]}
    before = {"name": "z", "datatype": "BYTES", "shape": [1], "data": ["kept"]}

    assert found[head:] == struct.pack("<4d", *expected) + texts(b"kept")
    two = [list(expected[:2]), list(expected[2:])]
    assert cleaned(rules(rule), v2(before, nested), V2)["inputs"] == [before, nested | {"data": two}]
    assert cleaned(rules(rule), v2(before, flat), V2)["inputs"] == [before, flat | {"data": list(expected)}]


@pytest.mark.parametrize(
    ("datatype", "code", "value", "expected"),
    [
        ("UINT8", "B", 199, 150), ("UINT16", "H", 199, 150), ("UINT32", "I", 199, 150), ("UINT64", "Q", 199, 150),
        ("INT8", "b", 101, 100), ("INT8", "b", -101, 0), ("INT16", "h", -101, -150), ("INT32", "i", -101, -150),
        ("INT64", "q", 101, 100), ("FP16", "e", 101.5, 100.0), ("FP32", "f", 101.5, 100.0), ("FP64", "d", 101.5, 100.0),
        ("FP32", "f", float("inf"), 0.0), ("FP64", "d", float("nan"), 0.0), ("BOOL", "?", True, False),
    ],
)  # fmt: skip
def test_buckets_of_every_datatype(datatype: str, code: str, value: float, expected: float) -> None:
    """A bucket stays inside its datatype; what has none, or would begin below it, is 0."""
    body, fields = binary([("x", datatype, [1], struct.pack(f"<{code}", value))])
    found = clean(rules({"tensor": "x", "action": "bucket", "width": 50}), seen(body, b"", V2, *fields))[0]

    assert struct.unpack_from(f"<{code}", found, len(found) - struct.calcsize(f"<{code}")) == (expected,)


def test_buckets_of_bf16() -> None:
    """BF16 is the upper half of a binary32."""
    raw = struct.pack("<f", 101.5)[2:] + struct.pack("<f", -7.0)[2:]
    body, fields = binary([("x", "BF16", [2], raw)])
    found = clean(rules({"tensor": "x", "action": "bucket", "width": 50}), seen(body, b"", V2, *fields))[0]

    assert found[-4:] == struct.pack("<f", 100.0)[2:] + struct.pack("<f", -50.0)[2:]


def test_pseudonyms_of_tensors_are_texts() -> None:
    """A tensor of numbers becomes one of texts, in JSON and binary alike, and both spell a number the same way."""
    privacy = rules({"tensor": "x", "action": "pseudonym", "key": "customers"})
    body, fields = binary([("x", "FP32", [2, 1], struct.pack("<2f", 0.1, 7))])
    found = clean(privacy, seen(body, b"", V2, *fields))[0]
    item = {"name": "x", "datatype": "FP32", "shape": [2, 1], "data": [[0.1], [7]]}
    (written,) = cleaned(privacy, v2(item), V2)["inputs"]
    names = [row[0].encode() for row in written["data"]]

    assert written["datatype"] == "BYTES"
    assert found.endswith(texts(*names))
    assert names[1] == b"customers:" + hmac.digest(bytes(range(32)), b"7", "sha256").hex().encode()


def test_a_dropped_tensor_is_gone_and_the_last_one_stays_empty() -> None:
    """Its bytes go, too; but rows are counted by tensors, so the only one stays, without its values."""
    one, two = ("x", "FP32", [2], struct.pack("<2f", 1, 2)), ("y", "INT8", [2], b"\x03\x04")
    privacy = rules({"tensor": "x", "action": "drop"})
    body, fields = binary([one, two])
    request, _ = events(privacy, seen(body, b"", V2, *fields))
    alone, fields = binary([one])
    head = request.number(INFERENCE_HEADER_LENGTH)
    data = request.data or b""

    assert [item["name"] for item in json.loads(data[:head])["inputs"]] == ["y"]
    assert data[head:] == b"\x03\x04"
    assert clean(privacy, seen(alone, b"", V2, *fields))[0].endswith(bytes(8))


@pytest.mark.parametrize(
    ("tensor", "reason"),
    [
        ({"name": "x", "datatype": "FP64", "shape": [2], "data": [1]}, "tensor"),
        ({"name": "x", "datatype": "FP64", "shape": [-1], "data": []}, "tensor"),
        ({"name": "x", "datatype": "FP64", "shape": [1], "data": {"0": 4111}}, "tensor"),
        ({"name": "x", "datatype": "FP64", "shape": [2], "data": [[1], 2]}, "tensor"),
        ({"name": "x", "datatype": "FP64", "shape": [2], "data": [1, [2]]}, "tensor"),
        ({"name": "x", "datatype": "FP65", "shape": [1], "data": [4111]}, "tensor"),
        ({"name": "x", "datatype": "FP64", "shape": [1]}, "tensor"),
        ({"name": "x", "datatype": "FP64", "shape": [1, 1], "data": [4111]}, "column"),
        ({"name": "x", "datatype": "FP64", "shape": [1], "parameters": {"binary_data_size": 8}}, "tensor"),
        ({"name": 4111, "datatype": "FP64", "shape": [1], "data": [4111]}, "tensor"),
        ({"name": "y", "datatype": "FP64", "shape": [1, 2], "data": [1, 2]}, "missing"),
    ],
)
def test_tensors_that_are_none_are_withheld(tensor: dict[str, Any], reason: str) -> None:
    """Where values lie has to be certain."""
    rule = {"tensor": "x", "column": 1, "action": "mask", "required": True}

    assert withheld(seen(v2(tensor), b"", V2), rule) == reason


@pytest.mark.parametrize("values", [[b"x"], [b"0"], [b"999"], [b"-1"], [b"9", b"10"], [b"9" * 5_000], [b"\xb2"]])
def test_a_wrong_header_length_is_withheld(values: list[bytes]) -> None:
    """Where the JSON ends has to be certain."""
    fields = [(b"inference-header-content-length", value) for value in values]

    assert withheld(seen(v2(), b"", V2, *fields), {"tensor": "x", "action": "mask"}) == "header-length"


@pytest.mark.parametrize(
    ("pointer", "reason"),
    [
        ("/inputs/0/data", "binary"), ("/inputs/*/data/*", "binary"), ("/inputs/0", "tensor"), ("/inputs", "tensor"),
        ("/inputs/0/shape/0", "tensor"), ("/inputs/*/*", "tensor"), ("/inputs/0/parameters", "tensor"),
        ("/inputs/0/parameters/binary_data_size", "tensor"), ("/inputs/*/datatype", "tensor"),
    ],
)  # fmt: skip
def test_pointers_into_binary_tensors_are_withheld(pointer: str, reason: str) -> None:
    """No pointer leads to bytes behind the JSON, and none may take away what says how to read them."""
    body, fields = binary([("x", "FP64", [4], FLOATS)])

    assert withheld(seen(body, b"", V2, *fields), {"pointer": pointer, "action": "mask"}) == reason


@pytest.mark.parametrize("action", ["drop", "mask"])
@pytest.mark.parametrize("pointer", ["/inputs/0/data", "/inputs/*/data/*", "/inputs/*/data/*/*"])
def test_pointers_into_json_tensors_keep_the_datatype(pointer: str, action: str) -> None:
    """The data of a tensor stays numbers: 0 stands for them, as after a rule for the tensor."""
    item: dict[str, Any] = {"name": "x", "datatype": "INT8", "shape": [2, 1], "data": [[4], [5]]}
    found = cleaned(rules({"pointer": pointer, "action": action}), v2(item), V2)

    assert found["inputs"] == [item | {"data": [[0], [0]]}]


def test_other_parts_of_v2_bodies() -> None:
    """Parameters and ids are JSON like any other; the tensors behind it are not looked at."""
    body, fields = binary([("x", "FP64", [4], FLOATS)])
    head = len(body) - len(FLOATS)
    more = json.dumps({"id": "u1", "parameters": {"user": "a@b"}} | json.loads(body[:head])).encode()
    length = [(b"inference-header-content-length", b"%d" % len(more))]
    privacy = rules({"pointer": "/parameters/user", "action": "drop"}, {"pointer": "/id", "action": "mask"})
    request, _ = events(privacy, seen(more + FLOATS, b"", V2, *length))
    at = request.number(INFERENCE_HEADER_LENGTH)

    assert json.loads((request.data or b"")[:at]) == {"id": "***", "parameters": {}} | json.loads(body[:head])
    assert (request.data or b"")[at:] == FLOATS
    assert fields != length


def test_headers() -> None:
    """Allowed headers are masked, dropped or given a pseudonym; the list of allowed ones stays another matter."""
    settings = TapSettings(capture=LIMIT, metadata_headers=frozenset({"a", "b", "c", "d"}))
    privacy = rules(
        {"header": "A", "action": "mask"}, {"header": "b", "action": "drop"},
        {"header": "c", "action": "pseudonym", "key": "customers"},
    )  # fmt: skip
    fields = [(b"a", SECRET), (b"a", b"x" + SECRET), (b"b", SECRET), (b"c", SECRET), (b"d", b"plain"), (b"e", SECRET)]
    request, response = events(privacy, seen(b"{}", b"{}", V1, *fields), settings)
    name = "customers:" + hmac.digest(bytes(range(32)), SECRET, "sha256").hex()

    assert json.loads(request.text("metadata")) == {"a": ["***", "***"], "c": [name], "d": ["plain"]}
    assert request.text("metadata") == response.text("metadata")
    assert SECRET not in sent(privacy, seen(b"{}", b"{}", V1, *fields), settings)


def test_only_what_is_logged_is_counted() -> None:
    """With one side logged, the other's bodies are nobody's affair."""
    tap = private(MASK_EMAIL, TapSettings(mode="request", capture=LIMIT))
    letters = tap.letters(seen(b'{"instances": []}', b"no json"), AT)

    assert len(letters) == tap.events_each == 1
    assert tap.cleaner.counts == {"redacted": 1}


def test_counts_have_a_closed_list() -> None:
    """Every reason that a test met is one that the metrics page names."""
    cleaner = Cleaner(MASK_EMAIL, LIMIT)
    cleaner.clean(seen(b"no json", b"{}"))
    cleaner.clean(seen(b'{"instances": [1]}', b"x", status=500))

    assert set(cleaner.counts) <= {*REASONS, "redacted"}
    assert cleaner.counts == {"not-json": 1, "redacted": 1, "shape": 1, "failed-call": 1}


def test_answers_that_repeat_their_inputs() -> None:
    """A tensor of the rule's name is covered wherever a message has its data, also where the protocol has none."""
    item: dict[str, Any] = {"name": "x", "datatype": "INT8", "shape": [1], "data": [41]}
    body = json.dumps({"inputs": [item], "outputs": [item, {"name": "x"}]}).encode()
    for action in ("mask", "drop"):
        for found in clean(rules({"tensor": "x", "action": action}), seen(body, body, V2)):
            assert b"41" not in found
