"""Layer: any byte range, over a device that takes whole blocks. The only layer that does.

A range that does not start or end on a block is read, changed and written back, under a lock that keeps
two such writes to one block from losing each other's bytes. Aligned requests pass straight through, but a
write waits for a read-modify-write of the same block that is under way.

Kind: layer
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio

from encfs.block.buffers import BufferPool
from encfs.block.device import BlockDevice, Buffer
from encfs.errors import BadRequest


class Unaligned:
    """`below` with a block size of one byte.

    Args:
        below: the aligned device.
        pool: buffers for the blocks at the ends of a range; at least two blocks long.
    """

    block_size = 1

    def __init__(self, below: BlockDevice, pool: BufferPool) -> None:
        self.below = below
        self.pool = pool
        self.size = below.size
        self.read_only = below.read_only
        self._busy: set[int] = set()
        self._freed = trio.Condition()

    def _check(self, offset: int, length: int) -> None:
        if offset < 0 or offset + length > self.size:
            raise BadRequest(f"request at {offset} of {length} bytes, wanted inside {self.size} bytes")

    async def read_into(self, offset: int, buffer: memoryview) -> None:
        self._check(offset, len(buffer))
        unit = self.below.block_size
        if not offset % unit and not len(buffer) % unit:
            await self.below.read_into(offset, buffer)
            return
        done = 0
        while done < len(buffer):
            at = offset + done
            first = at - at % unit
            span = min(_round_up(offset + len(buffer), unit) - first, self.pool.size)
            async with self.pool.take(span) as scratch:
                await self.below.read_into(first, scratch)
                part = scratch[at - first : at - first + len(buffer) - done]
                buffer[done : done + len(part)] = part
                done += len(part)

    async def write(self, offset: int, data: Buffer) -> None:
        self._check(offset, len(data))
        unit = self.below.block_size
        view = memoryview(data)
        done = 0
        while done < len(view):
            at = offset + done
            within = at % unit
            whole = (len(view) - done) // unit * unit
            if within or not whole:
                part = view[done : done + unit - within]
                await self._modify(at - within, within, part)
            else:
                part = view[done : done + whole]
                async with self._holding(at // unit, whole // unit):
                    await self.below.write(at, part)
            done += len(part)

    async def _modify(self, block: int, within: int, part: memoryview) -> None:
        """Change `part` of the block that starts at `block`, leaving its other bytes as they are."""
        unit = self.below.block_size
        async with self._holding(block // unit, 1), self.pool.take(unit) as scratch:
            await self.below.read_into(block, scratch)
            scratch[within : within + len(part)] = part
            await self.below.write(block, scratch)

    @asynccontextmanager
    async def _holding(self, first: int, count: int) -> AsyncIterator[None]:
        """Keep every other write away from `count` blocks, starting with block number `first`."""
        blocks = range(first, first + count)
        if not self._busy.isdisjoint(blocks):
            async with self._freed:
                while not self._busy.isdisjoint(blocks):
                    await self._freed.wait()
        self._busy.update(blocks)
        try:
            yield
        finally:
            self._busy.difference_update(blocks)
            if self._freed.statistics().tasks_waiting:
                with trio.CancelScope(shield=True):
                    async with self._freed:
                        self._freed.notify_all()

    async def flush(self) -> None:
        await self.below.flush()

    async def aclose(self) -> None:
        await self.below.aclose()


def _round_up(value: int, unit: int) -> int:
    return -(-value // unit) * unit
