"""Tags in memory, in pages of 4096 bytes as they lie in the image: 128 tags each.

A fixed number of pages, made once. A page that somebody writes from is pinned and stays; all others may be
replaced by the next one that is asked for.

Kind: layer
"""

from __future__ import annotations

import mmap
from collections import OrderedDict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio

from encfs.block.device import BlockDevice
from encfs.integrity.layout import TAG_SIZE, Layout

PAGE = 4096
PAGE_TAGS = PAGE // TAG_SIZE


class TagPages:
    """Cached tag pages of one volume.

    Args:
        below: the segment.
        layout: of the volume.
        count: pages kept.
    """

    def __init__(self, below: BlockDevice, layout: Layout, count: int) -> None:
        self._below = below
        self._layout = layout
        area = mmap.mmap(-1, count * PAGE)
        area.write(bytes(count * PAGE))  # touch every page now, not on the write path
        view = memoryview(area)
        self._free = [view[at : at + PAGE] for at in range(0, len(view), PAGE)]
        self._kept: OrderedDict[int, memoryview] = OrderedDict()
        self._pinned: set[int] = set()
        self._loading = trio.Lock()

    def span(self, block: int) -> int:
        """Blocks from `block` to the end of its page or area: as many as one page has tags for."""
        area = self._layout.area_blocks
        return min(PAGE_TAGS - block % area % PAGE_TAGS, area - block % area)

    async def tags(self, block: int, count: int) -> memoryview:
        """Tags of blocks within one page, 32 bytes each; valid until the caller next gives way."""
        page, start = await self._page(block)
        return page[start : start + count * TAG_SIZE]

    @asynccontextmanager
    async def changing(self, block: int) -> AsyncIterator[tuple[memoryview, int, int]]:
        """A page to change and write back: (page, its byte in the segment, block of its first tag)."""
        page, start = await self._page(block)
        offset = self._layout.tag_offset(block) - start
        self._pinned.add(offset)
        try:
            yield page, offset, block - start // TAG_SIZE
        finally:
            self._pinned.discard(offset)

    async def _page(self, block: int) -> tuple[memoryview, int]:
        at = self._layout.tag_offset(block)
        offset = at - at % PAGE
        while (page := self._kept.get(offset)) is None:
            async with self._loading:
                if offset not in self._kept:
                    await self._load(offset)
        self._kept.move_to_end(offset)
        return page, at - offset

    async def _load(self, offset: int) -> None:
        page = self._free.pop() if self._free else self._evict()
        try:
            await self._below.read_into(offset, page)
        except BaseException:
            self._free.append(page)
            raise
        self._kept[offset] = page

    def _evict(self) -> memoryview:
        oldest = next(offset for offset in self._kept if offset not in self._pinned)
        return self._kept.pop(oldest)
