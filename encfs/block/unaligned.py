"""Layer: any byte range, over a device that takes whole blocks. The only layer that does.

A range that does not start or end on a block is read, changed and written back, under a lock that keeps
two such writes to one block from losing each other's bytes. Aligned requests pass straight through, but a
write waits for a read-modify-write of the same block that is under way.

Kind: layer
"""

from __future__ import annotations

from types import TracebackType

import trio

from encfs.block.buffers import BufferPool
from encfs.block.device import BlockDevice, Buffer
from encfs.errors import BadRequest


class _Hold:
    """Blocks `first` to before `end`, held for the length of an `async with`; others wait for them.

    A list of the few requests under way costs less than a lock for each block.
    """

    __slots__ = ("_freed", "_held", "end", "first")

    def __init__(self, held: list[_Hold], freed: trio.lowlevel.ParkingLot, first: int, end: int) -> None:
        self._held, self._freed = held, freed
        self.first, self.end = first, end

    def _is_free(self) -> bool:
        return all(self.end <= other.first or other.end <= self.first for other in self._held)

    async def __aenter__(self) -> None:
        while self._held and not self._is_free():
            await self._freed.park()
        self._held.append(self)

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._held.remove(self)
        if self._freed:
            self._freed.unpark_all()


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
        self.held: list[_Hold] = []
        self.freed = trio.lowlevel.ParkingLot()

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

    def _holding(self, first: int, count: int) -> _Hold:
        """Keep every other write away from `count` blocks, starting with block number `first`."""
        return _Hold(self.held, self.freed, first, first + count)

    async def flush(self) -> None:
        await self.below.flush()

    async def aclose(self) -> None:
        await self.below.aclose()


def _round_up(value: int, unit: int) -> int:
    return -(-value // unit) * unit
