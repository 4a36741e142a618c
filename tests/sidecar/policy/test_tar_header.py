"""Fields and records of tar headers, one by one, against what Go's reader makes of them."""

from __future__ import annotations

import pytest
from fakes.layer_tars import header_block

from sidecar.errors import LayerRejected
from sidecar.policy.tar_header import Header, apply_records, parse_header, parse_number, parse_records


@pytest.mark.parametrize(
    ("data", "value"),
    [
        (b"0000644\0", 0o644),
        (b"   17 \0", 0o17),
        (b"\0\0\x0017\0\0", 0o17),
        (b"", 0),
        (b" \0 \0", 0),
        (b"\x80\0\0\0\0\0\0\x2a", 42),
        (b"\xff" * 8, -1),
        (b"\xff\xff\xff\xff\xff\xff\xff\x00", -256),
        (b"\x80\0\0\0\x7f\xff\xff\xff\xff\xff\xff\xff", (1 << 63) - 1),
        (b"\xff\xff\xff\xff\x80\0\0\0\0\0\0\0", -(1 << 63)),
        (b"1777777777777777777777", -1),
    ],
)
def test_number(data: bytes, value: int) -> None:
    assert parse_number(data, "field") == value


@pytest.mark.parametrize(
    "data",
    [
        b"8",
        b"12 34",
        b"0x1",
        b"+7",
        b"-1",
        b"1_7",
        b"\x80\0\0\0\x80" + bytes(7),
        b"\xc0" + bytes(11),
        b"7" * 22,
    ],
)
def test_no_number(data: bytes) -> None:
    with pytest.raises(LayerRejected):
        parse_number(data, "field")


def test_prefix_of_each_dialect() -> None:
    ustar = header_block(b"f", b"", magic=b"ustar\x0000", at345=b"some/where")
    assert parse_header(ustar).name == b"some/where/f"
    star = {"at345": b"p" * 131, "at476": b"00000000017\0", "at488": b"00000000031\0", "at508": b"tar\0"}
    found = parse_header(header_block(b"f", b"", magic=b"ustar\x0000", **star))
    assert (found.name, found.accessed, found.changed) == (b"p" * 131 + b"/f", (15, 0), (25, 0))
    gnu = parse_header(header_block(b"f", b"", at345=b"some/where"))
    assert (gnu.name, gnu.accessed) == (b"some/where/f", None)
    assert parse_header(header_block(b"f", b"", magic=b"\0" * 8, at345=b"ignored")).name == b"f"
    assert parse_header(header_block(b"f", b"", magic=b"ustar   ", at345=b"ignored")).name == b"f"
    assert parse_header(header_block(b"f", b"", magic=b"ustar\x0099", at345=b"read")).name == b"read/f"


def test_signed_checksum() -> None:
    block = bytearray(header_block(b"\xff\xfe", b""))
    unsigned = int(block[148:154], 8)
    block[148:156] = b"%06o\0 " % (unsigned - 512)
    assert parse_header(bytes(block)).name == b"\xff\xfe"
    block[148:156] = b"%06o\0 " % (unsigned - 256)
    with pytest.raises(LayerRejected, match="checksum"):
        parse_header(bytes(block))


@pytest.mark.parametrize(
    ("text", "time"),
    [
        (b"1", (1, 0)),
        (b"1.5", (1, 500_000_000)),
        (b"1.", (1, 0)),
        (b"-1.25", (-2, 750_000_000)),
        (b"-0.5", (-1, 500_000_000)),
        (b"1.1234567899", (1, 123_456_789)),
        (b"+3", (3, 0)),
    ],
)
def test_time(text: bytes, time: tuple[int, int]) -> None:
    header = Header(b"", b"0")
    apply_records(header, {b"mtime": text})
    assert header.modified == time


@pytest.mark.parametrize(
    ("key", "value"),
    [
        (b"mtime", b"x"),
        (b"mtime", b"1.x"),
        (b"mtime", b".5"),
        (b"uid", b"1.5"),
        (b"uid", b"9" * 20),
        (b"size", b" 1"),
    ],
)
def test_no_value(key: bytes, value: bytes) -> None:
    with pytest.raises(LayerRejected):
        apply_records(Header(b"", b"0"), {key: value})


def test_records() -> None:
    data = b"11 path=a\n\n6 b==\n13 path=last\n27 SCHILY.xattr.user.a=\0=\xff\n"
    assert parse_records(data) == {b"path": b"last", b"b": b"=", b"SCHILY.xattr.user.a": b"\0=\xff"}
    header = Header(b"kept", b"0")
    apply_records(header, {b"path": b"", b"SCHILY.xattr.user.a": b""})
    assert (header.name, header.xattrs) == (b"kept", {b"user.a": b""})


@pytest.mark.parametrize(
    "data",
    [b"x", b"99 a=b\n", b"7 a=bcd", b"6 a=b ", b"6 =bc\n", b"7 abcd\n", b"0 a=b\n", b"8 a\0b=c\n"],
)
def test_no_records(data: bytes) -> None:
    with pytest.raises(LayerRejected):
        parse_records(data)
