"""The host's certificate table: written by the host, so read with suspicion."""

from __future__ import annotations

import struct
from uuid import UUID

import pytest
from cryptography.hazmat.primitives.serialization import Encoding
from fakes.snp_chain import Authority
from hypothesis import given
from hypothesis import strategies as st

from sidecar.errors import MalformedInput
from sidecar.snp.certtable import (
    ARK,
    ASK,
    VCEK,
    VLEK,
    build_certificate_table,
    parse_certificate_table,
    table_of,
)
from sidecar.snp.leaf import LeafKind

OTHER = UUID("01234567-89ab-cdef-0123-456789abcdef")


def entry(guid: UUID, offset: int, length: int) -> bytes:
    return guid.bytes + struct.pack("<II", offset, length)


END = bytes(24)


def test_guid_bytes_are_in_text_order() -> None:
    assert build_certificate_table({VCEK: b"x"})[:4] == bytes.fromhex("63da758d")


@pytest.mark.parametrize("vlek", [False, True], ids=["vcek", "vlek"])
def test_chain_of_either_kind(vlek: bool) -> None:
    chain = Authority(vlek=vlek).chain()
    table = parse_certificate_table(build_certificate_table(table_of(chain).entries))
    kind, other = (LeafKind.VLEK, LeafKind.VCEK) if vlek else (LeafKind.VCEK, LeafKind.VLEK)
    assert table.chain(kind) == chain
    assert table.chain(other) is None
    assert table.leaf(other) is None
    assert table.authorities() == (chain.ask, chain.ark)


def test_pem_contents_and_missing_pieces() -> None:
    chain = Authority().chain()
    table = parse_certificate_table(build_certificate_table({VCEK: chain.leaf.public_bytes(Encoding.PEM)}))
    assert table.leaf(LeafKind.VCEK) == chain.leaf
    assert table.authorities() is None
    assert table.chain(LeafKind.VCEK) is None


def test_damaged_contents_are_named() -> None:
    table = parse_certificate_table(build_certificate_table({ASK: b"junk", ARK: b"junk", VLEK: b"junk"}))
    with pytest.raises(MalformedInput, match="certificate table: ASK: certificate: does not parse"):
        table.authorities()
    with pytest.raises(MalformedInput, match="certificate table: VLEK"):
        table.leaf(LeafKind.VLEK)


def test_nothing_is_an_empty_table() -> None:
    assert dict(parse_certificate_table(b"").entries) == {}
    assert dict(parse_certificate_table(END).entries) == {}
    assert dict(parse_certificate_table(bytes(16384)).entries) == {}


def test_padding_and_unknown_guids_are_kept_apart() -> None:
    data = build_certificate_table({OTHER: b"other", VCEK: b""}) + bytes(4096)
    assert dict(parse_certificate_table(data).entries) == {OTHER: b"other", VCEK: b""}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"\1", "no empty entry"),
        (entry(VCEK, 48, 0), "no empty entry"),
        (entry(VCEK, 48, 0) + END[:23], "no empty entry"),
        (entry(VCEK, 47, 1) + END + b"x", "bytes 47 to 48, wanted within 48 to 49"),
        (entry(VCEK, 0, 24) + END + b"x", "bytes 0 to 24"),
        (entry(VCEK, 48, 2) + END + b"x", "bytes 48 to 50, wanted within 48 to 49"),
        (entry(VCEK, 50, 0) + END + b"x", "bytes 50 to 50"),
        # In 32 bits this sum wraps around to 50.
        (entry(VCEK, 0xFFFFFFF0, 66) + END + b"x" * 64, "bytes 4294967280"),
        (entry(VCEK, 72, 1) * 2 + END + b"x", "appears twice"),
        (UUID(int=0).bytes + b"\1" + bytes(7), "last entry is not empty"),
        (bytes(256 * 1024 + 1), "wanted at most"),
    ],
)
def test_one_mistake(data: bytes, message: str) -> None:
    with pytest.raises(MalformedInput, match=message):
        parse_certificate_table(data)


@given(st.dictionaries(st.uuids(), st.binary(max_size=40), max_size=6).filter(lambda d: UUID(int=0) not in d))
def test_round_trip(entries: dict[UUID, bytes]) -> None:
    data = build_certificate_table(entries)
    assert dict(parse_certificate_table(data).entries) == entries


@given(st.binary(max_size=300))
def test_any_bytes_end_in_a_table_or_a_typed_error(data: bytes) -> None:
    try:
        table = parse_certificate_table(data)
    except MalformedInput:
        return
    assert sum(len(body) for body in table.entries.values()) <= len(data) * (len(table.entries) or 1)
