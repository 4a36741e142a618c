"""The cache layer, one behaviour at a time; under a clock that jumps, so that nothing takes real time."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
from fakes.device_contract import check_against_model, check_read_only, check_refusals
from fakes.faulty_device import PAGE, Fault, FaultyDevice
from trio.testing import MockClock

from encfs.block.cache import Cache, open_cache, serve_cache
from encfs.block.cachesettings import BLOCK_OVERHEAD, DEMAND, CacheSettings, parse_bytes, sized
from encfs.block.device import BlockDevice, read
from encfs.block.memory import MemoryDevice
from encfs.errors import ReadOnlyDevice, StoreError, UsageError

BLOCK = 4 * PAGE
SIZE = 64 * BLOCK


def small(**changes: float) -> CacheSettings:
    """A cache of 24 blocks of 4 pages: small enough to run full at once."""
    words: dict[str, float] = {
        "block_bytes": BLOCK,
        "read_ahead": 0,
        "fetch_bytes": 2 * BLOCK,
        "ahead_bytes": 2 * BLOCK,
        "fetches": 4,
        "put_bytes": 4 * BLOCK,
        "puts": 3,
        "dirty_limit": 8 * BLOCK,
        "delay": 1.0,
    } | changes
    fetching = words["fetch_bytes"] * DEMAND + words["ahead_bytes"] * words["fetches"]
    size = fetching + words["put_bytes"] * words["puts"] + 24 * (BLOCK + BLOCK_OVERHEAD)
    return CacheSettings(size_bytes=int(size), **words)  # type: ignore[arg-type]


@asynccontextmanager
async def cached(
    *, size: int = SIZE, latency: float = 0.0, **changes: float
) -> AsyncIterator[tuple[FaultyDevice, Cache]]:
    below = FaultyDevice(bytearray(os.urandom(size)))
    below.latency = latency
    async with open_cache(below, small(**changes)) as cache:
        yield below, cache
    assert below.violations == []


@pytest.fixture
def quiet(caplog: pytest.LogCaptureFixture) -> None:
    """For tests in which storing fails: the cache warns, and may."""
    caplog.set_level("ERROR", "encfs.block.cachestore")


class TestContract:
    @staticmethod
    async def make(below: BlockDevice) -> BlockDevice:
        """A cache that lives until it is closed, in a task of its own."""
        opened: list[Cache] = []
        ready = trio.Event()

        async def live() -> None:
            async with trio.open_nursery() as nursery:
                opened.append(await nursery.start(serve_cache, below, small(read_ahead=4 * BLOCK)))
                ready.set()

        trio.lowlevel.spawn_system_task(live)
        await ready.wait()
        return opened[0]

    async def writable(self) -> BlockDevice:
        return await self.make(MemoryDevice(bytearray(os.urandom(SIZE))))

    async def odd_size(self) -> BlockDevice:
        return await self.make(MemoryDevice(bytearray(os.urandom(9 * PAGE + 1536))))

    async def read_only(self) -> BlockDevice:
        return await self.make(MemoryDevice(bytearray(os.urandom(SIZE)), read_only=True))

    def test_agrees_with_a_model(self) -> None:
        check_against_model(self.writable)
        check_against_model(self.odd_size)

    async def test_refuses_bad_requests(self) -> None:
        await check_refusals(self.writable)
        await check_refusals(self.odd_size)

    async def test_read_only_refuses_writes(self) -> None:
        await check_read_only(self.read_only)


class TestStoring:
    async def test_a_flush_of_one_page_is_one_put_of_one_page(self) -> None:
        async with cached() as (below, cache):
            await cache.write(5 * PAGE, b"x" * PAGE)
            await cache.flush()
            assert below.puts == [(5 * PAGE, PAGE)]
            assert below.gets == [], "a whole page needs no reading"
            await cache.flush()
            assert len(below.puts) == 1, "what is stored is not stored again"
            assert await read(cache, 5 * PAGE, PAGE) == b"x" * PAGE
            assert below.gets == [], "the cache stays warm"

    async def test_part_of_a_page_brings_the_rest(self) -> None:
        async with cached() as (below, cache):
            before = bytes(below.data)
            await cache.write(PAGE + 512, b"y" * 1024)
            await cache.flush()
            assert below.gets == below.puts == [(PAGE, PAGE)]
            assert below.data == before[: PAGE + 512] + b"y" * 1024 + before[PAGE + 1536 :]

    async def test_neighbours_are_stored_together(self) -> None:
        async with cached() as (below, cache):
            for page in (9, 3, 5, 4, 8, 6, 7):
                await cache.write(page * PAGE, bytes([page]) * PAGE)
            await cache.flush()
            assert below.puts == [(3 * PAGE, 7 * PAGE)]

    async def test_a_put_has_a_largest_size(self) -> None:
        async with cached() as (below, cache):
            await cache.write(0, b"z" * 8 * BLOCK)
            await cache.flush()
            assert sorted(below.puts) == [(0, 4 * BLOCK), (4 * BLOCK, 4 * BLOCK)]

    async def test_some_puts_go_at_once(self, autojump_clock: MockClock) -> None:
        async with cached(latency=1) as (below, cache):
            for block in range(0, 14, 2):
                await cache.write(block * BLOCK, b"z" * PAGE)
            await cache.flush()
            assert below.most_puts == 3
            assert trio.current_time() == pytest.approx(3)

    async def test_data_waits_for_neighbours_but_not_for_ever(self, autojump_clock: MockClock) -> None:
        async with cached(delay=5) as (below, cache):
            await cache.write(0, b"x" * PAGE)
            await trio.sleep(4)
            assert below.puts == []
            await cache.write(PAGE, b"x" * PAGE)
            await trio.sleep(1.5)
            assert below.puts == [(0, 2 * PAGE)]
            assert cache.state().dirty == 0

    async def test_at_the_limit_a_write_waits_for_the_store(self, autojump_clock: MockClock) -> None:
        async with cached(latency=10, delay=1e9) as (_, cache):
            for block in range(0, 16, 2):
                await cache.write(block * BLOCK, b"a" * PAGE)
            start = trio.current_time()
            assert start < 1
            await cache.write(40 * BLOCK, b"b" * PAGE)
            assert trio.current_time() - start == pytest.approx(10, abs=1)
            assert cache.state().dirty <= 8 * PAGE

    async def test_what_is_written_during_a_put_is_stored_after_it(self, autojump_clock: MockClock) -> None:
        async with cached(latency=10) as (below, cache):
            await cache.write(0, b"1" * PAGE)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(cache.flush)
                await trio.sleep(1)
                await cache.write(0, b"2" * PAGE)
            assert below.data[:PAGE] == b"1" * PAGE
            assert cache.state().dirty == PAGE
            await cache.flush()
            assert below.data[:PAGE] == b"2" * PAGE
            assert await read(cache, 0, PAGE) == b"2" * PAGE

    async def test_a_flush_ends_though_writing_goes_on(self, autojump_clock: MockClock) -> None:
        """Two pages of one block are written again and again, so that the block is never clean."""
        async with cached(latency=1) as (below, cache), trio.open_nursery() as nursery:

            async def scribble() -> None:
                for turn in range(10_000):
                    await cache.write(turn % 2 * 2 * PAGE, turn.to_bytes(4, "big") * 1024)
                    await trio.sleep(0.3)

            nursery.start_soon(scribble)
            await cache.write(PAGE * 7, b"x" * PAGE)
            with trio.fail_after(6):
                await cache.flush()
            assert below.data[7 * PAGE : 8 * PAGE] == b"x" * PAGE
            nursery.cancel_scope.cancel()


@pytest.mark.usefixtures("quiet")
class TestFailing:
    async def test_a_failed_put_is_reported_kept_and_tried_again(self, autojump_clock: MockClock) -> None:
        async with cached() as (below, cache):
            await cache.write(0, b"x" * PAGE)
            below.put_faults = [Fault(), Fault(applied=512)]
            for _ in range(2):
                with pytest.raises(StoreError):
                    await cache.flush()
            assert cache.state().dirty == PAGE
            assert cache.state().failures == 2
            await cache.flush()
            assert below.data[:PAGE] == b"x" * PAGE
            assert cache.state().failing == 0

    async def test_nobody_has_to_ask_for_the_next_try(self, autojump_clock: MockClock) -> None:
        async with cached() as (below, cache):
            await cache.write(0, b"x" * PAGE)
            below.put_faults = [Fault() for _ in range(5)]
            await trio.sleep(120)
            assert below.data[:PAGE] == b"x" * PAGE
            assert len(below.puts) == 6

    async def test_an_outage_loses_nothing(self, autojump_clock: MockClock) -> None:
        async with cached() as (below, cache):
            model = bytearray(below.data)
            below.is_out = True
            for block in range(6):
                model[block * BLOCK : (block + 1) * BLOCK] = bytes([block]) * BLOCK
                await cache.write(block * BLOCK, bytes([block]) * BLOCK)
            with pytest.raises(StoreError):
                await cache.flush()
            await trio.sleep(60)
            below.is_out = False
            await cache.flush()
            assert below.data == model

    async def test_a_write_without_room_fails_when_the_store_does(self, autojump_clock: MockClock) -> None:
        async with cached() as (below, cache):
            below.is_out = True
            for block in range(8):
                await cache.write(block * BLOCK, b"a" * BLOCK)
            start = trio.current_time()
            with pytest.raises(StoreError):
                await cache.write(20 * BLOCK, b"a" * BLOCK)
            assert trio.current_time() - start < 5
            start = trio.current_time()
            for _ in range(100):
                with pytest.raises(StoreError):
                    await cache.write(20 * BLOCK, b"a" * BLOCK)
            assert trio.current_time() - start < 1, "those that come later do not wait again"
            below.is_out = False
            await trio.sleep(3)
            await cache.write(20 * BLOCK, b"a" * BLOCK)

    async def test_one_failed_put_does_not_fail_a_write_that_waits(self, autojump_clock: MockClock) -> None:
        async with cached(latency=1, delay=1e9) as (below, cache):
            below.put_faults = [Fault()]
            for block in range(0, 24, 2):
                await cache.write(block * BLOCK, b"a" * BLOCK)
            await cache.flush()

    async def test_a_failed_fetch_fails_its_reader_only(self, autojump_clock: MockClock) -> None:
        async with cached() as (below, cache):
            below.get_faults = [Fault(seconds=3)]
            async with trio.open_nursery() as nursery:

                async def fails() -> None:
                    with pytest.raises(StoreError):
                        await read(cache, 0, PAGE)

                nursery.start_soon(fails)
                nursery.start_soon(fails)
            assert len(below.gets) == 1, "who waits for a fetch shares its end"
            assert await read(cache, 0, PAGE) == below.data[:PAGE]

    async def test_a_store_that_takes_writing_away(self) -> None:
        class Lost(FaultyDevice):
            async def write(self, offset: int, data: object) -> None:
                raise ReadOnlyDevice("the lease is lost")

        below = Lost(bytearray(SIZE))
        async with open_cache(below, small()) as cache:
            await cache.write(0, b"x" * PAGE)
            with pytest.raises(ReadOnlyDevice, match="lease"):
                await cache.flush()
            with pytest.raises(ReadOnlyDevice, match="lease"):
                await cache.write(PAGE, b"x" * PAGE)
            assert await read(cache, 0, PAGE) == b"x" * PAGE


class TestReading:
    async def test_a_run_is_read_ahead_in_parallel(self, autojump_clock: MockClock) -> None:
        async with cached(latency=1, read_ahead=8 * BLOCK) as (below, cache):
            start = trio.current_time()
            for offset in range(0, SIZE, BLOCK):
                assert await read(cache, offset, BLOCK) == below.data[offset : offset + BLOCK]
            assert trio.current_time() - start < 64 / 4, "at least four times as fast as one at a time"
            assert below.most_gets >= 4
            assert sum(length for _, length in below.gets) == SIZE, "nothing is fetched twice"

    @pytest.mark.parametrize("stride", [5 * BLOCK, -3 * BLOCK])
    async def test_steps_are_read_ahead(self, autojump_clock: MockClock, stride: int) -> None:
        async with cached(latency=1, read_ahead=8 * BLOCK, size=20 * SIZE) as (below, cache):
            first = 600 * BLOCK
            start = trio.current_time()
            for step in range(40):
                offset = first + step * stride
                assert await read(cache, offset, PAGE) == below.data[offset : offset + PAGE]
            assert trio.current_time() - start < 24, "four steps at once, after some to learn it"

    async def test_random_reads_bring_their_block_and_no_more(self) -> None:
        async with cached(read_ahead=8 * BLOCK) as (below, cache):
            pages = [7, 200, 31, 158, 90, 3, 251, 119]
            for page in pages:
                await read(cache, page * PAGE, PAGE)
            assert below.gets == [(page // 4 * BLOCK, BLOCK) for page in pages]

    async def test_a_large_read_is_fetched_in_parallel_parts(self, autojump_clock: MockClock) -> None:
        async with cached(latency=1) as (below, cache):
            start = trio.current_time()
            assert await read(cache, 0, 8 * BLOCK) == below.data[: 8 * BLOCK]
            assert trio.current_time() - start < 2
            assert len(below.gets) == 4

    async def test_what_is_written_during_a_fetch_is_not_overwritten(self, autojump_clock: MockClock) -> None:
        async with cached(latency=10) as (below, cache):
            before = bytes(below.data)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(read, cache, 0, BLOCK)
                await trio.sleep(1)
                await cache.write(PAGE, b"n" * PAGE)
            wanted = before[:PAGE] + b"n" * PAGE + before[2 * PAGE : BLOCK]
            assert await read(cache, 0, BLOCK) == wanted
            await cache.flush()
            assert below.data[:BLOCK] == wanted

    @pytest.mark.parametrize("fails", [False, True])
    @pytest.mark.parametrize("length", [PAGE, 512])
    async def test_a_write_into_a_range_read_ahead_waits_and_wins(
        self, autojump_clock: MockClock, fails: bool, length: int
    ) -> None:
        async with cached(latency=10) as (below, cache):
            before = bytes(below.data)
            below.get_faults += [Fault()] * fails
            cache._fetcher.ahead(0, 2 * BLOCK)
            await trio.sleep(1)
            start = trio.current_time()
            await cache.write(BLOCK, b"n" * length)
            waited = trio.current_time() - start
            # The rest of a page that is written in part is fetched anew after a fetch that failed.
            assert waited == pytest.approx(19 if fails and length < PAGE else 9)
            await cache.write(8 * BLOCK, b"n" * PAGE)
            assert trio.current_time() - start == pytest.approx(waited), "other pages do not wait"
            wanted = before[:BLOCK] + b"n" * length + before[BLOCK + length : 2 * BLOCK]
            assert await read(cache, 0, 2 * BLOCK) == wanted
            await cache.flush()
            assert below.data[: 2 * BLOCK] == wanted

    async def test_only_blocks_side_by_side_are_filled_in_place(self, autojump_clock: MockClock) -> None:
        in_place = []

        class Watching(FaultyDevice):
            async def read_into(self, offset: int, buffer: memoryview) -> None:
                in_place.append(buffer.obj is cache._memory.obj)
                await super().read_into(offset, buffer)

        below = Watching(bytearray(os.urandom(SIZE)))
        below.latency = 10
        async with open_cache(below, small()) as cache:
            await read(cache, 40 * BLOCK, BLOCK)  # one that is waited for: in slot 0
            await cache.write(BLOCK + PAGE, b"n" * PAGE)  # slot 1
            cache._fetcher.ahead(0, 2 * BLOCK)  # block 0 in slot 2, then block 1, of which a page is there
            cache._fetcher.ahead(10 * BLOCK, 2 * BLOCK)
            await trio.sleep(1)
            start = trio.current_time()
            await cache.write(BLOCK, b"n" * PAGE)
            assert trio.current_time() == start, "what travels in a buffer delays no write"
            await trio.sleep(20)
            assert in_place == [False, False, True]
            assert await read(cache, 10 * BLOCK, 2 * BLOCK) == below.data[10 * BLOCK : 12 * BLOCK]
            assert (
                await read(cache, BLOCK, BLOCK) == b"n" * 2 * PAGE + below.data[BLOCK + 2 * PAGE : 2 * BLOCK]
            )
        assert below.violations == []

    async def test_a_device_larger_than_the_cache(self) -> None:
        async with cached(read_ahead=8 * BLOCK) as (below, cache):
            for _ in range(2):
                assert await read(cache, 0, SIZE) == below.data
            assert cache.state().capacity == 24 * BLOCK

    async def test_the_least_recently_used_goes_first(self) -> None:
        async with cached() as (below, cache):
            for block in range(24):
                await read(cache, block * BLOCK, BLOCK)
            await read(cache, 0, PAGE)
            await read(cache, 30 * BLOCK, BLOCK)
            below.gets.clear()
            await read(cache, 0, BLOCK)
            assert below.gets == []
            await read(cache, BLOCK, BLOCK)
            assert below.gets == [(BLOCK, BLOCK)]


class TestSettings:
    @pytest.mark.parametrize("size", [16 << 20, 32 << 20, 64 << 20, 256 << 20, 1 << 30])
    def test_everything_lies_inside_the_size(self, size: int) -> None:
        settings = sized(size)
        fetching = settings.fetch_bytes * DEMAND + settings.ahead_bytes * settings.fetches
        block = settings.block_bytes + BLOCK_OVERHEAD
        whole = fetching + settings.put_bytes * settings.puts + settings.slots * block
        assert size - block < whole <= size

    @pytest.mark.parametrize(
        ("text", "value"), [("0", 0), ("65536", 65536), ("64k", 65536), ("256M", 256 << 20), ("1G", 1 << 30)]
    )
    def test_sizes(self, text: str, value: int) -> None:
        assert parse_bytes(text) == value

    @pytest.mark.parametrize("text", ["", "M", "-1", "1.5G", "1T", "9" * 13, "٣"])
    def test_not_sizes(self, text: str) -> None:
        with pytest.raises(UsageError, match="size"):
            parse_bytes(text)

    @pytest.mark.parametrize(
        ("size", "read_ahead", "delay"), [(1 << 20, None, 1), (64 << 20, 64 << 20, 1), (64 << 20, None, -1)]
    )
    def test_refused(self, size: int, read_ahead: int | None, delay: float) -> None:
        with pytest.raises(UsageError, match="wanted"):
            sized(size, read_ahead=read_ahead, delay=delay)
