"""A fixed set of page-aligned buffers, made before serving and kept.

Why: O_DIRECT needs aligned memory, and memory asked for on the write path can wait for the very writes
it belongs to. Taking a buffer when none is free waits, it never allocates; when one is free it is taken
without letting another task run, which would cost more than a small request.

Kind: layer
"""

from __future__ import annotations

import mmap
from types import TracebackType

import trio


class Loan:
    """One buffer for the length of an `async with`."""

    __slots__ = ("_length", "_pool", "_view")

    def __init__(self, pool: BufferPool, length: int) -> None:
        self._pool = pool
        self._length = length

    async def __aenter__(self) -> memoryview:
        pool = self._pool
        while not pool.free:
            await pool.waiting.park()
        self._view = pool.free.pop()
        return self._view[: self._length]

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._pool.free.append(self._view)
        if self._pool.waiting:
            self._pool.waiting.unpark()


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
        self.free = [memoryview(area) for area in self._maps]
        self.waiting = trio.lowlevel.ParkingLot()

    def take(self, length: int) -> Loan:
        """Lend a view of `length` bytes, at most `size`; page-aligned at its start."""
        assert length <= self.size, f"buffer of {length} bytes asked, pool holds {self.size}"
        return Loan(self, length)
