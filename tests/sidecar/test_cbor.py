"""The strict part of CBOR: published examples, and everything else refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.cbor import MAX_DEPTH, MAX_SIZE, Tagged, Value, decode, encode
from sidecar.errors import MalformedInput

# RFC 8949 appendix A, the examples that fall into the part read here.
EXAMPLES: list[tuple[str, Value]] = [
    ("00", 0),
    ("17", 23),
    ("1818", 24),
    ("1864", 100),
    ("1903e8", 1000),
    ("1a000f4240", 1000000),
    ("1b000000e8d4a51000", 1000000000000),
    ("1bffffffffffffffff", 2**64 - 1),
    ("20", -1),
    ("3863", -100),
    ("3903e7", -1000),
    ("3bffffffffffffffff", -(2**64)),
    ("f4", False),
    ("f5", True),
    ("f6", None),
    ("40", b""),
    ("4401020304", b"\1\2\3\4"),
    ("60", ""),
    ("6449455446", "IETF"),
    ("62c3bc", "\u00fc"),
    ("64f0908591", "\U00010151"),
    ("80", []),
    ("83010203", [1, 2, 3]),
    ("8301820203820405", [1, [2, 3], [4, 5]]),
    ("a0", {}),
    ("a201020304", {1: 2, 3: 4}),
    ("a26161016162820203", {"a": 1, "b": [2, 3]}),
    ("826161a161626163", ["a", {"b": "c"}]),
    ("c11a514b67b0", Tagged(1, 1363896240)),
    ("d818456449455446", Tagged(24, b"dIETF")),
]


@pytest.mark.parametrize(("text", "value"), EXAMPLES)
def test_published_examples(text: str, value: Value) -> None:
    assert decode(bytes.fromhex(text)) == value
    assert encode(value).hex() == text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "1 bytes wanted, 0 left"),
        ("18", "1 bytes wanted"),
        ("1817", "shortest form"),
        ("190018", "shortest form"),
        ("1a00000000", "shortest form"),
        ("5800", "shortest form"),
        ("f90000", "float"),
        ("fb3ff199999999999a", "float"),
        ("f7", "simple value 23"),
        ("f8ff", "float, indefinite length or reserved"),
        ("5f42010243030405ff", "indefinite length"),
        ("9fff", "indefinite length"),
        ("bfff", "indefinite length"),
        ("1c", "reserved form"),
        ("ff", "indefinite length"),
        ("0000", "1 bytes follow"),
        ("4401", "4 bytes wanted, 1 left"),
        ("61ff", "not UTF-8"),
        ("62c328", "not UTF-8"),
        ("9bffffffffffffffff", "items promised"),
        ("bbffffffffffffffff", "items promised"),
        ("5bffffffffffffffff", "bytes wanted"),
        ("a201010102", "map key '1' appears twice"),
        ("a2616101616102", "map key 'a' appears twice"),
        ("a1f501", "neither integer nor text"),
        ("a14001", "neither integer nor text"),
        ("a18001", "neither integer nor text"),
        ("a101", "1 bytes wanted"),
        ("c1", "1 bytes wanted"),
    ],
)
def test_everything_else_is_refused(text: str, message: str) -> None:
    with pytest.raises(MalformedInput, match=message):
        decode(bytes.fromhex(text))


def test_depth_items_and_size_are_bounded() -> None:
    assert decode(b"\x81" * MAX_DEPTH + b"\x00")
    with pytest.raises(MalformedInput, match="nested too deep"):
        decode(b"\x81" * (MAX_DEPTH + 1) + b"\x00")
    with pytest.raises(MalformedInput, match="nested too deep"):
        decode(b"\xc1" * 100_000)
    with pytest.raises(MalformedInput, match="too many items"):
        decode(encode([0] * 10_001))
    with pytest.raises(MalformedInput, match="wanted at most"):
        decode(bytes(MAX_SIZE + 1))
    with pytest.raises(MalformedInput, match="at most 64"):
        encode(2**64)


VALUES = st.recursive(
    st.integers(-(2**64), 2**64 - 1) | st.booleans() | st.none() | st.binary() | st.text(),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.integers(-(2**32), 2**32) | st.text(), inner, max_size=4)
        | st.builds(Tagged, st.integers(0, 2**64 - 1), inner)
    ),
    max_leaves=12,
)


@given(VALUES)
def test_round_trip(value: Value) -> None:
    assert decode(encode(value)) == value


@given(st.binary(max_size=200))
def test_any_bytes_are_canonical_or_refused(data: bytes) -> None:
    try:
        value = decode(data)
    except MalformedInput:
        return
    assert encode(value) == data
