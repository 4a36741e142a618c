"""Entries of a journal section: the compiled way and the reference do the same, and neither leaves it."""

from __future__ import annotations

import random

import pytest

from encfs._section import put
from encfs.integrity.journal import put_entries
from encfs.integrity.layout import TAG_SIZE, new_layout


@pytest.mark.parametrize("block_size", [512, 1024, 2048, 4096])
def test_both_ways_to_fill_a_section_do_the_same(block_size: int) -> None:
    layout = new_layout(3 << 20, device_size=64 << 20, block_size=block_size, interleave=7)
    dice = random.Random(block_size)
    sections = [memoryview(bytearray(layout.section_size)) for _ in range(2)]
    for _ in range(50):
        index = dice.randrange(layout.section_entries)
        count = dice.randint(0, layout.section_entries - index)
        data = memoryview(dice.randbytes(count * block_size))
        tags, block = memoryview(dice.randbytes(count * TAG_SIZE)), dice.randrange(1 << 50)
        for section, way in zip(sections, (put, put_entries), strict=True):
            way(section, index, block, data, tags, block_size)
        assert sections[0] == sections[1]


@pytest.mark.parametrize(
    ("length", "index", "blocks", "tags", "block_size"),
    [
        (0, -1, 1, 1, 4096),
        (0, 32, 1, 1, 4096),
        (0, 31, 2, 2, 4096),
        (0, 0, 2, 1, 4096),
        (-1, 0, 1, 1, 4096),
        (0, 0, 1, 1, 2048),
        (0, 0, 1, 1, 0),
        (0, 0, 1, 1, -4096),
        (0, 0, 0, 0, 1 << 40),
    ],
)
def test_a_section_is_never_left(length: int, index: int, blocks: int, tags: int, block_size: int) -> None:
    layout = new_layout(3 << 20, device_size=64 << 20, block_size=4096, interleave=7)
    assert layout.section_entries == 32
    section = bytearray(layout.section_size + length)
    with pytest.raises(ValueError, match="entry"):
        put(section, index, 0, bytes(blocks * 4096), bytes(tags * TAG_SIZE), block_size)
    assert not any(section)
