"""Source: bytes in memory. For tests, and for header-sized things.

Kind: pure
"""

from __future__ import annotations

from encfs.block.device import Buffer, check_request
from encfs.errors import ReadOnlyDevice


class MemoryDevice:
    """A block device over a `bytearray`.

    Args:
        data: the whole content; its length is the size, a multiple of `block_size`.
        block_size: bytes, a power of two.
        read_only: refuse writes.
    """

    def __init__(self, data: bytearray, *, block_size: int = 512, read_only: bool = False) -> None:
        self.data = data
        self.block_size = block_size
        self.read_only = read_only

    @property
    def size(self) -> int:
        return len(self.data)

    async def read_into(self, offset: int, buffer: memoryview) -> None:
        check_request(self, offset, len(buffer))
        buffer[:] = self.data[offset : offset + len(buffer)]

    async def write(self, offset: int, data: Buffer) -> None:
        if self.read_only:
            raise ReadOnlyDevice("memory device is read-only")
        check_request(self, offset, len(data))
        self.data[offset : offset + len(data)] = data

    async def flush(self) -> None:
        """Nothing to do: memory is all the durability there is."""

    async def aclose(self) -> None:
        """Nothing to free."""
