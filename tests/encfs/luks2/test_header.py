"""The binary header: build and parse are inverses, and the layout is the one of the format."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from encfs.errors import EncfsError, ImageError, MalformedHeader
from encfs.luks2.header import (
    BINARY_SIZE,
    COPY_SIZES,
    BinaryHeader,
    HeaderCopy,
    build_copy,
    parse_binary_header,
    parse_copy,
)

LABELS = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=15)


@st.composite
def copies(draw: st.DrawFn) -> HeaderCopy:
    size = draw(st.sampled_from(COPY_SIZES[:3]))
    binary = BinaryHeader(
        size=size,
        offset=draw(st.sampled_from([0, size])),
        seqid=draw(st.integers(1, 2**63 - 1)),
        label=draw(LABELS),
        subsystem=draw(LABELS),
        uuid=str(draw(st.uuids())),
        salt=draw(st.binary(min_size=64, max_size=64)),
    )
    return HeaderCopy(binary, b"{" + draw(st.binary(max_size=100)).replace(b"\0", b" ") + b"}")


@given(copies())
def test_parse_is_the_inverse_of_build(copy: HeaderCopy) -> None:
    data = build_copy(copy)
    assert len(data) == copy.binary.size
    assert parse_copy(data, offset=copy.binary.offset) == copy
    assert parse_binary_header(data[:BINARY_SIZE], offset=copy.binary.offset) == copy.binary


@given(copies(), st.data())
def test_any_changed_byte_is_noticed(copy: HeaderCopy, data: st.DataObject) -> None:
    whole = bytearray(build_copy(copy))
    at = data.draw(st.integers(0, len(whole) - 1))
    whole[at] ^= data.draw(st.integers(1, 255))
    with pytest.raises(ImageError):
        parse_copy(bytes(whole), offset=copy.binary.offset)


@given(st.binary(max_size=512), st.sampled_from([b"", b"LUKS\xba\xbe\0\2", b"SKUL\xba\xbe\0\2"]))
def test_any_sector_is_a_header_or_a_typed_error(data: bytes, start: bytes) -> None:
    for offset in (0, 0x4000):
        with pytest.raises(EncfsError):
            parse_binary_header((start + data).ljust(BINARY_SIZE, b"\0"), offset=offset)


def test_fields_lie_where_the_format_has_them() -> None:
    binary = BinaryHeader(
        size=0x4000, offset=0x4000, seqid=0x0102, label="a label", subsystem="a subsystem",
        uuid="12345678-1234-1234-1234-123456789abc", salt=bytes(range(64)),
    )  # fmt: skip
    data = build_copy(HeaderCopy(binary, b"{}"))
    fields = [
        (0, b"SKUL\xba\xbe"), (6, b"\0\x02"), (8, (0x4000).to_bytes(8, "big")), (16, b"\0\0\0\0\0\0\x01\x02"),
        (24, b"a label\0"), (72, b"sha256\0"), (104, bytes(range(64))), (168, b"12345678-1234"),
        (208, b"a subsystem\0"), (256, (0x4000).to_bytes(8, "big")), (264, bytes(184)), (480, bytes(32)),
        (512, bytes(3584)), (4096, b"{}\0"),
    ]  # fmt: skip
    for at, wanted in fields:
        assert data[at : at + len(wanted)] == wanted, f"byte {at}"
    zeroed = data[:448] + bytes(64) + data[512:]
    assert data[448:480] == hashlib.sha256(zeroed).digest()


@pytest.mark.parametrize(
    ("field", "value"), [("label", "x" * 48), ("label", "a\0b"), ("subsystem", "ä" * 24), ("uuid", "u" * 40)]
)
def test_build_refuses_what_does_not_fit(field: str, value: str) -> None:
    values = {"label": "", "subsystem": "", "uuid": "12345678-1234-1234-1234-123456789abc", field: value}
    binary = BinaryHeader(size=0x4000, offset=0, seqid=1, salt=bytes(64), **values)
    with pytest.raises(MalformedHeader, match=field):
        build_copy(HeaderCopy(binary, b"{}"))


def test_build_refuses_a_text_that_fills_the_area() -> None:
    binary = BinaryHeader(0x4000, 0, 1, "", "", "12345678-1234-1234-1234-123456789abc", bytes(64))
    most = b"{" + b" " * (0x4000 - BINARY_SIZE - 3) + b"}"
    assert parse_copy(build_copy(HeaderCopy(binary, most)), offset=0).json_text == most
    with pytest.raises(MalformedHeader, match="JSON area"):
        build_copy(HeaderCopy(binary, most + b" "))


def test_wrong_lengths() -> None:
    with pytest.raises(MalformedHeader, match="wanted 4096"):
        parse_binary_header(b"LUKS", offset=0)
    binary = BinaryHeader(0x4000, 0, 1, "", "", "12345678-1234-1234-1234-123456789abc", bytes(64))
    with pytest.raises(MalformedHeader, match="wanted 16384"):
        parse_copy(build_copy(HeaderCopy(binary, b"{}"))[:-1], offset=0)
