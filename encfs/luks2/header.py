"""The LUKS2 binary header: 4096 bytes in front of each of the two JSON areas.

A *copy* is a binary header plus its JSON area, `hdr_size` bytes in all, under one checksum. The primary
copy lies at offset 0, the secondary at offset `hdr_size`. The checksum finds accidents, not attacks:
whoever can write the image can compute it.

Kind: pure

Spec: LUKS2 On-Disk Format Specification, version 1.1.4, section 2.1, figure 2 and table 1.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import struct
from dataclasses import dataclass

from encfs.errors import MalformedHeader, NotLuks2, UnsupportedHeader
from encfs.luks2.fields import printable

BINARY_SIZE = 4096  # bytes of a binary header
MAGIC_PRIMARY = b"LUKS\xba\xbe"
MAGIC_SECONDARY = b"SKUL\xba\xbe"
VERSION = 2
CHECKSUM = "sha256"
SALT_SIZE = 64  # bytes
LABEL_SIZE = 48  # bytes with the closing NUL
# Table 1: where a secondary copy may start, which is also the size of a copy. Bytes.
COPY_SIZES = tuple(0x4000 << n for n in range(9))

# Figure 2. The last field is the padding up to the checksum at byte 448.
_LAYOUT = struct.Struct(">6sHQQ48s32s64s40s48sQ184s")
_CHECKSUM_AT = 448
_CHECKSUM_FIELD = 64  # bytes; SHA-256 fills 32, the rest is zero
_DIGEST_SIZE = 32
UUID_PATTERN = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)
assert _LAYOUT.size == _CHECKSUM_AT


@dataclass(frozen=True, slots=True)
class BinaryHeader:
    """The fields of a binary header, all public.

    Attributes:
        size: bytes of the copy: this header and its JSON area.
        offset: byte offset of the copy in the image; 0 for the primary.
        seqid: counts updates; the copy with the higher number is the newer one.
        salt: 64 bytes that differ between copies and are otherwise unused.
    """

    size: int
    offset: int
    seqid: int
    label: str
    subsystem: str
    uuid: str
    salt: bytes


@dataclass(frozen=True, slots=True)
class HeaderCopy:
    """A binary header and the text of its JSON area, without the closing zeros."""

    binary: BinaryHeader
    json_text: bytes


def parse_binary_header(data: bytes, *, offset: int) -> BinaryHeader:
    """Read the fields of a binary header; the checksum is checked by `parse_copy`.

    Args:
        data: 4096 bytes, untrusted.
        offset: where they were read from, in bytes.

    Raises:
        NotLuks2: no LUKS2 magic.
        MalformedHeader: a field is out of range.
        UnsupportedHeader: another checksum algorithm.
    """
    if len(data) != BINARY_SIZE:
        raise MalformedHeader(f"binary header: {len(data)} bytes, wanted {BINARY_SIZE}")
    magic, version, size, seqid, label, algorithm, salt, uuid, subsystem, at, padding = _LAYOUT.unpack_from(
        data
    )
    _check_magic(magic, version, offset)
    if size not in COPY_SIZES:
        raise MalformedHeader(
            f"binary header: size {size}, wanted one of {COPY_SIZES[0]} to {COPY_SIZES[-1]}"
        )
    if at != offset or (offset and offset != size):
        raise MalformedHeader(f"binary header: read at {offset}, but it says {at}, wanted its own place")
    if not 0 < seqid < 2**63:
        raise MalformedHeader(f"binary header: sequence id {seqid}, wanted 1 to 2**63 - 1")
    if any(padding) or any(data[_CHECKSUM_AT + _CHECKSUM_FIELD :]):
        raise MalformedHeader("binary header: data in its padding, wanted zeros")
    if _text("checksum algorithm", algorithm) != CHECKSUM:
        raise UnsupportedHeader(
            f"binary header: checksum {printable(_text('checksum algorithm', algorithm))}, wanted {CHECKSUM}"
        )
    header = BinaryHeader(
        size, at, seqid, _text("label", label), _text("subsystem", subsystem), _text("uuid", uuid), salt
    )
    if not UUID_PATTERN.fullmatch(header.uuid):
        raise MalformedHeader(f"binary header: uuid {printable(header.uuid)}, wanted a UUID")
    return header


def parse_copy(data: bytes, *, offset: int) -> HeaderCopy:
    """Check and split one whole copy.

    Args:
        data: binary header and JSON area, `size` bytes as the binary header says, untrusted.
        offset: where they were read from, in bytes.

    Raises:
        NotLuks2, MalformedHeader, UnsupportedHeader: as `parse_binary_header`; also a wrong checksum,
            and a JSON area that is not one text followed by zeros.
    """
    binary = parse_binary_header(data[:BINARY_SIZE], offset=offset)
    if len(data) != binary.size:
        raise MalformedHeader(f"header copy: {len(data)} bytes, wanted {binary.size}")
    seen = data[_CHECKSUM_AT : _CHECKSUM_AT + _CHECKSUM_FIELD]
    if not hmac.compare_digest(seen, _checksum(data)):
        raise MalformedHeader("header copy: its checksum does not match its content")
    text, _, rest = data[BINARY_SIZE:].partition(b"\0")
    if rest.strip(b"\0") or len(text) == binary.size - BINARY_SIZE:
        raise MalformedHeader("JSON area: data after the text, wanted zeros up to the end")
    if not text.startswith(b"{"):
        raise MalformedHeader("JSON area: does not start with an opening brace")
    return HeaderCopy(binary, text)


def build_copy(copy: HeaderCopy) -> bytes:
    """The bytes of a copy, `copy.binary.size` long, with its checksum; the inverse of `parse_copy`.

    Raises:
        MalformedHeader: the JSON text does not fit in its area, or a label is too long.
    """
    binary = copy.binary
    room = binary.size - BINARY_SIZE
    if len(copy.json_text) >= room:
        raise MalformedHeader(f"JSON area: text of {len(copy.json_text)} bytes, wanted less than {room}")
    head = _LAYOUT.pack(
        MAGIC_SECONDARY if binary.offset else MAGIC_PRIMARY,
        VERSION,
        binary.size,
        binary.seqid,
        _field("label", binary.label, LABEL_SIZE),
        CHECKSUM.encode("ascii"),
        binary.salt,
        _field("uuid", binary.uuid, 40),
        _field("subsystem", binary.subsystem, LABEL_SIZE),
        binary.offset,
        b"",
    )
    data = head.ljust(BINARY_SIZE, b"\0") + copy.json_text.ljust(room, b"\0")
    return data[:_CHECKSUM_AT] + _checksum(data) + data[_CHECKSUM_AT + _CHECKSUM_FIELD :]


def _checksum(data: bytes) -> bytes:
    zeroed = hashlib.sha256(data[:_CHECKSUM_AT])
    zeroed.update(bytes(_CHECKSUM_FIELD))
    zeroed.update(memoryview(data)[_CHECKSUM_AT + _CHECKSUM_FIELD :])
    return zeroed.digest().ljust(_CHECKSUM_FIELD, b"\0")


def _check_magic(magic: bytes, version: int, offset: int) -> None:
    if magic != (MAGIC_SECONDARY if offset else MAGIC_PRIMARY):
        raise NotLuks2(
            f"no LUKS header at offset {offset}",
            hint="is this the right file? `encfs create` makes an image, `cryptsetup luksFormat` too",
        )
    if version != VERSION:
        raise NotLuks2(
            f"LUKS header of version {version}, wanted 2",
            hint="a LUKS1 image can be converted: cryptsetup convert --type luks2" if version == 1 else "",
        )


def _text(name: str, field: bytes) -> str:
    text, _, rest = field.partition(b"\0")
    if len(text) == len(field) or rest.strip(b"\0"):
        raise MalformedHeader(f"binary header: {name} is not one text closed by zeros")
    try:
        return text.decode("utf-8")
    except UnicodeDecodeError as exc:
        raise MalformedHeader(f"binary header: {name} is not UTF-8") from exc


def _field(name: str, text: str, size: int) -> bytes:
    data = text.encode("utf-8")
    if len(data) >= size or b"\0" in data:
        raise MalformedHeader(f"{name} of {len(data)} bytes, wanted less than {size}, without NUL")
    return data
