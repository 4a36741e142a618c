"""One tar header of 512 bytes, and the PAX records before it, as the guest's converter (Go) reads them.

Every dialect: V7, ustar, star, PAX, GNU. Names stay bytes. Numbers are octal, or binary where the first bit
is set. Where two readers could differ, Go's archive/tar decides, because the layer hash is made with it.

Spec: POSIX pax interchange format; GNU tar manual, "Basic Tar Format"; Go archive/tar.

Kind: pure
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from sidecar.errors import LayerRejected

BLOCK = 512
# Longest data of a PAX or GNU long-name header; Go's bound, and that of others.
MAX_META = 1 << 20
XATTR_PREFIX = b"SCHILY.xattr."
_NUL_FREE = frozenset({b"path", b"linkpath", b"uname", b"gname"})
_INTEGER = re.compile(rb"[+-]?[0-9]+\Z")
_INT64 = 1 << 63
_NANOSECOND_DIGITS = 9

Records = dict[bytes, bytes]
Time = tuple[int, int]


@dataclass(slots=True)
class Header:
    """One entry's header; times are seconds and nanoseconds, None where the archive has none.

    `type` is the type flag's byte, `stored` the bytes of data in the archive, `size` those of the file.
    """

    name: bytes
    type: bytes
    size: int = 0
    stored: int = 0
    mode: int = 0
    uid: int = 0
    gid: int = 0
    modified: Time | None = None
    accessed: Time | None = None
    changed: Time | None = None
    target: bytes = b""
    device: tuple[int, int] = (0, 0)
    xattrs: dict[bytes, bytes] = field(default_factory=dict)
    gnu: bool = False


def parse_header(block: bytes | memoryview) -> Header:
    """Read one header block.

    Raises:
        LayerRejected: the checksum is wrong, or a field is no number.
    """
    block = bytes(block)
    _check_sum(block)
    header = Header(_text(block[:100]), block[156:157], target=_text(block[157:257]))
    header.mode = parse_number(block[100:108], "mode")
    header.uid = parse_number(block[108:116], "uid")
    header.gid = parse_number(block[116:124], "gid")
    header.size = parse_number(block[124:136], "size")
    header.modified = parse_number(block[136:148], "mtime"), 0
    # Of ustar the version is not looked at, of GNU it is part of the mark.
    ustar, gnu = block[257:263] == b"ustar\0", block[257:265] == b"ustar  \0"
    if ustar or gnu:
        header.device = parse_number(block[329:337], "devmajor"), parse_number(block[337:345], "devminor")
    prefix = b""
    if ustar:
        if block[508:512] == b"tar\0":
            prefix = _text(block[345:476])
            header.accessed = parse_number(block[476:488], "atime"), 0
            header.changed = parse_number(block[488:500], "ctime"), 0
        else:
            prefix = _text(block[345:500])
    elif gnu:
        header.gnu = True
        prefix = _gnu_times(header, block)
    if prefix:
        header.name = prefix + b"/" + header.name
    return header


def parse_number(data: bytes, what: str) -> int:
    """A numeric field: octal text, or two's complement where its first bit is set.

    Raises:
        LayerRejected: neither, or over 63 bits.
    """
    if data[:1] and data[0] & 0x80:
        value = int.from_bytes(data, "big")
        bits = 8 * len(data)
        # The first bit only marks the form; the second one is the sign.
        value = value - (1 << bits) if data[0] & 0x40 else value - (1 << bits - 1)
        if not -_INT64 <= value < _INT64:
            raise LayerRejected(f"tar header: field {what} is over 63 bits")
        return value
    text = data.strip(b" \0").split(b"\0", 1)[0]
    if not text and not data.strip(b" \0"):
        return 0
    if not text or text.strip(b"01234567") or int(text, 8) >= 1 << 64:
        raise LayerRejected(f"tar header: field {what} is {data[:24]!r}, wanted an octal number")
    value = int(text, 8)
    return value - (1 << 64) if value >= _INT64 else value


def parse_records(data: bytes) -> Records:
    """PAX records: `LENGTH KEY=VALUE` and a line feed each; the last of two with one key counts.

    Raises:
        LayerRejected: a record is malformed.
    """
    found: Records = {}
    sparse: list[bytes] = []
    place = 0
    while place < len(data):
        space = data.find(b" ", place, place + 20)
        digits = data[place:space] if space > 0 else b""
        end = place + int(digits) if digits.isdigit() else 0
        if end < place + 5 or end > len(data) or end <= space + 1 or data[end - 1] != 0x0A:
            raise LayerRejected("tar: a PAX record's length is wrong")
        key, equals, value = data[space + 1 : end - 1].partition(b"=")
        if not key or not equals or b"\0" in (value if key in _NUL_FREE else key):
            raise LayerRejected(f"tar: PAX record {key[:64]!r} is malformed")
        if key in (b"GNU.sparse.offset", b"GNU.sparse.numbytes"):
            expected = b"GNU.sparse.numbytes" if len(sparse) % 2 else b"GNU.sparse.offset"
            if key != expected or b"," in value:
                raise LayerRejected("tar: GNU.sparse records are out of order")
            sparse.append(value)
        else:
            found[key] = value
        place = end
    if sparse:
        found[b"GNU.sparse.map"] = b",".join(sparse)
    return found


def apply_records(header: Header, records: Records) -> None:
    """Let PAX records override a header's fields; an empty value overrides nothing.

    Raises:
        LayerRejected: a number or a time is malformed.
    """
    for key, value in records.items():
        if key.startswith(XATTR_PREFIX):
            header.xattrs[key[len(XATTR_PREFIX) :]] = value
        elif value:
            _apply_record(header, key, value)


def parse_integer(text: bytes, what: str) -> int:
    """A decimal number of at most 63 bits and a sign; LayerRejected otherwise."""
    if not _INTEGER.match(text) or len(text) > 32 or not -_INT64 <= int(text) < _INT64:
        raise LayerRejected(f"tar: PAX record {what} is {text[:32]!r}, wanted a number")
    return int(text)


def _apply_record(header: Header, key: bytes, value: bytes) -> None:
    match key:
        case b"path":
            header.name = value
        case b"linkpath":
            header.target = value
        case b"uid":
            header.uid = parse_integer(value, "uid")
        case b"gid":
            header.gid = parse_integer(value, "gid")
        case b"size":
            header.size = parse_integer(value, "size")
        case b"mtime":
            header.modified = _time(value, "mtime")
        case b"atime":
            header.accessed = _time(value, "atime")
        case b"ctime":
            header.changed = _time(value, "ctime")


def _time(text: bytes, what: str) -> Time:
    """Seconds with a fraction, cut to nanoseconds; of a negative time the fraction counts downwards."""
    whole, _, fraction = text.partition(b".")
    seconds = parse_integer(whole, what)
    if fraction.strip(b"0123456789"):
        raise LayerRejected(f"tar: PAX record {what} is {text[:32]!r}, wanted a time")
    nanoseconds = int(fraction[:_NANOSECOND_DIGITS].ljust(_NANOSECOND_DIGITS, b"0"))
    if whole.startswith(b"-") and nanoseconds:
        return seconds - 1, 1_000_000_000 - nanoseconds
    return seconds, nanoseconds


def _gnu_times(header: Header, block: bytes) -> bytes:
    """Take the times of a GNU header, or return the prefix that old versions of Go wrote in their place."""
    try:
        accessed = (parse_number(block[345:357], "atime"), 0) if block[345] else None
        changed = (parse_number(block[357:369], "ctime"), 0) if block[357] else None
    except LayerRejected:
        prefix = _text(block[345:500])
        return prefix if prefix.isascii() else b""
    header.accessed, header.changed = accessed, changed
    return b""


def _check_sum(block: bytes) -> None:
    wanted = parse_number(block[148:156], "checksum")
    others = block[:148] + b" " * 8 + block[156:]
    unsigned = sum(others)
    if wanted != unsigned and wanted != unsigned - 256 * sum(byte > 127 for byte in others):
        raise LayerRejected(f"tar header: checksum {unsigned}, its field says {wanted}")


def _text(data: bytes) -> bytes:
    return data.split(b"\0", 1)[0]
