"""dm-integrity's superblock, and where data and tags of a block lie.

    superblock 4096 bytes | journal | area 0: tags, data | area 1: tags, data | ... | last area, cut short

The superblock is not authenticated: nothing in it is believed. Every field is held against the one value that
the size of the device and the checked LUKS2 header leave, apart from the number of journal sections and the
interleave, which are bounded; a wrong value of these makes tags not match.

Kind: pure

Spec: Linux drivers/md/dm-integrity.c, struct superblock, target version 1.10, little-endian.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from encfs.errors import LayoutError, MalformedHeader, UnsupportedFeature

SECTOR = 512
TAG_SIZE = 32
SUPERBLOCK_SIZE = 4096
_SUPERBLOCK_SECTORS = SUPERBLOCK_SIZE // SECTOR
_FIELDS = struct.Struct("<8sBBHIQIBB2sQ8s16s")
_MAGIC = b"integrt\0"
_VERSION = 4
_FIXED_PADDING = 8
_PAGE = 4096
_ENTRY_SECTORS = 8  # of a journal section, that hold entries
_ENTRY_BYTES = 504  # of such a sector: the rest is MAC slot and commit id
MAX_JOURNAL_SECTORS = 131_072
MAX_JOURNAL_SECTIONS = 4096
# Tags and data of one area fit one request of 4 MiB then, at the same cost in space as the kernel's default.
DEFAULT_INTERLEAVE = 10


@dataclass(frozen=True, slots=True)
class Layout:
    """Geometry of one volume; units are 512-byte sectors unless named otherwise.

    Attributes:
        block_size: bytes of an encryption sector, 512 or 4096.
        interleave: log2 of data sectors in one area.
        journal_sections: of the journal.
        provided: data sectors, what the plaintext device holds.
    """

    block_size: int
    interleave: int
    journal_sections: int
    provided: int

    @property
    def per_block(self) -> int:
        """Sectors of a block."""
        return self.block_size // SECTOR

    @property
    def entry_size(self) -> int:
        """Bytes of a journal entry."""
        return -(-(8 + 8 * self.per_block + TAG_SIZE) // 8) * 8

    @property
    def section_entries(self) -> int:
        """Blocks in a journal section."""
        return _ENTRY_SECTORS * (_ENTRY_BYTES // self.entry_size)

    @property
    def section_size(self) -> int:
        """Bytes of a journal section."""
        return (_ENTRY_SECTORS + self.section_entries * self.per_block) * SECTOR

    @property
    def first_area(self) -> int:
        """Byte where the areas begin, from the start of the segment."""
        return SUPERBLOCK_SIZE + self.journal_sections * self.section_size

    @property
    def run_size(self) -> int:
        """Bytes of one area's tags."""
        tags = TAG_SIZE * ((1 << self.interleave) // self.per_block)
        return -(-tags // _PAGE) * _PAGE

    @property
    def area_size(self) -> int:
        """Bytes of one area: tags and data."""
        return self.run_size + (SECTOR << self.interleave)

    @property
    def area_blocks(self) -> int:
        """Blocks of one area."""
        return (1 << self.interleave) // self.per_block

    @property
    def blocks(self) -> int:
        """Blocks of the volume."""
        return self.provided // self.per_block

    @property
    def size(self) -> int:
        """Bytes of the plaintext device."""
        return self.provided * SECTOR

    def section_offset(self, section: int) -> int:
        """Byte of a journal section, from the start of the segment."""
        return SUPERBLOCK_SIZE + section * self.section_size

    def data_offset(self, block: int) -> int:
        """Byte of a block's ciphertext, from the start of the segment."""
        area, within = divmod(block, self.area_blocks)
        return self.first_area + area * self.area_size + self.run_size + within * self.block_size

    def tag_offset(self, block: int) -> int:
        """Byte of a block's tag, from the start of the segment."""
        area, within = divmod(block, self.area_blocks)
        return self.first_area + area * self.area_size + within * TAG_SIZE


def new_layout(
    segment_size: int, *, device_size: int, block_size: int, interleave: int = DEFAULT_INTERLEAVE
) -> Layout:
    """The layout of a new volume.

    Args:
        segment_size: bytes of the segment.
        device_size: bytes of the whole backing device, header included: the kernel sizes the journal by it.
        block_size: 512 or 4096.
        interleave: log2 of sectors in an area.

    Raises:
        LayoutError: the segment is too small to hold a block.
    """
    draft = Layout(block_size, interleave, 1, 0)
    asked = min(MAX_JOURNAL_SECTORS, device_size // SECTOR >> 7)
    sections = max(1, asked * SECTOR // draft.section_size)
    layout = Layout(block_size, interleave, sections, 0)
    provided = _provided(layout, segment_size)
    if provided <= 0:
        raise LayoutError(f"segment of {segment_size} bytes: too small for tags, journal and a block of data")
    return Layout(block_size, interleave, sections, provided)


def _provided(layout: Layout, segment_size: int) -> int:
    """Data sectors that the kernel's formula gives for a segment."""
    available = segment_size // SECTOR - layout.first_area // SECTOR
    if available <= 0:
        return 0
    run, data = layout.run_size // SECTOR, 1 << layout.interleave
    areas, rest = divmod(available, run + data)
    return (areas * data + max(0, rest - run)) // 8 * 8


def build_superblock(layout: Layout) -> bytes:
    """The superblock, 4096 bytes, public."""
    log2_block = layout.per_block.bit_length() - 1
    head = _FIELDS.pack(
        _MAGIC,
        _VERSION,
        layout.interleave,
        TAG_SIZE,
        layout.journal_sections,
        layout.provided,
        _FIXED_PADDING,
        log2_block,
        15 - log2_block,
        b"",
        0,
        b"",
        b"",
    )
    return head + bytes(SUPERBLOCK_SIZE - len(head))


def parse_superblock(data: bytes, *, segment_size: int, block_size: int) -> Layout:
    """The layout that a superblock tells, if it is the one this segment can have.

    Args:
        data: its first 512 bytes at least.
        segment_size: bytes of the segment as the file has it now: a file that grew is refused.
        block_size: from the LUKS2 header.

    Raises:
        MalformedHeader: no superblock, or one that does not belong to this segment.
        UnsupportedFeature: a flag, version or tag size outside the profile, by name.
    """
    if len(data) < _FIELDS.size:
        raise MalformedHeader(f"integrity superblock: {len(data)} bytes, wanted {_FIELDS.size}")
    (
        magic,
        version,
        interleave,
        tag,
        sections,
        provided,
        flags,
        log2_block,
        _,
        pad,
        recalculated,
        rest,
        salt,
    ) = _FIELDS.unpack_from(data)
    if magic != _MAGIC:
        raise MalformedHeader(
            f"integrity superblock: starts with {magic.hex()}, wanted {_MAGIC.hex()}",
            hint="the image was damaged, or its header was changed to claim integrity it never had",
        )
    if version != _VERSION or flags != _FIXED_PADDING or tag != TAG_SIZE:
        raise UnsupportedFeature(
            f"integrity superblock: version {version}, flags {flags:#x}, tags of {tag} bytes,"
            f" wanted {_VERSION}, {_FIXED_PADDING:#x} and {TAG_SIZE}"
        )
    if SECTOR << log2_block != block_size:
        raise MalformedHeader(
            f"integrity superblock: blocks of {SECTOR << log2_block} bytes, the header has {block_size}"
        )
    if any(pad) or recalculated or any(rest) or any(salt):
        raise UnsupportedFeature("integrity superblock: reserved fields are used")
    if not 3 <= interleave <= 31 or not 1 <= sections <= MAX_JOURNAL_SECTIONS:
        raise MalformedHeader(
            f"integrity superblock: interleave {interleave}, {sections} journal sections,"
            f" wanted 3 to 31 and 1 to {MAX_JOURNAL_SECTIONS}"
        )
    layout = Layout(block_size, interleave, sections, provided)
    wanted = _provided(layout, segment_size)
    if provided != wanted or not provided:
        raise MalformedHeader(
            f"integrity superblock: {provided} data sectors, wanted {wanted} in {segment_size} bytes",
            hint="the image was cut or extended; give it back its old length",
        )
    return layout
