"""Which blocks a cache holds, which of their pages are there, and which are not stored yet.

A block is the unit of memory, a page of 4096 bytes the unit of truth. Per block there are four sets of pages,
each an integer used as a bit mask:

    valid    the memory holds the device's current content
    loading  a fetch is under way; `filling`, a part of these: it writes into the block's memory as it goes on
    dirty    newer than the store, and in no put under way
    putting  a put of a copy of these pages is under way; with `dirty`: written again since

A block with any of the last three stays; all others may be evicted, the least recently used first. Objects
here are made once, as the memory is, and used again.

A generation numbers an accepted write. Every dirty page knows the first one that made it dirty, so that a
flush can tell what it must wait for from what was written again since.

`Unstored` keeps dirty blocks in the order in which they became dirty. A block has its turn: every page that
could be put when the turn began is put in it, and then the block goes to the end, so that pages written again
and again never keep others from being stored.

Kind: pure
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

NOTHING = 1 << 62  # a generation later than any


@dataclass(slots=True, eq=False)
class Block:
    """One block in memory.

    Attributes:
        number: its place in the device.
        slot: its place in memory.
        generations: of every dirty page, the first write to it that no put has taken.
        put_generations: of every put under way, the first write it carries for this block.
        since: when it became dirty.
        turn: pages still to be put in its turn.
        failures: puts that failed since the last that did not.
        not_before: when a block that failed may be tried again.
    """

    number: int
    slot: int
    pages: int
    valid: int = 0
    loading: int = 0
    filling: int = 0
    dirty: int = 0
    putting: int = 0
    generations: list[int] = field(default_factory=list)
    put_generations: list[int] = field(default_factory=list)
    since: float = 0.0
    turn: int = 0
    failures: int = 0
    not_before: float = 0.0

    def __post_init__(self) -> None:
        self.generations = [0] * self.pages

    def begin(self, number: int) -> None:
        """Become another block, of which nothing is known."""
        self.number = number
        self.valid = self.loading = self.filling = self.dirty = self.putting = self.turn = self.failures = 0
        self.not_before = 0.0

    @property
    def storable(self) -> int:
        """Pages that can be put now."""
        return self.dirty & ~self.putting

    def oldest(self, mask: int) -> int:
        """The first write among those that made these dirty pages dirty; `NOTHING` for no page."""
        found = NOTHING
        for first, count in runs(mask):
            found = min(found, *self.generations[first : first + count])
        return found

    @property
    def first_unstored(self) -> int:
        """The first write to it that is not known to be stored."""
        return min(self.oldest(self.dirty), *self.put_generations, NOTHING)


def mask_of(first: int, count: int) -> int:
    """Bits `first` to `first + count`, exclusive."""
    return ((1 << count) - 1) << first


def runs(mask: int) -> Iterator[tuple[int, int]]:
    """(first, count) of every run of ones, from the lowest."""
    base = 0
    while mask:
        zeros = (mask & -mask).bit_length() - 1
        mask >>= zeros
        base += zeros
        ones = (~mask & (mask + 1)).bit_length() - 1
        yield base, ones
        mask >>= ones
        base += ones


class BlockTable:
    """The blocks in memory.

    Args:
        slots: most of them.
        pages: of one block.
    """

    def __init__(self, slots: int, pages: int) -> None:
        self._free = [Block(-1, slot, pages) for slot in range(slots - 1, -1, -1)]
        self._blocks: dict[int, Block] = {}
        self._idle: OrderedDict[int, Block] = OrderedDict()

    def __len__(self) -> int:
        return len(self._blocks)

    def get(self, number: int) -> Block | None:
        return self._blocks.get(number)

    def touch(self, block: Block) -> None:
        """Make it the most recently used."""
        if block.number in self._idle:
            self._idle.move_to_end(block.number)

    def claim(self, number: int) -> Block | None:
        """The block of that number, made of free or idle memory if need be; None when there is neither.

        A new block is not idle before `settle` says so.
        """
        block = self._blocks.get(number)
        if block is not None:
            return block
        if self._free:
            block = self._free.pop()
        elif self._idle:
            _, block = self._idle.popitem(last=False)
            del self._blocks[block.number]
        else:
            return None
        block.begin(number)
        self._blocks[number] = block
        return block

    def settle(self, block: Block) -> bool:
        """Decide anew whether a block may be evicted; to be called after its masks changed.

        Returns:
            Whether it may: then somebody who waits for memory can have it.
        """
        if block.loading or block.dirty or block.putting:
            self._idle.pop(block.number, None)
            return False
        if not block.valid:
            self._idle.pop(block.number, None)
            del self._blocks[block.number]
            self._free.append(block)
        else:
            self._idle[block.number] = block
            self._idle.move_to_end(block.number)
        return True


@dataclass(slots=True, eq=False)
class Put:
    """A range on its way to the store: pages `first` to `first + count` of the device.

    Attributes:
        parts: blocks, with the pages taken from each and the first write they carry.
    """

    first: int
    count: int
    parts: list[tuple[Block, int, int]]

    @property
    def oldest(self) -> int:
        return min(oldest for _, _, oldest in self.parts)


class Unstored:
    """Blocks with data that the store does not have.

    Args:
        pages: of one block.
        max_pages: of one put, at least as many.
    """

    def __init__(self, pages: int, max_pages: int) -> None:
        self._pages = pages
        self._max_pages = max_pages
        self._all: dict[int, Block] = {}
        self._dirty: dict[int, Block] = {}
        self._failed: dict[int, Block] = {}
        self.page_count = 0
        self.accepted = 0

    def __contains__(self, number: int) -> bool:
        return number in self._all

    def __len__(self) -> int:
        return len(self._all)

    def blocks(self) -> list[Block]:
        """All of them."""
        return list(self._all.values())

    @property
    def failing(self) -> int:
        """Blocks whose last put failed."""
        return len(self._failed)

    @property
    def stored(self) -> int:
        """Every write up to this generation is stored."""
        return min((block.first_unstored for block in self._all.values()), default=self.accepted + 1) - 1

    def add(self, block: Block, mask: int, now: float) -> None:
        """Pages of a block were written: the next generation."""
        self.accepted += 1
        self.page_count += (mask & ~(block.dirty | block.putting)).bit_count()
        self._all[block.number] = block
        if not block.dirty:
            block.since = now
            self._dirty[block.number] = block
        for first, count in runs(mask & ~block.dirty):
            block.generations[first : first + count] = [self.accepted] * count
        block.dirty |= mask
        block.valid |= mask

    def oldest(self) -> Block | None:
        """The block whose turn it is, of those that have not failed."""
        return next((block for block in self._dirty.values() if block.storable), None)

    def retryable(self, now: float) -> Block | None:
        """A failed block whose pause is over."""
        for block in self._failed.values():
            if block.not_before <= now and block.storable:
                return block
        return None

    def retry_now(self) -> None:
        """End every pause."""
        for block in self._failed.values():
            block.not_before = 0.0

    def next_retry(self) -> float:
        """When the first pause ends; infinite when nothing waits for one."""
        return min((b.not_before for b in self._failed.values() if b.storable), default=math.inf)

    def take(self, block: Block, now: float) -> Put:
        """A range of storable pages around one of `block`, as long as may be; it is being put from now on."""
        block.turn &= block.storable
        if not block.turn:
            block.turn = block.storable
        first, end = self._extent(block)
        put = Put(first, end - first, [])
        for number in range(first // self._pages, -(-end // self._pages)):
            base = number * self._pages
            low, high = max(first, base) - base, min(end, base + self._pages) - base
            self._take_part(put, self._all[number], mask_of(low, high - low), now)
        return put

    def _take_part(self, put: Put, block: Block, mask: int, now: float) -> None:
        oldest = block.oldest(mask)
        put.parts.append((block, mask, oldest))
        block.put_generations.append(oldest)
        had_turn = block.turn
        block.dirty &= ~mask
        block.turn &= ~mask
        block.putting |= mask
        order = self._dirty if block.number in self._dirty else self._failed
        if not block.dirty:
            del order[block.number]
        elif had_turn and not block.turn:  # its turn is over: what was written again goes to the end
            order[block.number] = order.pop(block.number)
            block.since = now

    def done(self, put: Put) -> None:
        """A put was acknowledged."""
        for block, mask, oldest in put.parts:
            self._end(block, mask, oldest)
            self.page_count -= (mask & ~block.dirty).bit_count()
            block.failures = 0
            if not block.dirty and not block.putting:
                del self._all[block.number]

    def failed(self, put: Put, not_before: Iterable[float]) -> None:
        """A put failed: its pages are dirty as before; each block waits for its time."""
        for (block, mask, oldest), time in zip(put.parts, not_before, strict=True):
            self._end(block, mask, oldest)
            for first, count in runs(mask):
                block.generations[first : first + count] = [oldest] * count
            block.dirty |= mask
            block.not_before = time
            block.failures += 1
            self._dirty.pop(block.number, None)
            self._failed[block.number] = block

    @staticmethod
    def _end(block: Block, mask: int, oldest: int) -> None:
        block.putting &= ~mask
        block.put_generations.remove(oldest)

    def _storable(self, number: int) -> int:
        block = self._all.get(number)
        return 0 if block is None else block.storable

    def _extent(self, block: Block) -> tuple[int, int]:
        """First page and end of the range of storable pages around the first one of the block's turn."""
        base = block.number * self._pages
        page = base + (block.turn & -block.turn).bit_length() - 1
        first, end = next(
            (base + low, base + low + count)
            for low, count in runs(block.storable)
            if base + low <= page < base + low + count
        )
        while first % self._pages == 0 and end - first < self._max_pages and first:
            ones = _leading_ones(self._storable(first // self._pages - 1), self._pages)
            if not ones:
                break
            first -= min(ones, self._max_pages - (end - first))
        while end % self._pages == 0 and end - first < self._max_pages:
            mask = self._storable(end // self._pages)
            if not mask & 1:
                break
            end += next(runs(mask))[1]
        return first, min(end, first + self._max_pages)


def _leading_ones(mask: int, width: int) -> int:
    """Ones at the top of a mask of `width` bits."""
    return width - (~mask & ((1 << width) - 1)).bit_length()
