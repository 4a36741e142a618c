"""Journal sections of dm-integrity, used as the kernel uses them: as intent log.

A section is eight sectors of entries and then block data. Every sector ends in a commit id of 8 bytes, which
tells the pass (q, 0 to 3) in which it was written; the 8 bytes of data that it displaces go into the entry.

What the ring says after a crash is decided by `recover` alone, from the commit ids. A section counts when all
its sectors have the right id; the walk goes from the oldest to the newest, and stops where one does not.

Kind: pure

Spec: Linux drivers/md/dm-integrity.c, struct journal_entry, struct journal_sector, replay_journal; 1.10.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from encfs.block.device import Buffer
from encfs.errors import MalformedHeader
from encfs.integrity.layout import SECTOR, TAG_SIZE, Layout

_WORDS = SECTOR // 8
_BASE = 0x1111111111111111
_HALF = 0xFFFFFFFF
_UNUSED = 0xFFFFFFFFFFFFFFFF
_UNUSED_MARK = 0xFFFFFFFF
_ENTRY_SECTORS = 8
_TAG_WORDS = TAG_SIZE // 8
PASSES = 4


@dataclass(frozen=True, slots=True)
class Entry:
    """One block as a section holds it: its first 512-byte sector, its ciphertext, its tag."""

    sector: int
    data: bytes
    tag: bytes


@dataclass(frozen=True, slots=True)
class Recovery:
    """What a ring says.

    Attributes:
        replay: sections to put in place, in order.
        first: the oldest section.
        newest: pass of the newest one.
        half_empty: it was being emptied after everything was in place: nothing counts.
    """

    replay: tuple[int, ...]
    first: int
    newest: int
    half_empty: bool


def put_entries(section: Buffer, index: int, block: int, data: Buffer, tags: Buffer, block_size: int) -> None:
    """The reference of `_section.put`, used where no compiler was there."""
    step, start = block_size // SECTOR, _ENTRY_SECTORS * SECTOR + index * block_size
    memoryview(section)[start : start + len(data)] = data
    words, data_words, tag_words = (memoryview(part).cast("Q") for part in (section, data, tags))
    for number in range(len(data) // block_size):
        at = _place(index + number, 8 + 8 * step + TAG_SIZE)
        words[at] = (block + number) * step
        first, after = number * step * _WORDS, at + 1 + step
        # The last word of each of the block's sectors, where commit ids will be.
        words[at + 1 : after] = data_words[first + _WORDS - 1 : first + step * _WORDS : _WORDS]
        words[after : after + _TAG_WORDS] = tag_words[number * _TAG_WORDS : (number + 1) * _TAG_WORDS]


def _place(index: int, entry_size: int) -> int:
    """Word of a section where entry `index` begins."""
    return index % _ENTRY_SECTORS * _WORDS + index // _ENTRY_SECTORS * (entry_size // 8)


try:
    from encfs._section import put as _put
except ImportError:
    _put = put_entries


class SectionWriter:
    """Builds sections in one buffer that is kept: nothing is allocated for the data of a section.

    Args:
        layout: of the volume.
        buffer: `layout.section_size` bytes, overwritten by every section.
    """

    def __init__(self, layout: Layout, buffer: memoryview) -> None:
        assert len(buffer) == layout.section_size
        self.buffer = buffer
        self._layout = layout
        self._head = buffer.cast("Q")[: _ENTRY_SECTORS * _WORDS]
        self._unused = array("Q", bytes(_ENTRY_SECTORS * SECTOR))
        for index in range(layout.section_entries):
            self._unused[_place(index, layout.entry_size)] = _UNUSED
        # Commit ids, 8 bytes at the end of every sector: the lower half depends on pass and sector, the upper
        # one on pass and section.
        halves, sectors = buffer.cast("I"), layout.section_size // SECTOR
        self._lower = halves[2 * _WORDS - 2 :: 2 * _WORDS]
        self._upper = halves[2 * _WORDS - 1 :: 2 * _WORDS]
        self._lowers = [
            array("I", [(_BASE & _HALF) * (number + 1) ^ sector for sector in range(sectors)])
            for number in range(PASSES)
        ]

    def begin(self) -> None:
        """Start a section: every entry unused."""
        self._head[:] = self._unused

    def put(self, index: int, block: int, data: memoryview, tags: memoryview) -> None:
        """Entries from `index` on: blocks from number `block` on, ciphertext and tags of 32 bytes each."""
        _put(self.buffer, index, block, data, tags, self._layout.block_size)

    def end(self, section: int, number: int) -> None:
        """Finish it as `section`, written in pass `number` (0 to 3)."""
        mark = (_BASE & _HALF) * (number + 1) ^ section
        self._lower[:] = self._lowers[number]
        self._upper[:] = array("I", [mark]) * len(self._upper)


def entries(layout: Layout, section: bytes) -> Iterator[Entry]:
    """The used entries of a section, in order.

    Args:
        layout: of the volume.
        section: `layout.section_size` bytes.
    """
    size, per_block = layout.block_size, layout.per_block
    words = memoryview(section).cast("Q")
    for index in range(layout.section_entries):
        at = _place(index, layout.entry_size)
        sector = words[at]
        # Spec: an unused entry has all ones in the upper half; numbers outside the volume are ignored.
        if sector >> 32 == _UNUSED_MARK or sector >= layout.provided or sector % per_block:
            continue
        start = _ENTRY_SECTORS * SECTOR + index * size
        data = bytearray(section[start : start + size])
        memoryview(data).cast("Q")[_WORDS - 1 :: _WORDS] = words[at + 1 : at + 1 + per_block]
        tag = section[(at + 1 + per_block) * 8 : (at + 1 + per_block) * 8 + TAG_SIZE]
        yield Entry(sector, bytes(data), tag)


def has_entries(layout: Layout, section: bytes) -> bool:
    """Whether any entry of the section is used."""
    words = memoryview(section).cast("Q")
    places = (_place(index, layout.entry_size) for index in range(layout.section_entries))
    return any(words[at] >> 32 != _UNUSED_MARK for at in places)


def passes(layout: Layout, number: int, section: bytes) -> frozenset[int]:
    """The passes that the sectors of a section were written in.

    Raises:
        MalformedHeader: a commit id that nobody writes; the kernel refuses all I/O then.
    """
    words = memoryview(section).cast("Q")
    found = set()
    for sector in range(layout.section_size // SECTOR):
        seen = words[sector * _WORDS + _WORDS - 1] ^ (number << 32 | sector)
        which, foreign = divmod(seen, _BASE)
        if foreign or not 1 <= which <= PASSES:
            raise MalformedHeader(
                f"integrity journal: section {number}, sector {sector} has a commit id that nobody writes",
                hint="the journal was damaged; what it held and was not in place yet is lost",
            )
        found.add(which - 1)
    return frozenset(found)


def recover(sections: Sequence[frozenset[int]]) -> Recovery:
    """Decide what a ring says, from the passes in each section.

    Raises:
        MalformedHeader: all four passes are there, which no history leaves.
    """
    present = frozenset().union(*sections)
    if PASSES - 1 not in present:
        unused = max(present) + 1
    else:
        absent = [number for number in range(PASSES) if number not in present]
        if not absent:
            raise MalformedHeader("integrity journal: holds all four passes, wanted at most three")
        unused = absent[0]
    newest = (unused - 1) % PASSES
    older = (newest - 1) % PASSES
    last = max(number for number, found in enumerate(sections) if newest in found)
    if older not in present and (older - 1) % PASSES in present:
        return Recovery((), 0, newest, True)
    start, wanted = last + 1, older
    if start == len(sections):
        start, wanted = 0, newest
    walked = []
    for step in range(len(sections)):
        number = (start + step) % len(sections)
        if step and not number:
            wanted = (wanted + 1) % PASSES
        if sections[number] != {wanted}:
            break
        walked.append(number)
    return Recovery(tuple(walked), start, newest, False)
