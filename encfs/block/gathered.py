"""Ciphertext blocks and their tags that are newer than the image, in memory that is taken once.

Blocks that are written one after the other lie one after the other here, so that a whole run is encrypted,
tagged, journalled and put in place with one call each.

Kind: pure
"""

from __future__ import annotations

import mmap
from dataclasses import dataclass

from encfs.integrity.layout import TAG_SIZE


@dataclass(frozen=True, slots=True)
class Run:
    """Consecutive blocks from `first` on: their ciphertext and their tags of 32 bytes each."""

    first: int
    data: memoryview
    tags: memoryview

    def part(self, start: int, count: int, size: int) -> Run:
        """`count` blocks of `size` bytes from the one with index `start` on."""
        end = start + count
        return Run(
            self.first + start,
            self.data[start * size : end * size],
            self.tags[start * TAG_SIZE : end * TAG_SIZE],
        )


class Gathered:
    """Room for `capacity` blocks.

    Args:
        capacity: blocks.
        block_size: bytes of one.
    """

    def __init__(self, capacity: int, block_size: int) -> None:
        self._capacity = capacity
        self._size = block_size
        area = mmap.mmap(-1, max(1, capacity) * (block_size + TAG_SIZE))
        area.write(bytes(len(area)))  # have every page now
        view = memoryview(area)
        self._data, self._tags = view[: capacity * block_size], view[capacity * block_size :]
        self._slots: dict[int, int] = {}

    def __len__(self) -> int:
        return len(self._slots)

    def __contains__(self, block: int) -> bool:
        return block in self._slots

    def get(self, block: int) -> Run:
        """One block that is here."""
        return self._at(block, self._slots[block], 1)

    def room(self, first: int, count: int) -> Run | None:
        """Memory for blocks from `first` on: for those that lie together, at least one, at most `count`.

        A block that is here already keeps its place. None when there is room for none. What is new is here
        only after `add`.
        """
        slot = self._slots.get(first)
        if slot is None:
            slot = len(self._slots)
            count = min(count, self._capacity - slot)
            new = 1
            while new < count and first + new not in self._slots:
                new += 1
            return self._at(first, slot, new) if count else None
        old = 1
        while old < count and self._slots.get(first + old) == slot + old:
            old += 1
        return self._at(first, slot, old)

    def add(self, run: Run) -> None:
        """The memory of a `room` is filled."""
        if run.first not in self._slots:
            slot, count = len(self._slots), len(run.tags) // TAG_SIZE
            self._slots.update(
                zip(range(run.first, run.first + count), range(slot, slot + count), strict=True)
            )

    def runs(self) -> list[Run]:
        """Everything, by block number, in runs as long as they lie together."""
        found: list[Run] = []
        start = slot = count = 0
        for block in sorted(self._slots):
            at = self._slots[block]
            if count and block == start + count and at == slot + count:
                count += 1
                continue
            if count:
                found.append(self._at(start, slot, count))
            start, slot, count = block, at, 1
        if count:
            found.append(self._at(start, slot, count))
        return found

    def clear(self) -> None:
        """Nothing is here any more."""
        self._slots.clear()

    def _at(self, first: int, slot: int, count: int) -> Run:
        end = slot + count
        return Run(
            first,
            self._data[slot * self._size : end * self._size],
            self._tags[slot * TAG_SIZE : end * TAG_SIZE],
        )
