"""Layer: keeps ciphertext blocks in bounded memory, reads ahead, and stores writes later and together.

A write is accepted when it is in memory; `flush` returns when every write accepted before it is acknowledged
by the device below. What cannot be stored is kept, tried again, and makes `flush` fail until it is stored.
Memory is taken once; a write that finds no room waits for the store, it does not fail and does not allocate.

The parts: `cachemap` knows which pages are there and which are not stored, `cacheahead` guesses what will be
read, `cachefetch` reads and `cachestore` writes; here they are put together.

Kind: layer
"""

from __future__ import annotations

import mmap
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio

from encfs.block.cacheahead import Predictor
from encfs.block.cachefetch import Bell, Fetcher
from encfs.block.cachemap import Block, BlockTable, mask_of
from encfs.block.cachesettings import PAGE, CacheSettings, CacheState
from encfs.block.cachestore import WriteBack
from encfs.block.device import BlockDevice, Buffer, check_request
from encfs.errors import ReadOnlyDevice


@asynccontextmanager
async def open_cache(below: BlockDevice, settings: CacheSettings) -> AsyncIterator[Cache]:
    """A cache on `below`, at work until the block is left; leaving does not flush."""
    async with trio.open_nursery() as nursery:
        cache = Cache(below, settings, nursery)
        try:
            yield cache
        finally:
            nursery.cancel_scope.cancel()


async def serve_cache(
    below: BlockDevice,
    settings: CacheSettings,
    *,
    task_status: trio.TaskStatus[Cache] = trio.TASK_STATUS_IGNORED,
) -> None:
    """A cache as a task, for `nursery.start`; it ends when the cache is closed."""
    async with open_cache(below, settings) as cache:
        task_status.started(cache)
        await trio.sleep_forever()


class Cache:
    """`below`, cached. Make it with `open_cache`.

    Args:
        below: the slow device.
        settings: sizes and times.
        nursery: runs fetches and puts; cancelled by `aclose`.
    """

    def __init__(self, below: BlockDevice, settings: CacheSettings, nursery: trio.Nursery) -> None:
        self.below = below
        self.size = below.size
        self.block_size = below.block_size
        self._settings = settings
        self._block_bytes = settings.block_bytes
        area = mmap.mmap(-1, settings.slots * settings.block_bytes)
        self._memory = memoryview(area)
        for start in range(0, len(area), settings.block_bytes):
            area[start : start + settings.block_bytes] = bytes(settings.block_bytes)  # have every page now
        self._table = BlockTable(settings.slots, settings.block_bytes // PAGE)
        self._freed = Bell()
        self._fetcher = Fetcher(below, settings, self._table, self._memory, self._freed, nursery)
        self._store = WriteBack(below, settings, self._table, self._memory, self._freed, nursery)
        self._predictor = Predictor(below.size, settings.read_ahead, settings.ahead_bytes)
        self._nursery = nursery
        self._hits = 0
        self._misses = 0
        nursery.start_soon(self._store.run)

    @property
    def read_only(self) -> bool:
        """What the device below says now: a store may take writing away."""
        return self.below.read_only

    async def read_into(self, offset: int, buffer: memoryview) -> None:
        check_request(self, offset, len(buffer))
        for guess_offset, guess_length in self._predictor.observe(offset, len(buffer)):
            self._fetcher.ahead(guess_offset, guess_length)
        last = (offset + len(buffer) - 1) // PAGE
        done = 0
        while done < len(buffer):
            number, within, length = self._part(offset + done, len(buffer) - done)
            block = await self._valid(number, within, length, last)
            at = block.slot * self._block_bytes + within
            buffer[done : done + length] = self._memory[at : at + length]
            done += length

    async def _valid(self, number: int, within: int, length: int, last: int) -> Block:
        """The block with what is wanted of it, valid until the next checkpoint."""
        mask = _pages(within, length)
        block = self._table.get(number)
        if block is not None and not mask & ~block.valid:
            self._hits += mask.bit_count()
            self._table.touch(block)
            return block
        self._misses += mask.bit_count()
        return await self._fetcher.need(number, mask, last)

    async def write(self, offset: int, data: Buffer) -> None:
        self._check_writable()
        check_request(self, offset, len(data))
        view = memoryview(data)
        done = 0
        while done < len(view):
            number, within, length = self._part(offset + done, len(view) - done)
            block = await self._writable(number, within, length)
            at = block.slot * self._block_bytes + within
            self._memory[at : at + length] = view[done : done + length]
            self._store.wrote(block, _pages(within, length))
            self._table.settle(block)
            done += length

    async def _writable(self, number: int, within: int, length: int) -> Block:
        """A block that may be changed there, until the next checkpoint.

        It has a place among the dirty ones, it has memory, and the rest of pages that are changed in part.
        """
        rest = self._rest(number, within, length)
        mask = _pages(within, length)
        while True:
            if not self._store.has_room(number):
                await self._store.room(number)
                self._check_writable()
            elif (block := self._table.claim(number)) is None:
                await self._freed.wait()
            elif block.filling & mask:
                await self._fetcher.filled(number, mask)
            elif missing := rest & ~block.valid:
                await self._fetcher.need(number, missing, None)
            else:
                return block

    def _rest(self, number: int, within: int, length: int) -> int:
        """Pages changed only in part; the device's last page may be short, and is whole then."""
        end = within + length
        mask = 0
        if within % PAGE:
            mask |= 1 << within // PAGE
        if end % PAGE and number * self._block_bytes + end < self.size:
            mask |= 1 << end // PAGE
        return mask

    def _part(self, offset: int, length: int) -> tuple[int, int, int]:
        """Block number, offset in it, and bytes of the part of a range that lies in its first block."""
        number, within = divmod(offset, self._block_bytes)
        return number, within, min(length, self._block_bytes - within)

    def _check_writable(self) -> None:
        if self._store.refusal is not None:
            raise ReadOnlyDevice(str(self._store.refusal), hint=self._store.refusal.hint)
        if self.below.read_only:
            raise ReadOnlyDevice("write refused: the store is read-only")

    async def flush(self) -> None:
        await self._store.flush()

    async def aclose(self) -> None:
        self._nursery.cancel_scope.cancel()
        await self.below.aclose()

    def state(self) -> CacheState:
        """How it is now, for metrics."""
        unstored = self._store.unstored
        return CacheState(
            capacity=len(self._memory),
            dirty=unstored.page_count * PAGE,
            accepted=unstored.accepted,
            stored=unstored.stored,
            failures=self._store.failures,
            failing=unstored.failing,
            hits=self._hits,
            misses=self._misses,
            fetched=self._fetcher.bytes,
            fetches=self._fetcher.requests,
            put=self._store.bytes,
            puts=self._store.requests,
            answered=self._fetcher.answered + self._store.answered,
        )


def _pages(within: int, length: int) -> int:
    """Mask of the pages touched by a range of a block."""
    first = within // PAGE
    return mask_of(first, -(-(within + length) // PAGE) - first)
