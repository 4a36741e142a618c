"""Retry repeats what may be repeated, for a bounded time, and honours Retry-After."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from encfs.block.device import Buffer, read
from encfs.block.memory import MemoryDevice
from encfs.block.retry import Retry, retried
from encfs.errors import StoreError, StoreUnavailable


class Flaky(MemoryDevice):
    """Fails as told, then works."""

    def __init__(self, *errors: StoreError) -> None:
        super().__init__(bytearray(4096))
        self.errors = list(errors)
        self.calls = 0

    def _trip(self) -> None:
        self.calls += 1
        if self.errors:
            raise self.errors.pop(0)

    async def read_into(self, offset: int, buffer: memoryview) -> None:
        self._trip()
        await super().read_into(offset, buffer)

    async def write(self, offset: int, data: Buffer) -> None:
        self._trip()
        await super().write(offset, data)

    async def flush(self) -> None:
        self._trip()


async def test_every_operation_is_repeated(autojump_clock: trio.testing.MockClock) -> None:
    below = Flaky(*(StoreUnavailable("busy") for _ in range(3)))
    device = Retry(below)
    await device.write(0, b"x" * 512)
    assert below.calls == 4
    below.errors = [StoreUnavailable("busy")]
    assert await read(device, 0, 512) == b"x" * 512
    below.errors = [StoreUnavailable("busy")]
    await device.flush()
    assert (device.size, device.block_size, device.read_only) == (4096, 512, False)


async def test_what_the_store_asks_for_is_waited(autojump_clock: trio.testing.MockClock) -> None:
    below = Flaky(StoreUnavailable("busy", retry_after=7), StoreUnavailable("busy", retry_after=3600))
    start = trio.current_time()
    await Retry(below).write(0, b"x" * 512)
    assert trio.current_time() - start == pytest.approx(17)  # 3600 s are cut to 10


async def test_it_ends_by_the_deadline_with_the_last_error(autojump_clock: trio.testing.MockClock) -> None:
    below = Flaky(*(StoreUnavailable(f"busy {number}") for number in range(1000)))
    start = trio.current_time()
    with pytest.raises(StoreUnavailable, match="busy"):
        await Retry(below, deadline=30).write(0, b"x" * 512)
    assert trio.current_time() - start <= 30
    assert below.calls > 3


async def test_a_call_that_hangs_ends_by_the_deadline(autojump_clock: trio.testing.MockClock) -> None:
    tries = []

    async def call() -> None:
        tries.append(trio.current_time())
        if len(tries) < 3:
            raise StoreUnavailable("refused")
        await trio.sleep_forever()

    with pytest.raises(StoreUnavailable, match="refused"):
        await retried(call, deadline=20)
    assert len(tries) == 3
    with pytest.raises(StoreUnavailable, match="no answer within 5 s"):
        await retried(trio.sleep_forever, deadline=5)


async def test_other_errors_are_not_repeated() -> None:
    below = Flaky(StoreError("no"))
    with pytest.raises(StoreError, match="no"):
        await Retry(below).write(0, b"x" * 512)
    assert below.calls == 1


async def test_cancelling_cancels() -> None:
    with trio.move_on_after(0.01) as scope:
        await retried(trio.sleep_forever)
    assert scope.cancelled_caught
