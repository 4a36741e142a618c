"""The journal of an integrity volume on a device: recovered at open, used for every commit, empty at the end.

Kind: layer
"""

from __future__ import annotations

import logging
import mmap
from collections.abc import Iterator, Sequence

from encfs.block.device import BlockDevice, read
from encfs.block.gathered import Run
from encfs.integrity.journal import (
    PASSES,
    Entry,
    Recovery,
    SectionWriter,
    entries,
    has_entries,
    passes,
    recover,
)
from encfs.integrity.layout import SECTOR, TAG_SIZE, Layout

log = logging.getLogger(__name__)

_SECTIONS_AT_ONCE = 8


class Journal:
    """One volume's ring of sections.

    Args:
        below: the segment.
        layout: of the volume.
    """

    def __init__(self, below: BlockDevice, layout: Layout) -> None:
        self._below = below
        self._layout = layout
        size, count = layout.section_size, min(_SECTIONS_AT_ONCE, layout.journal_sections)
        area = mmap.mmap(-1, count * size)
        area.write(bytes(count * size))
        self._buffer = memoryview(area)
        self._writers = [
            SectionWriter(layout, self._buffer[at * size : (at + 1) * size]) for at in range(count)
        ]
        self._next = 0  # section that the next commit begins with
        self._pass = 0
        self._free = 0  # sections from there that may be overwritten: what they held is in place, durable
        self._placed = True  # all blocks of the last commit are written in place
        self._used = False  # some section has entries
        self._ready = False  # a commit may begin at `_next`
        self._oldest = 0
        self._empty_pass = 0  # which pass to empty the ring with

    @property
    def capacity(self) -> int:
        """Blocks that one commit may have."""
        return self._layout.journal_sections * self._layout.section_entries

    async def recover(self) -> Recovery:
        """Read the ring and decide what it says; changes nothing.

        Raises:
            MalformedHeader: nobody can have written it.
        """
        found, used, empty = [], set[int](), set[int]()
        for number in range(self._layout.journal_sections):
            section = await self._read(number)
            found.append(passes(self._layout, number, section))
            (used if has_entries(self._layout, section) else empty).update(found[-1])
        recovery = recover(found)
        self._oldest, self._used = recovery.first, bool(used)
        self._empty_pass = (recovery.newest - 2) % PASSES
        if recovery.half_empty and len(used - empty) == 1:
            # No walk leads from this pass to the one that is left over, however far the emptying gets.
            self._empty_pass = (next(iter(used - empty)) + 1) % PASSES
        if not used and len(empty) == 1:
            self._begin(recovery.newest)
        return recovery

    async def entries(self, number: int) -> list[Entry]:
        """Blocks in one section; of several with the same number, the last counts."""
        return list(entries(self._layout, await self._read(number)))

    async def replay(self, recovery: Recovery) -> None:
        """Put in place what a crash left, and empty the journal; or write nothing at all."""
        if not self._used:
            return
        count = 0
        for number in recovery.replay:
            for entry in await self.entries(number):
                block = entry.sector // self._layout.per_block
                await self._below.write(self._layout.data_offset(block), entry.data)
                await self._write_tag(block, entry.tag)
                count += 1
        if count:
            log.info("integrity journal: %d blocks of a crash put in place", count)
        await self._below.flush()
        await self._empty()

    async def commit(self, runs: Sequence[Run]) -> None:
        """Write blocks into the journal; they are durable on return, and not in place yet.

        Args:
            runs: of at most `capacity` blocks, each number once.
        """
        assert self._placed, "the last commit is not in place"
        if not self._ready:
            await self._empty()
        sections = self._layout.journal_sections
        section, number, written, built = self._next, self._pass, 0, 0
        for chunk in self._cut(runs):
            if written + built == self._free:
                # What is in place becomes durable, and the whole ring can be overwritten.
                assert self._free < sections, "more blocks than the journal holds"
                await self._write_sections(section - built, built, number)
                written, built = written + built, 0
                await self._below.flush()
                self._free = sections
            writer = self._writers[built]
            writer.begin()
            index = 0
            for run in chunk:
                writer.put(index, run.first, run.data, run.tags)
                index += len(run.tags) // TAG_SIZE
            writer.end(section, number)
            built, section = built + 1, section + 1
            if built == len(self._writers) or section == sections:
                await self._write_sections(section - built, built, number)
                written, built = written + built, 0
            if section == sections:
                section, number = 0, (number + 1) % PASSES
        await self._write_sections(section - built, built, number)
        written += built
        await self._below.flush()
        self._next, self._pass, self._placed = section, number, False
        # That flush made everything before this commit durable in place, too.
        self._free = sections - written

    def _cut(self, runs: Sequence[Run]) -> Iterator[list[Run]]:
        """What goes into each section."""
        size, chunk, room = self._layout.block_size, list[Run](), self._layout.section_entries
        for run in runs:
            start, count = 0, len(run.tags) // TAG_SIZE
            while start < count:
                fits = min(count - start, room)
                chunk.append(run.part(start, fits, size))
                start, room = start + fits, room - fits
                if not room:
                    yield chunk
                    chunk, room = [], self._layout.section_entries
        if chunk:
            yield chunk

    async def _write_sections(self, first: int, count: int, number: int) -> None:
        """Write the first `count` built sections as `first` and those after it, of pass `number`."""
        if not count:
            return
        self._used = True
        self._oldest = (first + count) % self._layout.journal_sections
        self._empty_pass = (number - 2) % PASSES
        view = self._buffer[: count * self._layout.section_size]
        await self._below.write(self._layout.section_offset(first), view)

    def placed(self) -> None:
        """All blocks of the last commit are written in place; durable with the next flush."""
        self._placed = True

    async def settle(self) -> None:
        """Make what is in place durable, and leave an empty journal."""
        if self._used and self._placed:
            await self._below.flush()
            await self._empty()

    async def _empty(self) -> None:
        """Empty the journal; everything in it is in place, durable.

        The oldest section first, durable: without it a walk ends before it begins. In any other order, a
        crash in between would leave old sections without the newer ones that outdate them.
        """
        self._ready = False
        count = self._layout.journal_sections
        for step in range(count):
            number = (self._oldest + step) % count
            writer = self._writers[0]
            writer.begin()
            writer.end(number, self._empty_pass)
            await self._below.write(self._layout.section_offset(number), writer.buffer)
            if step == 0:
                await self._below.flush()
        await self._below.flush()
        self._used = False
        self._begin(self._empty_pass)

    def _begin(self, number: int) -> None:
        """The ring is empty and all of pass `number`."""
        self._next, self._pass = 0, (number + 1) % PASSES
        self._free = self._layout.journal_sections
        self._ready = True

    async def _read(self, number: int) -> bytes:
        return await read(self._below, self._layout.section_offset(number), self._layout.section_size)

    async def _write_tag(self, block: int, tag: bytes) -> None:
        at = self._layout.tag_offset(block)
        unit = max(self._below.block_size, SECTOR)
        start = at - at % unit
        piece = bytearray(await read(self._below, start, unit))
        piece[at - start : at - start + TAG_SIZE] = tag
        await self._below.write(start, piece)


async def format_journal(below: BlockDevice, layout: Layout) -> None:
    """An empty journal of pass 0, as the kernel formats it."""
    writer = SectionWriter(layout, memoryview(bytearray(layout.section_size)))
    for number in range(layout.journal_sections):
        writer.begin()
        writer.end(number, 0)
        await below.write(layout.section_offset(number), writer.buffer)
