"""Makes an empty integrity segment: superblock, empty journal, and tags that fit the zeros already there.

The data is left as it is, holes that read as zero *ciphertext*, and each block gets the tag of that. So 0.8 %
of the volume is written instead of all of it, and it stays sparse. Such blocks read as noise, not as zeros.

Kind: layer
"""

from __future__ import annotations

from encfs.block.device import BlockDevice
from encfs.block.journal import format_journal
from encfs.digests import keyed
from encfs.integrity.layout import TAG_SIZE, Layout, build_superblock
from encfs.keys import Secret

_BATCH = 8192  # blocks: 256 KiB of tags


async def format_segment(below: BlockDevice, layout: Layout, mac_key: Secret) -> None:
    """Format a segment whose data is all zero; not durable until `below` is flushed.

    Args:
        below: the segment.
        layout: of the new volume.
        mac_key: 32 bytes, secret.
    """
    mac = keyed(mac_key.reveal())
    zeros = bytes(min(_BATCH, layout.area_blocks) * layout.block_size)
    await format_journal(below, layout)
    for area in range(-(-layout.blocks // layout.area_blocks)):
        first = area * layout.area_blocks
        count = min(layout.area_blocks, layout.blocks - first)
        tags = bytearray(layout.run_size)
        for start in range(0, count, _BATCH):
            part = min(_BATCH, count - start)
            out = memoryview(tags)[start * TAG_SIZE : (start + part) * TAG_SIZE]
            number = (first + start) * layout.per_block
            mac.digest(zeros[: part * layout.block_size], layout.block_size, out, number, layout.per_block)
        await below.write(layout.tag_offset(first), tags)
    await below.write(0, build_superblock(layout))
