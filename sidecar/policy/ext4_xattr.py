"""Extended attributes in an ext4 image: which go into the inode, which into the block, and their bytes.

The layout follows the guest's own converter down to its oddities, since every byte enters the root hash: an
attribute that is too large for what is left of the inode goes to the block while later, smaller ones still go
to the inode, and the block is sorted with a comparison that is no order at all (see `_sort_block`).

Spec: Linux, Documentation/filesystems/ext4/attributes.rst; the order is that of hcsshim's compactext4.

Kind: pure
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from sidecar.errors import LayerRejected, LayerUnpredictable

INLINE_AREA = 104  # bytes behind the used part of an inode
_MAGIC = b"\x00\x00\x02\xea"
_INLINE_ROOM = INLINE_AREA - 4 - 4
_BLOCK_HEADER = 32
_BLOCK_ROOM = 4096 - _BLOCK_HEADER - 4
# Sorting is insertion sort up to here; beyond, the reference's quicksort decides.
MAX_IN_BLOCK = 12
_ENTRY = struct.Struct("<BBHIII")
_PREFIXES = (
    (2, b"system.posix_acl_access"),
    (3, b"system.posix_acl_default"),
    (8, b"system.richacl"),
    (7, b"system."),
    (1, b"user."),
    (4, b"trusted."),
    (6, b"security."),
)
_PREFIX_OF = dict(_PREFIXES)


class _Attribute(NamedTuple):
    number: int
    name: bytes  # without the prefix that `number` stands for
    value: bytes

    def length(self) -> int:
        return 16 + _padded(len(self.name)) + _padded(len(self.value))


@dataclass(frozen=True, slots=True)
class Placed:
    """Attributes of one inode, as bytes: the area in the inode, and the block's 4096 bytes where needed."""

    inline: bytes
    block: bytes


def place(attributes: Mapping[bytes, bytes], what: str) -> Placed:
    """Lay out the attributes of one inode.

    Args:
        attributes: full name to value.
        what: the path, for errors.

    Raises:
        LayerRejected: they do not fit, or a name is too long.
        LayerUnpredictable: more in the block than the reference sorts in a known way.
    """
    inline: list[_Attribute] = []
    block: list[_Attribute] = []
    inline_left, block_left = _INLINE_ROOM, _BLOCK_ROOM
    for full_name in sorted(attributes):
        attribute = _Attribute(*_split(full_name), attributes[full_name])
        if len(attribute.name) > 255:
            raise LayerRejected(f"{what}: an extended attribute's name of {len(full_name)} bytes")
        length = attribute.length()
        if inline_left >= length:
            inline.append(attribute)
            inline_left -= length
        elif block_left >= length:
            block.append(attribute)
            block_left -= length
        else:
            raise LayerRejected(f"{what}: extended attribute {full_name[:64]!r} does not fit")
    if len(block) > MAX_IN_BLOCK:
        raise LayerUnpredictable(
            f"{what}: {len(block)} extended attributes in the attribute block, at most {MAX_IN_BLOCK} have a "
            "known order"
        )
    _sort_block(block)
    return Placed(_inline_bytes(inline) if inline else b"", _block_bytes(block) if block else b"")


def empty_block() -> bytes:
    """An attribute block that has lost its attributes."""
    return _block_bytes([])


def read_inline(area: bytes) -> dict[bytes, bytes]:
    """Attributes in an inode's area, as the reference reads them back."""
    return _read(area[4:], 0, "inode") if area else {}


def read_block(block: bytes, what: str) -> dict[bytes, bytes]:
    """Attributes in a block, as the reference reads them back; LayerUnpredictable where it cannot."""
    return _read(block[_BLOCK_HEADER:], _BLOCK_HEADER, what) if block else {}


def _split(name: bytes) -> tuple[int, bytes]:
    for index, prefix in _PREFIXES:
        if name.startswith(prefix):
            return index, name[len(prefix) :]
    return 0, name


def _padded(length: int) -> int:
    return (length + 3) & ~3


def _before(a: _Attribute, b: _Attribute) -> bool:
    return a.number < b.number or len(a.name) < len(b.name) or a.name < b.name


def _sort_block(block: list[_Attribute]) -> None:
    """Insertion sort with a comparison that is no order: only these steps give this result."""
    for end in range(1, len(block)):
        place = end
        while place > 0 and _before(block[place], block[place - 1]):
            block[place], block[place - 1] = block[place - 1], block[place]
            place -= 1


def _inline_bytes(attributes: list[_Attribute]) -> bytes:
    return _MAGIC + _entries(attributes, INLINE_AREA - 4, 0)


def _block_bytes(attributes: list[_Attribute]) -> bytes:
    header = _MAGIC + struct.pack("<II", 1, 1) + bytes(_BLOCK_HEADER - 12)
    return header + _entries(attributes, 4096 - _BLOCK_HEADER, _BLOCK_HEADER)


def _entries(attributes: list[_Attribute], room: int, delta: int) -> bytes:
    """Entries from the start, values from the end backwards; offsets are counted with `delta` added."""
    area = bytearray(room)
    front, back = 0, room
    for index, name, value in attributes:
        back -= _padded(len(value))
        _ENTRY.pack_into(area, front, len(name), index, back + delta, 0, len(value), _hash(name, value))
        area[front + 16 : front + 16 + len(name)] = name
        area[back : back + len(value)] = value
        front += 16 + _padded(len(name))
    return bytes(area)


def _hash(name: bytes, value: bytes) -> int:
    found = 0
    for byte in name:
        found = ((found << 5) ^ (found >> 27) ^ byte) & 0xFFFFFFFF
    padded = value.ljust(_padded(len(value)), b"\0")
    for (word,) in struct.iter_unpack("<I", padded):
        found = ((found << 16) ^ (found >> 16) ^ word) & 0xFFFFFFFF
    return found


def _read(area: bytes, delta: int, what: str) -> dict[bytes, bytes]:
    found: dict[bytes, bytes] = {}
    front = 0
    # An attribute whose whole name is a prefix has length 0 here, and ends the list for the reference.
    while front + 16 <= len(area) and area[front]:
        length, index, offset, _, size, _ = _ENTRY.unpack_from(area, front)
        if length >= 240:
            raise LayerUnpredictable(f"{what}: an attribute's name of {length} bytes is read again")
        name = area[front + 16 : front + 16 + length]
        found[_PREFIX_OF.get(index, b"") + name] = area[offset - delta : offset - delta + size]
        front += 16 + _padded(length)
    return found
