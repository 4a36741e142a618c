"""A block device whose requests take time and fail on demand, and that watches over who uses it.

It notes in `violations` what a cache must never do to a store: two puts of one page at a time, a put of a
page that nobody wrote, data that changes while it is put. (Raising would not do: a cache survives that.)
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import trio

from encfs.block.device import Buffer, check_request
from encfs.errors import StoreError

PAGE = 4096


@dataclass
class Fault:
    """What happens to one request: `applied` bytes of a write still reach the store before the error."""

    applied: int = 0
    seconds: float = 0.0


class FaultyDevice:
    """Bytes in memory behind a slow and unreliable line."""

    def __init__(self, data: bytearray, *, block_size: int = 512) -> None:
        self.data = data
        self.size = len(data)
        self.block_size = block_size
        self.read_only = False
        self.latency = 0.0
        self.put_faults: list[Fault] = []
        self.get_faults: list[Fault] = []
        self.is_out = False
        self.may_put: set[int] | None = None
        self.gets: list[tuple[int, int]] = []
        self.puts: list[tuple[int, int]] = []
        self.most_gets = 0
        self.most_puts = 0
        self.flushes = 0
        self.is_closed = False
        self.violations: list[str] = []
        self._getting = 0
        self._putting: set[int] = set()
        self._puts_now = 0

    async def read_into(self, offset: int, buffer: memoryview) -> None:
        check_request(self, offset, len(buffer))
        assert not self.is_closed
        self.gets.append((offset, len(buffer)))
        self._getting += 1
        self.most_gets = max(self.most_gets, self._getting)
        try:
            await trio.sleep(self.latency)
            await self._fail(self.get_faults)
            buffer[:] = self.data[offset : offset + len(buffer)]
        finally:
            self._getting -= 1

    async def write(self, offset: int, data: Buffer) -> None:
        check_request(self, offset, len(data))
        assert not self.is_closed
        self.puts.append((offset, len(data)))
        with self._only_put_of(offset, len(data)):
            before = bytes(data)
            await trio.sleep(self.latency / 2)
            fault = self.put_faults.pop(0) if self.put_faults else None
            if fault is not None:
                applied = min(fault.applied, len(data))
                self.data[offset : offset + applied] = data[:applied]
                await trio.sleep(fault.seconds)
                raise StoreError("put failed on demand")
            await self._fail([])
            self.data[offset : offset + len(data)] = data
            await trio.sleep(self.latency / 2)
            if bytes(data) != before:
                self.violations.append("a put's data changed while it was under way")

    async def flush(self) -> None:
        self.flushes += 1

    async def aclose(self) -> None:
        self.is_closed = True

    async def _fail(self, faults: list[Fault]) -> None:
        if self.is_out:
            await trio.sleep(1)
            raise StoreError("the store is out")
        if faults:
            await trio.sleep(faults.pop(0).seconds)
            raise StoreError("failed on demand")

    @contextmanager
    def _only_put_of(self, offset: int, length: int) -> Iterator[None]:
        pages = set(range(offset // PAGE, -(-(offset + length) // PAGE)))
        if pages & self._putting:
            self.violations.append(f"two puts of one page at a time: {pages & self._putting}")
        if self.may_put is not None and not pages <= self.may_put:
            self.violations.append(f"clean pages are put: {pages - self.may_put}")
        self._putting |= pages
        self._puts_now += 1
        self.most_puts = max(self.most_puts, self._puts_now)
        try:
            yield
        finally:
            self._putting -= pages
            self._puts_now -= 1
