"""The reading half of a cache: brings ranges from below into blocks.

A range that somebody waits for travels in a buffer of its own and is copied into its blocks when it is
complete, page by page where the block does not hold newer data: a write that came in between is never
overwritten. A range read ahead is larger, and is received straight into the blocks where they lie side by
side in memory; a write to one of its pages waits until it is there. A block with a fetch under way is not
evicted, so what arrives always belongs to what is there.

A failed fetch leaves nothing behind. Its error goes to those who wait for it, and to nobody else: the next
reader tries again.

Kind: layer
"""

from __future__ import annotations

import copy
import logging
from collections import deque

import trio

from encfs.block.buffers import BufferPool
from encfs.block.cachemap import Block, BlockTable, mask_of, runs
from encfs.block.cachesettings import DEMAND, PAGE, CacheSettings
from encfs.block.device import BlockDevice
from encfs.errors import EncfsError

log = logging.getLogger(__name__)


class Bell:
    """Wakes everyone who waits; costs nothing when nobody does."""

    def __init__(self) -> None:
        self._event = trio.Event()

    def ring(self) -> None:
        if self._event.statistics().tasks_waiting:
            self._event.set()
            self._event = trio.Event()

    async def wait(self) -> None:
        await self._event.wait()


class Load:
    """A range under way: pages `first` to `first + count` of the device."""

    def __init__(self, first: int, count: int) -> None:
        self.first = first
        self.count = count
        self.parts: list[tuple[Block, int]] = []
        self.done = trio.Event()
        self.error: Exception | None = None
        self.is_direct = False


class Fetcher:
    """Fills blocks from `below`.

    Args:
        below: where data comes from.
        settings: sizes.
        table: blocks; memory is taken from it and given back to it.
        memory: of all slots.
        freed: rung when memory may have become free.
        nursery: runs fetches nobody waits for yet.
    """

    def __init__(
        self,
        below: BlockDevice,
        settings: CacheSettings,
        table: BlockTable,
        memory: memoryview,
        freed: Bell,
        nursery: trio.Nursery,
    ) -> None:
        self._nursery = nursery
        self._below = below
        self._block_bytes = settings.block_bytes
        self._pages = settings.block_bytes // PAGE
        self._table = table
        self._memory = memory
        self._freed = freed
        self._fetch_pages = settings.fetch_bytes // PAGE
        self._ahead_pages = settings.ahead_bytes // PAGE
        self._demand = BufferPool(DEMAND, settings.fetch_bytes)
        self._ahead = BufferPool(settings.fetches, settings.ahead_bytes)
        self._guesses: deque[Load] = deque()
        self._guessed = Bell()
        self._loads: dict[int, list[Load]] = {}
        self.bytes = 0
        self.requests = 0
        self.answered = 0
        for _ in range(settings.fetches):
            nursery.start_soon(self._fetch_guesses)

    async def need(self, number: int, mask: int, last: int | None) -> Block:
        """The block of that number with the pages of `mask` valid; nothing runs between that and the return.

        Args:
            number: of the block.
            mask: pages wanted.
            last: number of the last page that the caller will read after these, for one larger fetch of whole
                blocks: they have their memory anyway, and a request costs more than 64 KiB do. None fetches
                the pages alone.

        Raises:
            EncfsError: what the fetch that was waited for raised.
        """
        while True:
            block = await self._memory_for(number)
            missing = mask & ~block.valid
            if not missing:
                self._table.settle(block)
                self._table.touch(block)
                return block
            if missing & block.loading:
                await self._wait(number, missing)
                continue
            base = number * self._pages
            if last is None:
                first, end = base + next(runs(missing))[0], base + missing.bit_length()
            else:
                first, end = base, (last // self._pages + 1) * self._pages
            load, *more = self._plan(first, end, self._fetch_pages)
            for other in more:
                self._nursery.start_soon(self._run, other, self._demand)
            await self._run(load, self._demand)
            if load.error is not None:
                raise load.error

    def ahead(self, offset: int, length: int) -> None:
        """Start fetching a guessed range, as far as there is memory for it now."""
        self._guesses += self._plan(offset // PAGE, -(-(offset + length) // PAGE), self._ahead_pages)
        self._guessed.ring()

    async def filled(self, number: int, mask: int) -> None:
        """Wait until no fetch writes into these pages of a block, whatever becomes of it."""
        block = self._table.get(number)
        while block is not None and block.filling & mask:
            load = next(load for load in self._loads[number] if load.is_direct)
            await load.done.wait()
            block = self._table.get(number)

    async def _fetch_guesses(self) -> None:
        """One of the tasks that read ahead: the guess made first is fetched first."""
        while True:
            if self._guesses:
                await self._run(self._guesses.popleft(), self._ahead)
            else:
                await self._guessed.wait()

    async def _memory_for(self, number: int) -> Block:
        while (block := self._table.claim(number)) is None:
            await self._freed.wait()
        return block

    async def _wait(self, number: int, missing: int) -> None:
        """Wait for a fetch of any missing page of a block."""
        base = number * self._pages
        for load in self._loads[number]:
            low = max(load.first - base, 0)
            high = min(load.first + load.count - base, self._pages)
            if mask_of(low, high - low) & missing:
                await load.done.wait()
                if load.error is not None:
                    raise copy.copy(load.error) from load.error
                return

    def _plan(self, first: int, end: int, most: int) -> list[Load]:
        """Ranges from `first` to `end`, of at most so many pages each, neither there nor on their way.

        Memory is theirs already; they end where there is no memory left.
        """
        end = min(end, -(-self._below.size // PAGE))
        loads: list[Load] = []
        page = first
        while page < end:
            number, low = divmod(page, self._pages)
            block = self._table.claim(number)
            if block is None:
                break
            high = min(self._pages, end - number * self._pages)
            wanted = mask_of(low, high - low) & ~(block.valid | block.loading)
            if wanted:
                self._append(loads, block, wanted, most)
                block.loading |= wanted
            self._table.settle(block)
            page = (number + 1) * self._pages
        return loads

    @staticmethod
    def _span(block: Block, wanted: int) -> tuple[int, int]:
        low = (wanted & -wanted).bit_length() - 1
        return block.number * block.pages + low, wanted.bit_length() - low

    def _append(self, loads: list[Load], block: Block, wanted: int, most: int) -> None:
        """Add pages of one block to the last load if they follow it and fit, else to a new one.

        Pages between two wanted ones come along: one request costs more than they do.
        """
        first, count = self._span(block, wanted)
        load = loads[-1] if loads else None
        if load is None or load.first + load.count != first or load.count + count > most:
            load = Load(first, 0)
            loads.append(load)
        load.count += count
        load.parts.append((block, wanted))
        self._loads.setdefault(block.number, []).append(load)

    async def _run(self, load: Load, pool: BufferPool) -> None:
        """Fetch one range; errors go into `load`."""
        offset = load.first * PAGE
        length = min(load.count * PAGE, self._below.size - offset)
        try:
            place = self._place_of(load, length) if pool is self._ahead else None
            if place is not None:
                await self._fetch(offset, place)
                for block, mask in load.parts:
                    block.valid |= mask
            else:
                async with pool.take(length) as buffer:
                    await self._fetch(offset, buffer)
                    self._store(load, buffer)
        except EncfsError as exc:
            load.error = exc
        except Exception as exc:
            log.exception("fetching %d bytes at %d failed", length, offset)
            load.error = exc
        finally:
            self._finish(load)

    async def _fetch(self, offset: int, buffer: memoryview) -> None:
        self.requests += 1
        await self._below.read_into(offset, buffer)
        self.answered += 1
        self.bytes += len(buffer)

    def _place_of(self, load: Load, length: int) -> memoryview | None:
        """Where a range can be received at once: its pages are all wanted, and lie side by side in memory.

        From here on they are being filled.
        """
        first_block, first_mask = load.parts[0]
        wanted, slot = 0, first_block.slot
        for block, mask in load.parts:
            if block.slot != slot or mask & block.valid:  # written meanwhile
                return None
            wanted += mask.bit_count()
            slot += 1
        if wanted != load.count:
            return None
        for block, mask in load.parts:
            block.filling |= mask
        load.is_direct = True
        low = (first_mask & -first_mask).bit_length() - 1
        at = first_block.slot * self._block_bytes + low * PAGE
        return self._memory[at : at + length]

    def _store(self, load: Load, buffer: memoryview) -> None:
        for block, mask in load.parts:
            base = block.number * self._pages
            for first, count in runs(mask & ~block.valid):  # not over what was written meanwhile
                start = (base + first - load.first) * PAGE
                data = buffer[start : start + count * PAGE]
                at = block.slot * self._block_bytes + first * PAGE
                self._memory[at : at + len(data)] = data
            block.valid |= mask

    def _finish(self, load: Load) -> None:
        for block, mask in load.parts:
            block.loading &= ~mask
            if load.is_direct:
                block.filling &= ~mask
            waiting = self._loads[block.number]
            waiting.remove(load)
            if not waiting:
                del self._loads[block.number]
            self._table.settle(block)
        load.done.set()
        self._freed.ring()
