"""Layer: refuses writes, whatever the device below would do.

Kind: layer
"""

from __future__ import annotations

from encfs.block.device import BlockDevice, Buffer
from encfs.errors import ReadOnlyDevice


class ReadOnly:
    """`below`, without its writes."""

    read_only = True

    def __init__(self, below: BlockDevice) -> None:
        self.below = below
        self.size = below.size
        self.block_size = below.block_size

    async def read_into(self, offset: int, buffer: memoryview) -> None:
        await self.below.read_into(offset, buffer)

    async def write(self, offset: int, data: Buffer) -> None:
        raise ReadOnlyDevice(f"write of {len(data)} bytes at {offset} refused: the volume is read-only")

    async def flush(self) -> None:
        """Nothing was written, so nothing can be pending."""

    async def aclose(self) -> None:
        await self.below.aclose()
