"""Masks, memory and the order of storing, without a device."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from encfs.block.cachemap import Block, BlockTable, Unstored, mask_of, runs

PAGES = 4
FULL = mask_of(0, PAGES)


@given(st.integers(0, 2**70))
def test_runs_are_the_mask(mask: int) -> None:
    found = list(runs(mask))
    assert sum(mask_of(first, count) for first, count in found) == mask
    assert all(first + count < later for (first, count), (later, _) in itertools.pairwise(found))


def test_the_least_recently_used_is_evicted_and_what_is_busy_is_not() -> None:
    table = BlockTable(3, PAGES)
    blocks = [table.claim(number) for number in range(3)]
    for block in blocks:
        assert block is not None
        block.valid = FULL
        table.settle(block)
    first, second, third = (block for block in blocks if block is not None)
    table.touch(first)
    second.dirty = 1
    table.settle(second)
    taken = table.claim(7)
    assert taken is not None
    assert taken.slot == third.slot
    assert table.get(2) is None
    taken.loading = 1
    table.settle(taken)
    assert table.claim(8) is not None
    assert table.claim(9) is None, "one is dirty, one is loading, one is new"


def made(unstored: Unstored, writes: list[tuple[int, int]]) -> dict[int, Block]:
    """Blocks with pages written in this order: (block, mask)."""
    blocks: dict[int, Block] = {}
    for number, mask in writes:
        unstored.add(blocks.setdefault(number, Block(number, number, PAGES)), mask, float(unstored.accepted))
    return blocks


def test_a_put_spans_blocks_and_stops_at_its_limit_and_at_clean_pages() -> None:
    unstored = Unstored(PAGES, 2 * PAGES)
    blocks = made(unstored, [(1, FULL), (0, 0b1000), (2, FULL), (3, 0b0001), (5, FULL)])
    put = unstored.take(blocks[1], 0)
    assert (put.first, put.count) == (3, 8)
    assert [part.number for part, _, _ in put.parts] == [0, 1, 2]
    assert blocks[2].dirty == 0b1000
    rest = unstored.take(blocks[2], 0)
    assert (rest.first, rest.count) == (11, 2)


def test_what_is_stored_is_known_by_generation() -> None:
    unstored = Unstored(PAGES, PAGES)
    blocks = made(unstored, [(0, 1), (9, 1), (0, 2)])
    assert unstored.stored == 0
    first = unstored.take(blocks[0], 0)
    unstored.add(blocks[0], 1, 0)
    assert unstored.stored == 0, "a put under way is not stored"
    unstored.done(first)
    assert unstored.stored == 1, "the second write is not"
    unstored.done(unstored.take(blocks[9], 0))
    assert unstored.stored == 3
    again = unstored.take(blocks[0], 0)
    unstored.failed(again, [5.0])
    assert unstored.stored == 3
    assert unstored.retryable(4.9) is None
    assert unstored.retryable(5.0) is blocks[0]
    unstored.done(unstored.take(blocks[0], 5.0))
    assert unstored.stored == unstored.accepted == 4
    assert len(unstored) == unstored.page_count == 0


def test_pages_written_again_and_again_do_not_keep_others_waiting() -> None:
    unstored = Unstored(PAGES, PAGES)
    blocks = made(unstored, [(0, 0b0101), (9, 1)])
    stored = []
    for _ in range(4):
        block = unstored.oldest()
        assert block is not None
        put = unstored.take(block, 0)
        stored.append((block.number, put.first % PAGES))
        if block.number == 0:
            unstored.add(block, 0b0001, 0)
        unstored.done(put)
    assert stored[:3] == [(0, 0), (0, 2), (9, 0)]
    assert blocks[9].dirty == 0
