"""A fixed set of page-aligned buffers, made before serving and kept.

Why: O_DIRECT needs aligned memory, and memory asked for on the write path can wait for the very writes
it belongs to (docs/architecture.md, memory). Taking a buffer when none is free waits, it never allocates.

Kind: layer
"""

from __future__ import annotations

import mmap
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio


class BufferPool:
    """`count` buffers of `size` bytes each.

    Args:
        count: how many requests can hold a buffer at once.
        size: bytes of one buffer, a multiple of the page size.
    """

    def __init__(self, count: int, size: int) -> None:
        self.size = size
        self._maps = [mmap.mmap(-1, size) for _ in range(count)]
        for area in self._maps:
            area.write(b"\0" * size)  # touch every page now, not on the write path
        self._free = [memoryview(area) for area in self._maps]
        self._available = trio.Semaphore(count)

    @asynccontextmanager
    async def take(self, length: int) -> AsyncIterator[memoryview]:
        """Lend a view of `length` bytes, at most `size`; page-aligned at its start."""
        assert length <= self.size, f"buffer of {length} bytes asked, pool holds {self.size}"
        await self._available.acquire()
        view = self._free.pop()
        try:
            yield view[:length]
        finally:
            self._free.append(view)
            self._available.release()
