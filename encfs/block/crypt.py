"""Layer: decrypts on read (in the caller's buffer), encrypts on write (in a buffer of its own).

Kind: layer
"""

from __future__ import annotations

from encfs.block.buffers import BufferPool
from encfs.block.device import BlockDevice, Buffer, check_request
from encfs.cipher import SectorCipher


class Crypt:
    """Plaintext view of the AES-XTS device `below`.

    Args:
        below: ciphertext; its size must hold whole sectors.
        cipher: the sector cipher; knows the key (secret) and the tweak of sector 0.
        pool: buffers for ciphertext on its way down; a larger write goes down in pieces of that size.
    """

    def __init__(self, below: BlockDevice, cipher: SectorCipher, pool: BufferPool) -> None:
        self.below = below
        self.cipher = cipher
        self.pool = pool
        self.block_size = max(cipher.sector_size, below.block_size)
        self.size = below.size - below.size % self.block_size
        self.read_only = below.read_only

    async def read_into(self, offset: int, buffer: memoryview) -> None:
        check_request(self, offset, len(buffer))
        await self.below.read_into(offset, buffer)
        self.cipher.decrypt(buffer, offset // self.cipher.sector_size)

    async def write(self, offset: int, data: Buffer) -> None:
        check_request(self, offset, len(data))
        view = memoryview(data)
        for start in range(0, len(view), self.pool.size):
            plain = view[start : start + self.pool.size]
            async with self.pool.take(len(plain)) as scratch:
                self.cipher.encrypt(plain, scratch, (offset + start) // self.cipher.sector_size)
                await self.below.write(offset + start, scratch)

    async def flush(self) -> None:
        await self.below.flush()

    async def aclose(self) -> None:
        await self.below.aclose()
