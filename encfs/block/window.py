"""Layer: a part of the device below, from an offset, of a length; places a LUKS2 segment.

Kind: layer
"""

from __future__ import annotations

from encfs.block.device import BlockDevice, Buffer, check_request
from encfs.errors import BadRequest


class Window:
    """Bytes `offset` to `offset + size` of `below`.

    Raises:
        BadRequest: the window is not aligned to the block size below, or does not lie inside it.
    """

    def __init__(self, below: BlockDevice, *, offset: int, size: int) -> None:
        if offset % below.block_size or size % below.block_size:
            raise BadRequest(f"window at {offset} of {size} bytes, wanted multiples of {below.block_size}")
        if offset < 0 or size < 0 or offset + size > below.size:
            raise BadRequest(f"window at {offset} of {size} bytes, wanted inside {below.size} bytes")
        self.below = below
        self.offset = offset
        self.size = size
        self.block_size = below.block_size
        self.read_only = below.read_only

    async def read_into(self, offset: int, buffer: memoryview) -> None:
        check_request(self, offset, len(buffer))
        await self.below.read_into(self.offset + offset, buffer)

    async def write(self, offset: int, data: Buffer) -> None:
        check_request(self, offset, len(data))
        await self.below.write(self.offset + offset, data)

    async def flush(self) -> None:
        await self.below.flush()

    async def aclose(self) -> None:
        await self.below.aclose()
