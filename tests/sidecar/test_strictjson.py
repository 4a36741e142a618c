"""JSON from outside: what is refused, and that a refusal never quotes the document."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.errors import MalformedInput
from sidecar.strictjson import (
    MAX_DEPTH,
    as_bool,
    as_int,
    as_list,
    as_object,
    dump_json,
    load_json,
    load_object,
    optional_text,
    text_member,
)

scalars = st.none() | st.booleans() | st.integers(-(2**63), 2**64) | st.text()
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4)
)


@given(values)
def test_round_trip(value: object) -> None:
    assert load_json(dump_json(value)) == value


@given(st.binary(max_size=200))
def test_bytes_give_a_value_or_the_one_error(data: bytes) -> None:
    try:
        load_json(data)
    except MalformedInput:
        return
    json.loads(data)  # whatever we accept, the standard reader accepts


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('{"a":1,"a":2}', "appears twice"),
        ('{"x":{"a":1,"a":1}}', "appears twice"),
        ("[NaN]", "not a JSON number"),
        ("[Infinity]", "not a JSON number"),
        ("[-Infinity]", "not a JSON number"),
        ("[1e999]", "too large"),
        ("[" + "9" * 401 + "]", "401 digits"),
        ("[0." + "9" * 400 + "]", "402 digits"),
        ("[" * (MAX_DEPTH + 1) + "]" * (MAX_DEPTH + 1), "levels deep"),
        ('{"a":' * (MAX_DEPTH + 1) + "1" + "}" * (MAX_DEPTH + 1), "levels deep"),
        ("[" * 100_000, "levels deep"),
        ('"\\ud800"', "surrogate"),
        ('{"\\ud800":1}', "surrogate"),
        ("{}{}", "not JSON"),
        ("", "not JSON"),
        ("\ufeff{}", "not JSON"),
        ("{'a':1}", "not JSON"),
        ('{"a":1,}', "not JSON"),
    ],
)
def test_refused(text: str, reason: str) -> None:
    with pytest.raises(MalformedInput, match=reason):
        load_json(text)


def test_depth_at_the_limit_is_read() -> None:
    assert load_json("[" * MAX_DEPTH + "]" * MAX_DEPTH)


def test_length_is_bounded_before_parsing() -> None:
    with pytest.raises(MalformedInput, match="11 bytes, at most 10"):
        load_json(b" " * 11, max_bytes=10)


def test_bad_utf8_names_the_place() -> None:
    with pytest.raises(MalformedInput, match="not UTF-8 at byte 2"):
        load_json(b'"a\xff"')


def test_an_error_quotes_nothing_of_a_secret_document() -> None:
    secret = "hunter2hunter2"
    with pytest.raises(MalformedInput) as caught:
        load_json('{"k":"' + secret + '",}')
    chain: BaseException | None = caught.value
    while chain is not None:
        assert secret not in str(chain)
        chain = chain.__cause__
    assert caught.value.__suppress_context__


def test_getters_name_the_type_and_never_the_value() -> None:
    obj = load_object('{"n":7,"b":true,"s":"x","z":null}')
    assert text_member(obj, "s", "thing") == "x"
    assert optional_text(obj, "z", "thing") is None
    assert optional_text(obj, "absent", "thing") is None
    with pytest.raises(MalformedInput, match="thing: member 'n': is a number, wanted a string"):
        text_member(obj, "n", "thing")
    with pytest.raises(MalformedInput, match="thing: member 'q' is missing"):
        text_member(obj, "q", "thing")
    with pytest.raises(MalformedInput, match="is true or false, wanted an integer"):
        as_int(True, "thing")
    with pytest.raises(MalformedInput, match="is a string, wanted true or false"):
        as_bool("true", "thing")
    with pytest.raises(MalformedInput, match="is an array, wanted an object"):
        as_object([], "thing")
    with pytest.raises(MalformedInput, match="3 items, at most 2"):
        as_list([1, 2, 3], "thing", max_items=2)
    with pytest.raises(MalformedInput, match="2 characters, at most 1"):
        text_member({"s": "xx"}, "s", "thing", max_length=1)
