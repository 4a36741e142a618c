"""The writing half of a cache: stores what was written, in large ranges, some at a time.

A put carries a copy made when it starts. What is written to the same pages meanwhile makes them dirty again,
and they are not put a second time before the first put has ended: puts of one page never overtake each other.

When data is stored: after `delay` seconds, at once when a flush asks for it, and at once when half of the
dirty limit is reached. At the limit itself writes wait.

What could not be stored stays dirty and is tried again, after a pause that doubles, or at once when a flush
asks. Whoever waits meanwhile gets the error; who asks later, only if it fails again.

Kind: layer
"""

from __future__ import annotations

import copy
import logging
import math

import trio

from encfs.block.buffers import BufferPool
from encfs.block.cachefetch import Bell
from encfs.block.cachemap import Block, BlockTable, Put, Unstored, runs
from encfs.block.cachesettings import PAGE, CacheSettings
from encfs.block.device import BlockDevice
from encfs.errors import EncfsError, ReadOnlyDevice

log = logging.getLogger(__name__)


class _Waiter:
    """Somebody who waits for puts: a flush up to a generation, or a write that waits for room.

    A flush fails with the first put that concerns it. A write waits as long as anything gets through: it
    fails when as many puts in a row failed as were under way when it began, so within the time of one.
    """

    def __init__(self, generation: int | None) -> None:
        self._generation = generation
        self.patience = 1
        self._failed = 0
        self._error: Exception | None = None

    def succeeded(self) -> None:
        """A put was acknowledged."""
        self._failed = 0

    def failed(self, put: Put, error: Exception) -> None:
        """A put failed."""
        if self._generation is None or put.oldest <= self._generation:
            self._failed += 1
            self._error = error

    def check(self) -> None:
        """Raise the error, if there is reason to give up."""
        if self._error is not None and self._failed >= self.patience:
            raise copy.copy(self._error) from self._error


class WriteBack:
    """Stores dirty blocks in `below`; `run` does the work.

    Args:
        below: where data goes.
        settings: sizes and times.
        table: blocks; told when one may be evicted again.
        memory: of all slots.
        freed: rung when memory may have become free.
        nursery: runs puts.
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
        self._settings = settings
        self._table = table
        self._memory = memory
        self._freed = freed
        self._pool = BufferPool(settings.puts, settings.put_bytes)
        self._work = Bell()
        self._progress = Bell()
        self._flushes: set[_Waiter] = set()
        self._writers: set[_Waiter] = set()
        self._in_flight = 0
        self._failure: Exception | None = None
        self.unstored = Unstored(settings.block_bytes // PAGE, settings.put_bytes // PAGE)
        self.refusal: ReadOnlyDevice | None = None
        self.failures = 0
        self.bytes = 0
        self.requests = 0
        self.answered = 0

    def wrote(self, block: Block, mask: int) -> None:
        """Pages of a block were changed by an accepted write."""
        idle = not len(self.unstored)
        self.unstored.add(block, mask, trio.current_time())
        if idle or self._is_pressing():
            self._work.ring()

    def has_room(self, number: int) -> bool:
        """Whether a write to that block may be accepted now."""
        return number in self.unstored or len(self.unstored) < self._settings.dirty_blocks

    async def room(self, number: int) -> None:
        """Wait until it may; not at all while the last put is one that failed.

        The kernel sends what it has to write a few requests at a time. If each waited for as long as a put
        may take, a store that is gone would hold it up for many times that.

        Raises:
            EncfsError: storing failed, before or while we waited.
        """
        waiter = _Waiter(None)
        self._writers.add(waiter)
        try:
            self.unstored.retry_now()
            self._start()
            if self._failure is not None:
                raise copy.copy(self._failure) from self._failure
            waiter.patience = max(1, self._in_flight)
            while not self.has_room(number):
                waiter.check()
                await self._progress.wait()
        finally:
            self._writers.remove(waiter)

    async def flush(self) -> None:
        """Return when every write accepted so far is acknowledged from below.

        Raises:
            EncfsError: some could not be stored; their data is kept, and tried again.
        """
        target = self.unstored.accepted
        pending = self.unstored.blocks()
        waiter = _Waiter(target)
        self._flushes.add(waiter)
        try:
            self.unstored.retry_now()
            self._start()
            while pending:
                if pending[-1].first_unstored > target:
                    pending.pop()
                    continue
                waiter.check()
                await self._progress.wait()
        finally:
            self._flushes.remove(waiter)
        await self._below.flush()

    async def run(self) -> None:
        """Store what is due, for ever."""
        while True:
            self._start()
            with trio.move_on_at(self._next_time()):
                await self._work.wait()

    def _start(self) -> None:
        """Start the puts that are due, as many as may go at once."""
        now = trio.current_time()
        while self._in_flight < self._settings.puts and (block := self._due(now)) is not None:
            self._in_flight += 1
            self._nursery.start_soon(self._put, self.unstored.take(block, now))

    def _is_pressing(self) -> bool:
        """Whether anything asks for storing without delay."""
        waiting = bool(self._writers or self._flushes)
        return waiting or 2 * len(self.unstored) >= self._settings.dirty_blocks

    def _due(self, now: float) -> Block | None:
        """A block to store now: one to try again, or the oldest if it is time or anything asks for it."""
        block = self.unstored.retryable(now)
        if block is not None:
            return block
        block = self.unstored.oldest()
        if block is None or self._is_pressing() or now >= block.since + self._settings.delay:
            return block
        return None

    def _next_time(self) -> float:
        """When something becomes due by itself, unless the end of a put comes first."""
        if self._in_flight >= self._settings.puts:
            return math.inf
        block = self.unstored.oldest()
        due = math.inf if block is None else block.since + self._settings.delay
        return min(due, self.unstored.next_retry())

    async def _put(self, put: Put) -> None:
        offset = put.first * PAGE
        length = min(put.count * PAGE, self._below.size - offset)
        try:
            async with self._pool.take(length) as buffer:
                self._copy(put, buffer)
                self.requests += 1
                await self._below.write(offset, buffer)
        except Exception as exc:
            if not isinstance(exc, EncfsError):
                log.exception("storing %d bytes at %d failed", length, offset)
            self._failed(put, exc)
        else:
            self.answered += 1
            self.bytes += length
            self._stored(put)
        self._in_flight -= 1
        self._start()
        self._freed.ring()
        self._progress.ring()
        self._work.ring()

    def _copy(self, put: Put, buffer: memoryview) -> None:
        """Gather the pages of a put; what is written to them from now on is in the next one."""
        done = 0
        for block, mask, _ in put.parts:
            first, count = next(runs(mask))
            start = block.slot * self._settings.block_bytes + first * PAGE
            length = min(count * PAGE, len(buffer) - done)
            buffer[done : done + length] = self._memory[start : start + length]
            done += length

    def _stored(self, put: Put) -> None:
        self.unstored.done(put)
        if self._failure is not None:
            self._failure = None
            log.info("the store takes writes again")
        for block, _, _ in put.parts:
            self._table.settle(block)
        for waiter in (*self._writers, *self._flushes):
            waiter.succeeded()

    def _failed(self, put: Put, error: Exception) -> None:
        self.failures += 1
        if isinstance(error, ReadOnlyDevice):
            self.refusal = error
        if self._failure is None:
            log.warning("writes are not stored, and kept to be tried again: %s", error)
        self._failure = error
        now = trio.current_time()
        pauses = (self._pause(block.failures) for block, _, _ in put.parts)
        for waiter in (*self._writers, *self._flushes):
            waiter.failed(put, error)
        self.unstored.failed(put, [now + pause for pause in pauses])

    def _pause(self, failures: int) -> float:
        return float(min(self._settings.retry_min * 2 ** min(failures, 16), self._settings.retry_max))
