"""The cache against a model, driven at random over a store that is slow, fails, and stores half of a put.

What holds at every moment: a read gives what was written last; a flush that succeeds means that the store has
everything written before it; only pages that were written are ever put; a page is in one put at a time. What
holds at the end, once the store is well: everything ever accepted is there.
"""

from __future__ import annotations

import logging
from contextlib import AsyncExitStack, suppress
from typing import Any

import trio
from fakes.faulty_device import PAGE, Fault, FaultyDevice
from fakes.guest_trio import GuestTrio
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from encfs.block.cache import Cache, open_cache
from encfs.block.cachesettings import BLOCK_OVERHEAD, DEMAND, CacheSettings
from encfs.block.device import read
from encfs.errors import StoreError

UNIT = 512
BLOCK = 4 * PAGE
SLOTS = 10
# The last page is short, so that the end of the device is inside one.
SIZE = 30 * BLOCK + 5 * UNIT

SETTINGS = CacheSettings(
    size_bytes=2 * BLOCK * (2 + DEMAND) + 3 * 2 * BLOCK + SLOTS * (BLOCK + BLOCK_OVERHEAD),
    block_bytes=BLOCK,
    read_ahead=4 * BLOCK,
    fetch_bytes=2 * BLOCK,
    ahead_bytes=2 * BLOCK,
    fetches=2,
    put_bytes=3 * BLOCK,
    puts=2,
    dirty_limit=4 * BLOCK,
    delay=2.0,
    retry_min=1.0,
    retry_max=8.0,
)

units = st.integers(0, SIZE // UNIT - 1)
# Many small requests, some that cross blocks, few larger than what may be dirty.
lengths = st.one_of(st.integers(1, 16), st.integers(1, 70), st.integers(1, 200))
pages = st.integers(0, SIZE // PAGE)


def clip(first: int, count: int) -> tuple[int, int]:
    """Offset and length in bytes of so many units, cut off at the device's end."""
    offset = first * UNIT
    return offset, min(count * UNIT, SIZE - offset)


def pages_of(offset: int, length: int) -> range:
    return range(offset // PAGE, -(-(offset + length) // PAGE))


class CacheMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        logging.getLogger("encfs.block.cachestore").setLevel(logging.ERROR)
        self.trio = GuestTrio()
        self.model = bytearray((37 * (i // UNIT) + i) & 0xFF for i in range(SIZE))
        self.below = FaultyDevice(bytearray(self.model), block_size=UNIT)
        self.below.may_put = set()
        self.stack = AsyncExitStack()
        self.uncertain: set[int] = set()
        self.fill = 0
        self.cache: Cache = self.trio.run(self._open)

    async def _open(self) -> Cache:
        return await self.stack.enter_async_context(open_cache(self.below, SETTINGS))

    def _next_fill(self, length: int) -> bytes:
        """Bytes unlike any written before."""
        self.fill += 1
        return self.fill.to_bytes(4, "big") * (length // 4)

    async def _write(self, offset: int, length: int) -> None:
        """Write; what a write that failed wrote is not known until it is written again."""
        data = self._next_fill(length)
        assert self.below.may_put is not None
        self.below.may_put.update(pages_of(offset, length))
        span = range(offset // UNIT, (offset + length) // UNIT)
        try:
            await self.cache.write(offset, data)
        except StoreError:
            self.uncertain.update(span)
        else:
            self.uncertain.difference_update(span)
        self.model[offset : offset + length] = data

    async def _check(self, offset: int, length: int) -> None:
        before = bytes(self.model)
        try:
            found = await read(self.cache, offset, length)
        except StoreError:
            return
        assert self._differences(found, before[offset : offset + length], offset) == []

    def _differences(self, found: bytes, wanted: bytes, offset: int = 0) -> list[int]:
        """Units that differ though they are certain."""
        return [
            (offset + at) // UNIT
            for at in range(0, len(found), UNIT)
            if found[at : at + UNIT] != wanted[at : at + UNIT] and (offset + at) // UNIT not in self.uncertain
        ]

    @rule(first=units, count=lengths)
    def write(self, first: int, count: int) -> None:
        self.trio.run(lambda: self._write(*clip(first, count)))

    @rule(first=units, count=lengths)
    def read(self, first: int, count: int) -> None:
        self.trio.run(lambda: self._check(*clip(first, count)))

    @rule(first=st.integers(0, 20), count=st.integers(2, 8))
    def read_a_run(self, first: int, count: int) -> None:
        async def run() -> None:
            for block in range(first, first + count):
                await self._check(block * BLOCK, BLOCK)

        self.trio.run(run)

    @rule(data=st.data(), count=st.integers(2, 6))
    def several_at_once(self, data: st.DataObject, count: int) -> None:
        """Reads and writes of different blocks, flushes among them."""
        blocks = data.draw(st.lists(st.integers(0, 29), min_size=count, max_size=count, unique=True))
        kinds = data.draw(st.lists(st.sampled_from("rwwf"), min_size=count, max_size=count))

        async def flush() -> None:
            with suppress(StoreError):
                await self.cache.flush()

        async def run() -> None:
            async with trio.open_nursery() as nursery:
                for block, kind in zip(blocks, kinds, strict=True):
                    if kind == "f":
                        nursery.start_soon(flush)
                    else:
                        nursery.start_soon(
                            self._write if kind == "w" else self._check, block * BLOCK + UNIT, BLOCK - UNIT
                        )

        self.trio.run(run)

    @rule()
    def flush(self) -> None:
        async def run() -> None:
            before = len(self.below.puts)
            dirty = self.cache.state().dirty
            try:
                await self.cache.flush()
            except StoreError:
                assert self.cache.state().dirty > 0, "a flush failed though everything is stored"
                return
            assert self._differences(bytes(self.below.data), bytes(self.model)) == []
            state = self.cache.state()
            assert state.stored == state.accepted
            assert state.dirty == state.failing == 0
            moved = sum(length for _, length in self.below.puts[before:])
            assert moved <= dirty, "only dirty data moves"
            self.below.may_put = set(pages_of_units(self.uncertain))

        self.trio.run(run)

    @rule(seconds=st.sampled_from([0.1, 0.4, 1.0, 3.0, 20.0]))
    def time_passes(self, seconds: float) -> None:
        self.trio.run(lambda: trio.sleep(seconds))

    @rule(latency=st.sampled_from([0.0, 0.5, 3.0]))
    def the_line_changes(self, latency: float) -> None:
        self.below.latency = latency

    @rule(
        applied=st.lists(st.integers(0, 24), min_size=1, max_size=3),
        seconds=st.sampled_from([0.0, 1.0, 5.0]),
    )
    def puts_will_fail(self, applied: list[int], seconds: float) -> None:
        """Some of the next puts fail, after some, none or all of their bytes reached the store."""
        self.below.put_faults += [Fault(units * UNIT, seconds) for units in applied]

    @rule(count=st.integers(1, 2), seconds=st.sampled_from([0.0, 1.0]))
    def gets_will_fail(self, count: int, seconds: float) -> None:
        self.below.get_faults += [Fault(seconds=seconds) for _ in range(count)]

    @precondition(lambda self: not self.below.is_out)
    @rule()
    def the_store_goes_away(self) -> None:
        self.below.is_out = True

    @precondition(lambda self: self.below.is_out)
    @rule()
    def the_store_comes_back(self) -> None:
        self.below.is_out = False

    @invariant()
    def the_store_is_used_as_it_may_be(self) -> None:
        assert self.below.violations == []

    @invariant()
    def memory_is_bounded(self) -> None:
        state = self.cache.state()
        # Two writers at the limit may each add a block; nothing else goes over it.
        assert state.dirty <= SETTINGS.dirty_limit
        assert state.stored <= state.accepted

    def teardown(self) -> None:
        self.below.is_out = False
        self.below.put_faults.clear()
        self.below.get_faults.clear()

        async def end() -> None:
            with suppress(StoreError):  # of a put that was under way before
                await self.cache.flush()
            await trio.sleep(10)
            await self.cache.flush()
            assert self._differences(bytes(self.below.data), bytes(self.model)) == []
            await self._check(0, SIZE)

        async def close() -> None:
            await self.cache.aclose()
            await self.stack.aclose()

        try:
            self.trio.run(end)
        finally:
            self.trio.run(close)
            self.trio.close()


def pages_of_units(numbers: set[int]) -> set[int]:
    return {number * UNIT // PAGE for number in numbers}


TestCacheMachine: Any = CacheMachine.TestCase
TestCacheMachine.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
