"""Layer: dm-crypt's authenticated encryption over dm-integrity's format; the plaintext of such a segment.

Reads verify the tag of every block before anything is decrypted. Writes gather in memory, encrypted, and go
to the image in two steps, as the kernel does it: first whole into the journal, durable; then data and tags in
place. So whatever happens in between, each block is readable, with its old content or its new.

Rules:
- A block goes in place only from a section that is durable, with exactly the content that is in the section.
- A section is used again only when everything before it is in place, durable.
- A block that is gathered or committed and not in place yet is read from memory.

Kind: layer

Spec: Linux drivers/md/dm-integrity.c 1.10 and dm-crypt.c 1.24 (crypt_iv_plain64, integrity:32:aead).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import groupby

import trio

from encfs.block.device import BlockDevice, Buffer, check_request, read
from encfs.block.gathered import Gathered, Run
from encfs.block.journal import Journal
from encfs.block.tagpages import PAGE, TagPages
from encfs.cipher import SectorCipher
from encfs.digests import keyed, on_two_cores
from encfs.errors import BadRequest, ReadOnlyDevice, Tampered
from encfs.integrity.layout import SUPERBLOCK_SIZE, TAG_SIZE, Layout, parse_superblock
from encfs.keys import Secret

CIPHER_KEY_SIZE = 64
MAC_KEY_SIZE = 32
_GATHER_BYTES = 2 << 20  # what is lost of writes that nobody made durable, and the price of one commit
_TAG_PAGES = 256


class Integrity:
    """Plaintext of an integrity segment. Make it with `open_integrity`.

    Args:
        below: the segment.
        layout: from its checked superblock.
        key: 96 or 64 bytes, secret: cipher key, then the 32 bytes of the MAC key.
        journal: recovered.
        room: blocks to keep in memory: gathered, or of a journal that is not replayed.
        read_only: refuse writes; blocks of a journal that was not replayed are read from it.
    """

    def __init__(
        self,
        below: BlockDevice,
        layout: Layout,
        key: Secret,
        journal: Journal,
        *,
        room: int,
        read_only: bool,
    ) -> None:
        self.below = below
        self.layout = layout
        self.size = layout.size
        self.block_size = layout.block_size
        self.read_only = read_only
        cipher_key, mac_key = split_key(key)
        self._cipher = SectorCipher(cipher_key, sector_size=layout.block_size)
        mac = keyed(mac_key.reveal())
        self._mac = mac if read_only else on_two_cores(mac)
        self._journal = journal
        self._tags = TagPages(below, layout, _TAG_PAGES)
        # Blocks newer than what is in place: gathered, or in a journal that nobody may replay.
        self._newer = Gathered(room, self.block_size)
        self._unplaced: list[Run] = []  # committed, and must go in place before anything else is committed
        self._writing = trio.Lock()
        self._generation = 0

    def adopt(self, block: int, data: bytes, tag: bytes) -> None:
        """Serve a block from the journal of a volume that is only read."""
        run = self._newer.room(block, 1)
        assert run is not None, "more blocks than the journal holds"
        run.data[:], run.tags[:] = data, tag
        self._newer.add(run)

    async def read_into(self, offset: int, buffer: memoryview) -> None:
        check_request(self, offset, len(buffer))
        size = self.block_size
        block, done = offset // size, 0
        try:
            while done < len(buffer):
                count = min(self._tags.span(block), (len(buffer) - done) // size)
                await self._read_piece(block, count, buffer[done : done + count * size])
                block, done = block + count, done + count * size
        except BaseException:
            buffer[:] = bytes(len(buffer))  # nobody gets to see what was not verified
            raise

    async def _read_piece(self, first: int, count: int, view: memoryview) -> None:
        """Blocks whose tags lie in one page."""
        while True:
            generation = self._generation
            await self.below.read_into(self.layout.data_offset(first), view)
            tags = await self._tags.tags(first, count)
            if (bad := self._find_bad(first, count, view, tags)) is None:
                break
            # A block that went in place between the two reads is no mismatch; one that nobody wrote is.
            if generation == self._generation:
                raise _tampered(self.layout, bad)
        self._cipher.decrypt(view, first)

    def _find_bad(self, first: int, count: int, view: memoryview, tags: memoryview) -> int | None:
        """The first block whose tag is wrong; blocks newer than the image are put in, with their own tags."""
        size, start = self.block_size, 0
        newer = [i for i in range(count) if first + i in self._newer] if len(self._newer) else []
        for i in (*newer, count):
            if (
                bad := self._compare(
                    first + start, view[start * size : i * size], tags[start * TAG_SIZE : i * TAG_SIZE]
                )
            ) is not None:
                return bad
            start = i + 1
        for i in newer:
            run = self._newer.get(first + i)
            part = view[i * size : (i + 1) * size]
            part[:] = run.data
            if (bad := self._compare(first + i, part, run.tags)) is not None:
                return bad
        return None

    def _compare(self, first: int, data: memoryview, tags: memoryview) -> int | None:
        step = self.layout.per_block
        bad = self._mac.compare(data, self.block_size, tags, first * step, step)
        return None if bad < 0 else first + bad

    async def write(self, offset: int, data: Buffer) -> None:
        if self.read_only:
            raise ReadOnlyDevice("image is open read-only")
        check_request(self, offset, len(data))
        view = memoryview(data)
        async with self._writing:
            await self._place()
            await self._gather(offset // self.block_size, view)

    async def _gather(self, first: int, view: memoryview) -> None:
        size, step = self.block_size, self.layout.per_block
        count, done = len(view) // size, 0
        while done < count:
            run = self._newer.room(first + done, count - done)
            if run is None:
                await self._commit()
                continue
            got = len(run.tags) // TAG_SIZE
            self._cipher.encrypt(view[done * size : (done + got) * size], run.data, run.first)
            self._mac.digest(run.data, size, run.tags, run.first * step, step)
            self._newer.add(run)
            done += got
        self._generation += 1

    async def flush(self) -> None:
        if self.read_only:
            return
        async with self._writing:
            await self._place()
            if len(self._newer):
                await self._commit()

    async def _commit(self) -> None:
        """Everything gathered goes into the journal, durable, and then in place."""
        runs = self._newer.runs()
        await self._journal.commit(runs)
        self._unplaced = runs
        await self._place()

    async def _place(self) -> None:
        """Write committed blocks in place; after a failure, again, before anything else."""
        if not self._unplaced:
            return
        size, area = self.block_size, self.layout.area_blocks
        for run in self._unplaced:
            for part in _split(run, size, lambda block: area - block % area):
                await self.below.write(self.layout.data_offset(part.first), part.data)
        parts = [part for run in self._unplaced for part in _split(run, size, self._tags.span)]
        for _, group in groupby(parts, lambda part: self.layout.tag_offset(part.first) // PAGE):
            await self._place_tags(list(group))
        self._journal.placed()
        self._newer.clear()
        self._unplaced = []
        self._generation += 1

    async def _place_tags(self, parts: list[Run]) -> None:
        """Tags that lie in one page."""
        async with self._tags.changing(parts[0].first) as (page, offset, base):
            for part in parts:
                at = (part.first - base) * TAG_SIZE
                page[at : at + len(part.tags)] = part.tags
            await self.below.write(offset, page)

    async def aclose(self) -> None:
        """Leaves an empty journal when everything is in place; else the journal tells what is not."""
        try:
            if not self.read_only and not len(self._newer):
                await self._journal.settle()
        finally:
            await self.below.aclose()


def _split(run: Run, size: int, reach: Callable[[int], int]) -> Iterator[Run]:
    """Parts of a run; `reach` says how many blocks from a given one on may stay together."""
    start, count = 0, len(run.tags) // TAG_SIZE
    while start < count:
        fits = min(reach(run.first + start), count - start)
        yield run.part(start, fits, size)
        start += fits


def split_key(key: Secret) -> tuple[Secret, Secret]:
    """Cipher key and MAC key, secret, of an integrity volume's key.

    Raises:
        BadRequest: it is of another length: the caller has not checked the header.
    """
    data = key.reveal()
    cipher_size = len(data) - MAC_KEY_SIZE
    if cipher_size not in (32, CIPHER_KEY_SIZE):
        raise BadRequest(f"volume key is {len(data)} bytes, wanted 64 or 96")
    return Secret(data[:cipher_size], full_entropy=True), Secret(data[cipher_size:], full_entropy=True)


async def open_integrity(below: BlockDevice, key: Secret, *, block_size: int, read_only: bool) -> Integrity:
    """Check superblock and journal of a segment, replay what a crash left, and serve its plaintext.

    Raises:
        MalformedHeader, UnsupportedFeature: the superblock or the journal is not what it must be.
        BadRequest: the store takes only larger blocks than the volume has.
    """
    if block_size % below.block_size:
        raise BadRequest(f"blocks of {block_size} bytes on a store with blocks of {below.block_size}")
    head = await read(below, 0, SUPERBLOCK_SIZE)
    layout = parse_superblock(head, segment_size=below.size, block_size=block_size)
    journal = Journal(below, layout)
    found = await journal.recover()
    if read_only:
        room = len(found.replay) * layout.section_entries
    else:
        room = min(journal.capacity, _GATHER_BYTES // block_size)
    layer = Integrity(below, layout, key, journal, room=room, read_only=read_only)
    if read_only:
        for number in found.replay:
            for entry in await journal.entries(number):
                layer.adopt(entry.sector // layout.per_block, entry.data, entry.tag)
    else:
        await journal.replay(found)
    return layer


def _tampered(layout: Layout, block: int) -> Tampered:
    at = layout.data_offset(block)
    return Tampered(
        f"image: block {block} of the volume (byte {at} of the segment) does not match its tag",
        hint="the image was changed or damaged; copy what can be read, and restore the rest",
    )
