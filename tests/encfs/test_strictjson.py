"""Bounded JSON: agrees with the standard library on what it accepts, and never raises anything else."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from encfs.strictjson import JsonRefused, load_object

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
    max_leaves=20,
)
OBJECTS = st.dictionaries(st.text(max_size=4), VALUES, max_size=4)


def load(data: bytes) -> dict[str, Any]:
    return load_object(data, max_bytes=10_000)


@given(OBJECTS, st.booleans(), st.sampled_from([None, 2]))
def test_what_json_writes_is_read_back(value: dict[str, Any], ascii_only: bool, indent: int | None) -> None:
    text = json.dumps(value, ensure_ascii=ascii_only, indent=indent)
    assert load(text.encode()) == value


@given(st.binary(max_size=200) | st.text(max_size=200).map(lambda t: t.encode("utf-8", "replace")))
def test_anything_is_read_as_json_does_or_refused(data: bytes) -> None:
    try:
        value = load(data)
    except JsonRefused:
        return
    assert json.loads(data) == value


@given(st.text('{}[]",:0123456789ae\\-', max_size=60))
def test_json_like_text_is_read_as_json_does_or_refused(text: str) -> None:
    try:
        value = load(text.encode())
    except JsonRefused:
        return
    assert json.loads(text) == value


@pytest.mark.parametrize(
    ("data", "bomb"),
    [
        (b"{" + b" " * 10_000 + b"}", True),
        (b'{"a":' + b"[" * 20 + b"]" * 20 + b"}", True),
        (b'{"a":' * 1600 + b"0" + b"}" * 1600, True),
        (b'{"a":[' + b"," * 9000, False),
        (b'{"a":' + b"1" * 21 + b"}", True),
        (b'{"a":-' + b"1" * 21 + b"}", True),
        (b'{"a":1.0}', False),
        (b'{"a":1e5}', False),
        (b'{"a":NaN}', False),
        (b'{"a":Infinity}', False),
        (b'{"a":-Infinity}', False),
        (b'{"a":1,"a":1}', False),
        (b'{"a":1,"\\u0061":2}', False),
        (b'{"a":"\\udc00"}', False),
        (b'{"\\udc00":1}', False),
        (b"\xef\xbb\xbf{}", False),
        (b"{}\0", False),
        (b"[]", False),
        (b'"text"', False),
        (b"", False),
    ],
)
def test_refusals(data: bytes, bomb: bool) -> None:
    with pytest.raises(JsonRefused) as caught:
        load(data)
    assert caught.value.bomb is bomb


def test_bounds_are_exact() -> None:
    assert load_object(b'{"a":[[]]}', max_bytes=10, max_depth=3, max_values=3)
    for bound in ({"max_bytes": 9}, {"max_bytes": 10, "max_depth": 2}, {"max_bytes": 10, "max_values": 2}):
        with pytest.raises(JsonRefused):
            load_object(b'{"a":[[]]}', **bound)


def test_brackets_and_quotes_in_strings_are_text() -> None:
    value = {"a": "[[[[{{{{" * 20, "b": 'say "[" \\', "c\\": "]"}
    assert load(json.dumps(value).encode()) == value


@pytest.mark.parametrize("piece", [b'\\"', b'"', b"\\", b'[\\"', b'",', b"{", b'"\\'])
def test_a_megabyte_of_anything_takes_no_time(piece: bytes) -> None:
    before = time.process_time()
    for start in (b"{", b'{"', b'{"a":"'):
        with pytest.raises(JsonRefused):
            load_object(start + piece * ((1 << 20) // len(piece)), max_bytes=2 << 20)
    assert time.process_time() - before < 10
