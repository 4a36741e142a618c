"""The dm-verity superblock, and where image, superblock and tree lie in one file.

    0           image: N bytes, a multiple of 4096
    N           superblock, in a block of its own
    N + 4096    tree: the top level first, the leaves last

Nothing in the superblock is covered by the root hash, so only one form of it is accepted: hash type 1,
SHA-256, 4096-byte blocks, as many of them as lie before it. What remains free, the salt, is bound by the root
hash itself.

Kind: pure
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from uuid import UUID

from encfs.errors import ImageError

BLOCK = 4096
DIGEST = 32
FAN_OUT = BLOCK // DIGEST
SUPERBLOCK_SIZE = 512
MAX_SALT = 256
# Spec: cryptsetup, lib/verity/verity.c, struct verity_sb, little-endian.
_FIELDS = struct.Struct("<8sII16s32sIIQH6s256s168s")
_MAGIC = b"verity\0\0"
_HASH = b"sha256"


@dataclass(frozen=True, slots=True)
class Superblock:
    """What a superblock says; all public. `salt` is 0 to 256 bytes, `uuid` 16."""

    data_blocks: int
    salt: bytes
    uuid: bytes


@dataclass(frozen=True, slots=True)
class Level:
    """One level of the tree: `start` in blocks from the tree's first, `count` blocks."""

    start: int
    count: int


@dataclass(frozen=True, slots=True)
class Geometry:
    """The tree over `data_blocks` blocks; `levels` from the leaves (0) to the top, empty for one block."""

    data_blocks: int
    levels: tuple[Level, ...]

    @classmethod
    def of(cls, data_blocks: int) -> Geometry:
        counts, blocks = [], data_blocks
        while blocks > 1:
            blocks = -(-blocks // FAN_OUT)
            counts.append(blocks)
        levels, start = [], 0
        for count in reversed(counts):
            levels.append(Level(start, count))
            start += count
        return cls(data_blocks, tuple(reversed(levels)))

    @property
    def blocks(self) -> int:
        """Blocks of the whole tree."""
        return sum(level.count for level in self.levels)

    @property
    def data_size(self) -> int:
        """Bytes of the image."""
        return self.data_blocks * BLOCK

    @property
    def tree_offset(self) -> int:
        """Byte where the tree begins."""
        return self.data_size + BLOCK

    @property
    def file_size(self) -> int:
        """Bytes of image, superblock and tree."""
        return self.tree_offset + self.blocks * BLOCK


def geometry_of_file(size: int) -> Geometry:
    """The only geometry a file of `size` bytes can have.

    Raises:
        ImageError: no image with its tree has that size.
    """
    low, high = 1, max(1, size // BLOCK)
    while low < high:  # the size grows with the number of blocks, so there is one place to look
        middle = (low + high + 1) // 2
        low, high = (middle, high) if Geometry.of(middle).file_size <= size else (low, middle - 1)
    geometry = Geometry.of(low)
    if geometry.file_size != size:
        raise ImageError(
            f"image: {size} bytes long, which no image with a verity tree is",
            hint="it was never sealed, or was cut or extended since; seal one with `encfs seal`",
        )
    return geometry


def parse_superblock(data: bytes) -> Superblock:
    """Read a superblock.

    Args:
        data: its 512 bytes.

    Raises:
        ImageError: it is none, or one of another form than the accepted.
    """
    if len(data) != SUPERBLOCK_SIZE:
        raise ImageError(f"verity superblock: {len(data)} bytes, wanted {SUPERBLOCK_SIZE}")
    (magic, version, kind, uuid, name, data_block, hash_block, blocks, salt_size, pad, salt, rest) = (
        _FIELDS.unpack(data)
    )
    if magic != _MAGIC:
        raise ImageError(
            f"verity superblock: starts with {magic.hex()}, wanted {_MAGIC.hex()}",
            hint="the image has no hash tree (make one: encfs seal), or was cut or extended since",
        )
    seen, wanted = (version, kind, name.rstrip(b"\0"), data_block, hash_block), (1, 1, _HASH, BLOCK, BLOCK)
    if seen != wanted:
        raise ImageError(f"verity superblock: version, type, hash, block sizes are {seen}, wanted {wanted}")
    if salt_size > MAX_SALT or any(salt[salt_size:]) or any(pad) or any(rest):
        raise ImageError("verity superblock: reserved bytes are used")
    return Superblock(blocks, salt[:salt_size], uuid)


def build_superblock(superblock: Superblock) -> bytes:
    """The superblock in a block of its own, 4096 bytes."""
    head = _FIELDS.pack(
        _MAGIC,
        1,
        1,
        superblock.uuid,
        _HASH,
        BLOCK,
        BLOCK,
        superblock.data_blocks,
        len(superblock.salt),
        b"",
        superblock.salt,
        b"",
    )
    return head + bytes(BLOCK - len(head))


def parse_root_hash(text: str) -> bytes:
    """The 32 bytes of a root hash from 64 hex digits.

    Raises:
        ImageError: it is not one.
    """
    try:
        root = bytes.fromhex(text.strip())
    except ValueError:
        root = b""
    if len(root) != DIGEST or len(text.strip()) != 2 * DIGEST:
        raise ImageError(f"root hash {text[:80]!r}: wanted {2 * DIGEST} hex digits")
    return root


def uuid_text(superblock: Superblock) -> str:
    """The UUID as veritysetup prints it."""
    return str(UUID(bytes=superblock.uuid))
