"""A store that can lose power: of what was written since the last flush, any sectors may be lost.

Also counts its calls, and can stop at any of them: what comes after is never done.
"""

from __future__ import annotations

import random

from encfs.block.device import Buffer, check_request

SECTOR = 512


class PowerLost(Exception):
    """The moment of the cut; nothing works afterwards."""


class CrashStore:
    """A device in memory.

    Args:
        data: its content, durable.
        stop_at: number of the write or flush that is cut off; None never.
    """

    block_size = SECTOR
    read_only = False

    def __init__(self, data: bytes, stop_at: int | None = None) -> None:
        self.durable = bytearray(data)
        self.view = bytearray(data)
        self.waiting: list[tuple[int, bytes]] = []
        self.size = len(data)
        self.calls = 0
        self.stop_at = stop_at

    def _step(self) -> None:
        if self.stop_at is not None and self.calls >= self.stop_at:
            raise PowerLost
        self.calls += 1

    async def read_into(self, offset: int, buffer: memoryview) -> None:
        check_request(self, offset, len(buffer))
        buffer[:] = self.view[offset : offset + len(buffer)]

    async def write(self, offset: int, data: Buffer) -> None:
        check_request(self, offset, len(data))
        self.waiting.append((offset, bytes(data)))  # a write that is cut off may still be there in part
        self._step()
        self.view[offset : offset + len(data)] = data

    async def flush(self) -> None:
        self._step()
        self.durable[:] = self.view
        self.waiting.clear()

    async def aclose(self) -> None:
        """Nothing to free."""

    def after_power_loss(self, dice: random.Random, chance: float) -> bytes:
        """What the disk holds then: each sector written since the last flush arrived with that chance."""
        disk = bytearray(self.durable)
        for offset, data in self.waiting:
            for start in range(0, len(data), SECTOR):
                if dice.random() < chance:
                    disk[offset + start : offset + start + SECTOR] = data[start : start + SECTOR]
        return bytes(disk)
