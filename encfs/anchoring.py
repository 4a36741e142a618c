"""Anchors a volume: held against its anchor when opened, anchored again when mounted and unmounted.

Kind: composition
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import os
from pathlib import Path
from typing import Protocol

import trio

from encfs.anchor import MAX_TEXT, Anchor, Seen, State, build_anchor, judge, parse_anchor
from encfs.block.device import BlockDevice, read
from encfs.block.file import FileDevice, adopt_file
from encfs.errors import EncfsError, HeaderNotAuthentic, RolledBack, UsageError
from encfs.integrity.layout import SUPERBLOCK_SIZE, TAG_SIZE, parse_superblock
from encfs.keys import Secret
from encfs.luks2 import keyslots_edit
from encfs.luks2.token import header_generation
from encfs.luks2.unlock import Header, Unlocked
from encfs.volume import SegmentGeometry

log = logging.getLogger(__name__)

_PURPOSE = b"attested-volumes commitment v1"
_READ = 1 << 20
_AT_ONCE = 16


class AnchorStore(Protocol):
    """Where an anchor is kept: anywhere but in the volume's own store."""

    async def read(self, volume: str) -> str | None:
        """The anchor's text, None when there is none yet; `volume` is its UUID."""
        ...

    async def write(self, volume: str, text: str) -> None:
        """Keep another, durably."""
        ...


class FileAnchor:
    """An anchor in a local file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    async def read(self, volume: str) -> str | None:
        try:
            with self.path.open("rb") as file:
                return file.read(4 * MAX_TEXT).decode("ascii", "replace")
        except FileNotFoundError:
            return None
        except OSError as exc:
            raise UsageError(f"anchor {self.path}: {exc.strerror}") from exc

    async def write(self, volume: str, text: str) -> None:
        partial = self.path.with_name(self.path.name + ".partial")
        try:
            with partial.open("w") as file:
                file.write(text + "\n")
                file.flush()
                os.fsync(file.fileno())
            partial.replace(self.path)
            folder = os.open(self.path.parent, os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
        except OSError as exc:
            raise UsageError(f"anchor {self.path}: {exc.strerror}") from exc


class Anchoring:
    """One open volume with its anchor; made by `begin`."""

    def __init__(
        self, store: AnchorStore, name: str, anchor: Anchor, key: Secret, segment: SegmentGeometry
    ) -> None:
        self._store = store
        self._name = name
        self._anchor = anchor
        self._key = key
        self._segment = segment

    async def end(self, source: BlockDevice) -> None:
        """The volume was unmounted, and everything is in `source`; a failure costs the anchor only."""
        try:
            commitment = await commit(source, self._segment, self._key)
            anchor = self._anchor
            closed = Anchor(anchor.volume, anchor.generation, State.CLOSED, commitment)
            await self._store.write(anchor.volume, build_anchor(closed))
        except EncfsError as exc:
            log.error(
                "%s: not anchored, the next mount will take it for one after a crash: %s", self._name, exc
            )


async def begin(
    source: BlockDevice,
    name: str,
    header: Header,
    unlocked: Unlocked,
    segment: SegmentGeometry,
    store: AnchorStore,
    *,
    accept_rollback: bool,
) -> Anchoring | None:
    """Hold an unlocked volume against its anchor; one for writing gets a new generation, anchored open.

    Args:
        source: the image, open and locked or leased.
        name: for messages.
        header: its checked header.
        unlocked: the key proved.
        segment: where the data lies.
        store: of the anchor.
        accept_rollback: take an image that is older than its anchor, and say so.

    Returns:
        What anchors it at the end, None for a volume that is only read.

    Raises:
        RolledBack: it is older than its anchor.
        HeaderNotAuthentic: its header has no MAC, so nobody could tell.
    """
    if not unlocked.authenticated or header.detached:
        raise HeaderNotAuthentic(
            "image: an anchor needs a header with a MAC, in the image",
            hint="give it one: encfs key authenticate",
        )
    generation = header_generation(header.metadata) or 0
    commitment = await commit(source, segment, unlocked.volume_key)
    seen = Seen(header.binary.uuid, generation, commitment)
    text = await store.read(seen.volume)
    if text is None:
        log.warning("image %s: anchored for the first time, nothing to hold it against", name)
    else:
        _judge(name, text, seen, accept_rollback=accept_rollback)
    if source.read_only:
        return None
    # A rollback that is accepted gets a generation above its anchor's, and is so the newest from now on.
    above = parse_anchor(text).generation if text is not None and accept_rollback else 0
    edit = keyslots_edit.authenticate_header(header, unlocked, above=above)
    for write in edit.writes:
        await _write_durably(source, write.offset, write.data)
    anchor = Anchor(seen.volume, header_generation(edit.header.metadata) or 0, State.OPEN, commitment)
    await store.write(anchor.volume, build_anchor(anchor))
    return Anchoring(store, name, anchor, unlocked.volume_key, segment)


def _judge(name: str, text: str, seen: Seen, *, accept_rollback: bool) -> None:
    try:
        if said := judge(parse_anchor(text), seen):
            log.warning("image %s: %s", name, said)
    except RolledBack as exc:
        if not accept_rollback:
            raise
        log.warning("image %s: accepted although older than its anchor: %s", name, exc)


async def commit(source: BlockDevice, segment: SegmentGeometry, volume_key: Secret) -> bytes:
    """A commitment to the data of a volume that nobody writes, 32 bytes, public.

    With integrity it covers superblock, journal and every tag, and so every sector. Without, there is nothing
    but the sectors themselves to go by: it says nothing then, and only generations are compared.
    """
    key = hmac.digest(volume_key.reveal(), _PURPOSE, "sha256")
    whole = hmac.new(key, digestmod=hashlib.sha256)
    if segment.integrity:
        head = await read(source, segment.offset, SUPERBLOCK_SIZE)
        layout = parse_superblock(head, segment_size=segment.size, block_size=segment.sector_size)
        ranges = [
            (start, min(_READ, layout.first_area - start)) for start in range(0, layout.first_area, _READ)
        ]
        for first in range(0, layout.blocks, layout.area_blocks):
            tags = min(layout.area_blocks, layout.blocks - first) * TAG_SIZE
            ranges.append((layout.tag_offset(first), -(-tags // 4096) * 4096))
        for start in range(0, len(ranges), _AT_ONCE):
            for part in await _read_many(source, segment.offset, ranges[start : start + _AT_ONCE]):
                whole.update(part)
    return whole.digest()


async def _read_many(source: BlockDevice, base: int, ranges: list[tuple[int, int]]) -> list[bytes]:
    found = [b""] * len(ranges)

    async def one(index: int) -> None:
        found[index] = await read(source, base + ranges[index][0], ranges[index][1])

    async with trio.open_nursery() as nursery:
        for index in range(len(ranges)):
            nursery.start_soon(one, index)
    return found


async def _write_durably(source: BlockDevice, offset: int, data: bytes) -> None:
    """Header writes; an image file opened for direct I/O takes them through a descriptor without it."""
    if not isinstance(source, FileDevice):
        await source.write(offset, data)
        await source.flush()
        return
    again = os.open(f"/proc/self/fd/{source.fd}", os.O_RDWR | os.O_CLOEXEC)
    plain = adopt_file(again, Path("image"), read_only=False, lock=False, direct=False)
    try:
        await trio.to_thread.run_sync(plain.write_durably, offset, data)
    finally:
        plain.close()
