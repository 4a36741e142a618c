"""The end of a compact ext4 image: directories, inode table, bitmaps, and at last descriptors and superblock.

Spec: hcsshim's compactext4.

Kind: pure
"""

from __future__ import annotations

from collections.abc import Iterator

from sidecar.errors import LayerRejected
from sidecar.policy.ext4 import Ext4Writer
from sidecar.policy.ext4_format import (
    BLOCK,
    BLOCKS_PER_GROUP,
    DESCRIPTORS_PER_BLOCK,
    FIRST_INODE,
    INODE_SIZE,
    INODES_PER_BLOCK,
    best_groups,
    directory_blocks,
    group_descriptor,
    superblock,
)
from sidecar.policy.ext4_inode import Inode

_BATCH = 4096  # inodes encoded at once


def close(writer: Ext4Writer) -> int:
    """Complete the image; returns its size in blocks of 4096 bytes.

    Raises:
        LayerRejected: the last file is incomplete, or the image is larger than what was reserved.
    """
    writer.finish()
    _write_directories(writer)
    table = writer.block
    groups, per_group = best_groups(table, len(writer.inodes))
    _write_inodes(writer, groups * per_group)
    bitmaps = writer.block
    valid = bitmaps + 2 * groups
    size = max(valid, (groups - 1) * BLOCKS_PER_GROUP + 1)
    used_descriptor_blocks = (groups - 1) // DESCRIPTORS_PER_BLOCK + 1
    if used_descriptor_blocks > writer.descriptor_blocks:
        raise LayerRejected(f"the layer's image needs {groups} block groups, more than were reserved")
    descriptors = bytearray()
    used_blocks = used_inodes = 0
    for group in range(groups):
        bits = _block_bitmap(group, valid)
        if group == 0:
            bits &= ~(_ones(writer.descriptor_blocks - used_descriptor_blocks) << 1 + used_descriptor_blocks)
        if group == groups - 1 and size % BLOCKS_PER_GROUP:
            absent = size % BLOCKS_PER_GROUP
            bits |= _ones(BLOCKS_PER_GROUP - absent) << absent
        inode_bits, directories = _inode_bitmap(writer.inodes, group * per_group, per_group)
        writer.add_metadata(bits.to_bytes(BLOCK, "little") + inode_bits.to_bytes(BLOCK, "little"))
        used_blocks += bits.bit_count()
        used_inodes += inode_bits.bit_count()
        descriptors += group_descriptor(
            bitmaps + 2 * group,
            bitmaps + 2 * group + 1,
            table + group * per_group // INODES_PER_BLOCK,
            free_blocks=BLOCKS_PER_GROUP - bits.bit_count(),
            free_inodes=per_group - inode_bits.bit_count(),
            directories=directories,
        )
    writer.add_unused(size - valid)
    descriptors = descriptors.ljust(writer.descriptor_blocks * BLOCK, b"\0")
    for number in range(writer.descriptor_blocks):
        writer.sink.replace(1 + number, bytes(descriptors[number * BLOCK : (number + 1) * BLOCK]))
    first = superblock(
        inodes=per_group * groups,
        blocks=size,
        free_blocks=BLOCKS_PER_GROUP * groups - used_blocks,
        free_inodes=per_group * groups - used_inodes,
        inodes_per_group=per_group,
    )
    writer.sink.replace(0, first)
    return size


def _ones(count: int) -> int:
    return (1 << count) - 1


def _write_directories(writer: Ext4Writer) -> None:
    """All directories, parents before children; without recursion, since a path may have any depth."""
    waiting: list[tuple[Inode, Inode]] = [(writer.root, writer.root)]
    while waiting:
        directory, parent = waiting.pop()
        children = directory.sorted_children()
        writer.write_directory(directory, directory_blocks(_entries(directory, parent, children)))
        waiting.extend((child, directory) for _, child in reversed(children) if child.children is not None)


def _entries(
    directory: Inode, parent: Inode, children: list[tuple[bytes, Inode]]
) -> Iterator[tuple[int, bytes, int]]:
    yield directory.number, b".", directory.mode
    yield parent.number, b"..", parent.mode
    for name, child in children:
        yield child.number, name, child.mode


def _write_inodes(writer: Ext4Writer, slots: int) -> None:
    empty = bytes(INODE_SIZE)
    count = len(writer.inodes)
    for start in range(0, count, _BATCH):
        part = writer.inodes[start : start + _BATCH]
        data = b"".join(empty if node is None else node.encode() for node in part)
        writer.add_metadata(data.ljust(-(-len(data) // BLOCK) * BLOCK, b"\0"))
    writer.add_unused((slots - -(-count // INODES_PER_BLOCK) * INODES_PER_BLOCK) // INODES_PER_BLOCK)


def _block_bitmap(group: int, valid: int) -> int:
    return _ones(min(BLOCKS_PER_GROUP, max(0, valid - group * BLOCKS_PER_GROUP)))


def _inode_bitmap(inodes: list[Inode | None], first: int, count: int) -> tuple[int, int]:
    """Bits of the used inodes of a group that starts at index `first`, and how many are directories."""
    text = bytearray(b"0" * count)
    directories = 0
    for place, node in enumerate(inodes[first : first + count]):
        if node is not None or first + place + 1 < FIRST_INODE:
            text[place] = 0x31
        if node is not None and node.children is not None:
            directories += 1
    return int(text[::-1], 2), directories
