"""Structures of an ext4 image as bytes: times, inodes, extents, directory blocks, descriptors, superblock.

Everything is little endian. Only the features are known that the guest's converter uses: no journal, no
checksums, no UUID, extents, 256-byte inodes, 32-byte group descriptors.

Spec: Linux, Documentation/filesystems/ext4/ (global.rst, dynamic.rst); the values are those of hcsshim's
compactext4.

Kind: pure
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator

BLOCK = 4096
BLOCKS_PER_GROUP = BLOCK * 8
MAX_INODES_PER_GROUP = BLOCK * 8
INODE_SIZE = 256
INODES_PER_BLOCK = BLOCK // INODE_SIZE
DESCRIPTORS_PER_BLOCK = BLOCK // 32
ROOT_INODE = 2
FIRST_INODE = 11  # lost+found

TYPE_MASK = 0xF000
FIFO, CHARACTER, DIRECTORY, BLOCK_DEVICE, REGULAR, SYMLINK = 0x1000, 0x2000, 0x4000, 0x6000, 0x8000, 0xA000
_DIRENT_TYPE = {REGULAR: 1, DIRECTORY: 2, CHARACTER: 3, BLOCK_DEVICE: 4, FIFO: 5, SYMLINK: 7}

HUGE_FILE_FLAG = 0x40000
EXTENTS_FLAG = 0x80000
MAX_LINKS = 65000
MAX_EXTENT = 0x8000  # blocks
EXTENTS_PER_BLOCK = BLOCK // 12 - 1
SHORT_SYMLINK = 59  # longest target that lies in the inode

_INODE = struct.Struct("<HHIIIIIHHIII60sIIIIHHHH4xHHIIIII")
_MASK32 = 0xFFFFFFFF
_MIN_SECONDS, _MAX_SECONDS = -0x80000000, 0x37FFFFFFF
_YEAR_ONE = -62135596800  # Go's zero time, which it takes for "no time"


def encode_time(seconds: int, nanoseconds: int) -> int:
    """A time as the 64-bit word whose halves an inode holds.

    A negative number of seconds fills the whole upper half with ones, as the reference does it.
    """
    if seconds == _YEAR_ONE and nanoseconds == 0:
        return 0
    if seconds < _MIN_SECONDS:
        return 0x80000000
    if seconds > _MAX_SECONDS:
        return 0x37FFFFFFF
    return (seconds & 0xFFFFFFFFFFFFFFFF) | nanoseconds << 34


def copy_time(word: int) -> int:
    """The word after the reference has decoded and encoded it: another one only for odd negative times."""
    if word == 0:
        return 0
    seconds = word & 0x3FFFFFFFF
    if 0x7FFFFFFF < seconds < 0x100000000:
        seconds -= 0x100000000
    carry, nanoseconds = divmod(word >> 34, 1_000_000_000)
    return encode_time(seconds + carry, nanoseconds)


def encode_inode(
    *,
    mode: int,
    uid: int,
    gid: int,
    size: int,
    times: tuple[int, int, int, int],
    links: int,
    blocks: int,
    flags: int,
    block_area: bytes,
    xattr_block: int,
    xattr_inline: bytes,
) -> bytes:
    """One inode, 256 bytes; `times` are the words of access, change, modification and creation."""
    access, change, modify, create = times
    head = _INODE.pack(
        mode,
        uid & 0xFFFF,
        size & _MASK32,
        access & _MASK32,
        change & _MASK32,
        modify & _MASK32,
        0,
        gid & 0xFFFF,
        links,
        blocks,
        flags,
        0,
        block_area,
        0,
        xattr_block,
        size >> 32,
        0,
        0,
        0,
        uid >> 16,
        gid >> 16,
        24,
        0,
        change >> 32,
        modify >> 32,
        access >> 32,
        create & _MASK32,
        create >> 32,
    )
    return (head + xattr_inline).ljust(INODE_SIZE, b"\0")


def device_area(major: int, minor: int) -> bytes:
    """The block area of a device's inode."""
    word = (minor & 0xFF) | (major << 8) | ((minor & 0xFFFFFF00) << 12)
    return struct.pack("<II", 0, word & _MASK32)


def extent_count(blocks: int) -> int:
    """How many extents so many consecutive blocks need."""
    return -(-blocks // MAX_EXTENT)


def extent_root(start: int, blocks: int) -> bytes:
    """The block area of a file of at most four extents, of consecutive blocks."""
    return _extents(start, blocks, 4)


def extent_leaf(start: int, blocks: int) -> bytes:
    """The one index block of a file of 5 to 339 extents."""
    return _extents(start, blocks, EXTENTS_PER_BLOCK).ljust(BLOCK, b"\0")


def extent_index(leaf: int) -> bytes:
    """The block area of a file whose extents lie in the block `leaf`."""
    header = struct.pack("<HHHHI", 0xF30A, 1, 4, 1, 0)
    return (header + struct.pack("<IIHH", 0, leaf, 0, 0)).ljust(60, b"\0")


def _extents(start: int, blocks: int, slots: int) -> bytes:
    parts = [struct.pack("<HHHHI", 0xF30A, extent_count(blocks), slots, 0, 0)]
    for first in range(0, blocks, MAX_EXTENT):
        parts.append(struct.pack("<IHHI", first, min(blocks - first, MAX_EXTENT), 0, start + first))
    return b"".join(parts)


def directory_blocks(entries: Iterable[tuple[int, bytes, int]]) -> Iterator[bytes]:
    """A directory's blocks from (inode, name, mode) in order; every block ends with an empty entry."""
    block = bytearray()
    for inode, name, mode in entries:
        length = 8 + ((len(name) + 3) & ~3)
        if BLOCK - len(block) < length + 12:
            yield _close_directory_block(block)
            block = bytearray()
        block += struct.pack("<IHBB", inode, length, len(name), _DIRENT_TYPE[mode & TYPE_MASK])
        block += name.ljust(length - 8, b"\0")
    yield _close_directory_block(block)


def _close_directory_block(block: bytearray) -> bytes:
    left = BLOCK - len(block)
    return bytes(block + struct.pack("<IHBB", 0, left, 0, 0)).ljust(BLOCK, b"\0")


def group_descriptor(
    block_bitmap: int,
    inode_bitmap: int,
    inode_table: int,
    *,
    free_blocks: int,
    free_inodes: int,
    directories: int,
) -> bytes:
    """One group descriptor, 32 bytes."""
    head = struct.pack("<III", block_bitmap, inode_bitmap, inode_table)
    return (head + struct.pack("<HHH", free_blocks, free_inodes, directories)).ljust(32, b"\0")


def superblock(
    *, inodes: int, blocks: int, free_blocks: int, free_inodes: int, inodes_per_group: int
) -> bytes:
    """Block 0: 1024 zero bytes, the superblock, zeros."""
    block = bytearray(BLOCK)
    put = struct.pack_into
    base = 1024
    put("<II", block, base + 0, inodes, blocks)
    put("<II", block, base + 12, free_blocks, free_inodes)
    put("<II", block, base + 24, 2, 2)
    put("<III", block, base + 32, BLOCKS_PER_GROUP, BLOCKS_PER_GROUP, inodes_per_group)
    put("<HHH", block, base + 56, 0xEF53, 1, 1)
    put("<I", block, base + 76, 1)
    put("<IH", block, base + 84, FIRST_INODE, INODE_SIZE)
    put("<III", block, base + 92, 0x208, 0x242, 0x104A)
    put("<HH", block, base + 348, 24, 24)
    block[base + 372] = 31
    put("<I", block, base + 616, FIRST_INODE)
    return bytes(block)


def best_groups(blocks: int, inodes: int) -> tuple[int, int]:
    """Number of groups and inodes per group: fewest groups first, then fewest inodes per group."""
    best = (1 << 62, 0)
    for per_group in range(INODES_PER_BLOCK, MAX_INODES_PER_GROUP + 1, INODES_PER_BLOCK):
        data = BLOCKS_PER_GROUP - per_group // INODES_PER_BLOCK - 2
        needed = max(blocks, (inodes - 1) // per_group * data + 1)
        groups = -(-needed // data)
        if groups < best[0]:
            best = groups, per_group
    return best
