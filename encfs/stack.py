"""The whole block stack in one expression.

Kind: composition
"""

from __future__ import annotations

from encfs.block.buffers import BufferPool
from encfs.block.crypt import Crypt
from encfs.block.device import BlockDevice
from encfs.block.readonly import ReadOnly
from encfs.block.unaligned import Unaligned
from encfs.block.window import Window
from encfs.cipher import SectorCipher
from encfs.keys import Secret
from encfs.volume import SegmentGeometry


async def build_stack(
    source: BlockDevice,
    segment: SegmentGeometry,
    volume_key: Secret,
    pool: BufferPool,
    *,
    read_only: bool,
) -> BlockDevice:
    """Plaintext of a LUKS2 segment: source -> window -> AES-XTS (with tags or without) -> unaligned.

    Args:
        source: the image, ciphertext.
        segment: where the segment lies and how it is encrypted.
        volume_key: 32 or 64 bytes, 96 with integrity, secret.
        pool: working buffers, shared by the layers that need one.
        read_only: refuse writes.

    Raises:
        MalformedHeader, UnsupportedFeature: superblock or journal of a volume with integrity.
        StoreError: reading them failed.
    """
    window = Window(source, offset=segment.offset, size=segment.size)
    plain: BlockDevice
    if segment.integrity:
        from encfs.block.integrity import open_integrity  # what other volumes need not hold in memory

        plain = await open_integrity(window, volume_key, block_size=segment.sector_size, read_only=read_only)
    else:
        cipher = SectorCipher(volume_key, sector_size=segment.sector_size, iv_tweak=segment.iv_tweak)
        plain = Crypt(window, cipher, pool)
    return Unaligned(ReadOnly(plain) if read_only else plain, pool)
