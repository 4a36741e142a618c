"""`encfs check --deep`: every block of an image is read and verified; what is damaged is named by file.

Needs a volume that can tell: one with integrity tags, or a sealed one and its root hash. Reads through our
FUSE file, several requests at a time; what cannot be read is narrowed down to blocks of 4096 bytes, and
e2fsprogs says which inodes and names they belong to.

Interrupted, it goes on where it was when the same state file is given again.

Kind: composition
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
from dataclasses import asdict, dataclass, field
from pathlib import Path

import trio

from encfs.blobs import BlobAccess
from encfs.errors import StoreError, Tampered, UsageError
from encfs.exposing import exposed, run_tool
from encfs.keys import Secret
from encfs.opening import Image, UnlockOptions, open_place, volume_of
from encfs.progress import progress
from encfs.verity.verified import Verified

BLOCK = 4096
_CHUNK = 1 << 20
_READERS = 4
_MAX_BAD = 100_000
_MAX_STATE = 8 << 20
_NAMES_AT_ONCE = 200
_SHOWN = 20


@dataclass(frozen=True, slots=True)
class Damage:
    """What was found: `blocks` of the volume, in bytes; files by path, and inodes that have none."""

    size: int
    header: tuple[int, ...]
    blocks: tuple[int, ...]
    files: tuple[str, ...]
    unnamed: int

    @property
    def none(self) -> bool:
        """Whether every block is what was written."""
        return not (self.header or self.blocks)

    def text(self) -> str:
        """In words, with the files first."""
        if self.none:
            return f"every block verified, {self.size} bytes"
        shown = [ascii(name)[1:-1] for name in self.files[:_SHOWN]]
        more = [f"and {len(self.files) - _SHOWN} more"] if len(self.files) > _SHOWN else []
        places = [f"{len(self.blocks)} of {-(-self.size // BLOCK)} blocks are damaged"] if self.blocks else []
        places += [f"{len(self.header)} blocks of the header are"] if self.header else []
        first = f", the first at {self.blocks[0]}" if self.blocks else ""
        files = f"; files: {', '.join(shown + more)}" if shown else ""
        rest = f"; {self.unnamed} inodes without a name" if self.unnamed else ""
        return " and ".join(places) + first + files + rest


@dataclass(slots=True)
class _State:
    """How far an interrupted check is; `volume` says of which one."""

    volume: str
    done: int = 0
    bad: list[int] = field(default_factory=list)

    @classmethod
    def load(cls, path: Path | None, volume: str) -> _State:
        """From the file, or new when there is none of this volume."""
        if path is None:
            return cls(volume)
        try:
            with path.open("rb") as file:
                found = cls(**json.loads(file.read(_MAX_STATE)))
            numbers = [found.done, *found.bad]
            if found.volume == volume and all(type(n) is int and n >= 0 for n in numbers):
                return found
        except FileNotFoundError:
            pass
        except (OSError, ValueError, TypeError) as exc:
            raise UsageError(
                f"state file {path}: not one of ours", hint="remove it, or name another"
            ) from exc
        return cls(volume)

    def save(self, path: Path | None) -> None:
        if path is not None:
            partial = path.with_name(path.name + ".partial")
            partial.write_text(json.dumps(asdict(self)))
            partial.replace(path)


async def check_deep(
    place: Path | BlobAccess, passphrase: Secret, options: UnlockOptions, *, state: Path | None, show: bool
) -> Damage:
    """Read and verify everything.

    Args:
        place: the image.
        passphrase: secret.
        options: how to unlock; with a root hash the hash tree is what is held against.
        state: file that an interrupted check goes on from; removed at the end.
        show: progress on a terminal.

    Raises:
        UsageError: the volume has neither tags nor, with a root hash, a tree.
        ImageError, WrongKey: it does not open.
    """
    image = await open_place(place, options, read_only=True)
    try:
        if image.verified is None and not image.header.segment.integrity:
            raise UsageError(
                f"image {place}: has nothing to be verified against",
                hint="--deep is for images with --integrity, or sealed ones with their --root-hash",
            )
        unlocked = await trio.to_thread.run_sync(image.unlock, passphrase, options)
        header = await trio.to_thread.run_sync(_check_header, image)
    except BaseException:
        with trio.CancelScope(shield=True):
            await image.source.aclose()
        raise
    finally:
        image.close_header()
    root = image.verified.root.hex() if image.verified is not None else ""
    volume = f"{image.header.binary.uuid} {root}"
    async with exposed(volume_of(image, unlocked)) as data:
        size = data.stat().st_size
        at = await trio.to_thread.run_sync(_State.load, state, volume)
        async with progress(f"checking {place}", lambda: at.done, size, show=show):
            await _read_all(data, size, at, state)
        files, unnamed = await _names(data, at.bad)
    if state is not None:
        state.unlink(missing_ok=True)
    return Damage(size, header, tuple(sorted(at.bad)), files, unnamed)


def _check_header(image: Image) -> tuple[int, ...]:  # type: ignore[type-arg]
    """Bytes of blocks before the data that the hash tree says were changed."""
    if image.verified is None:
        return ()
    end = image.header.segment.offset
    bad: list[int] = []
    for start in range(0, end, _CHUNK):
        length = min(_CHUNK, end - start)
        if _is_whole(image.verified, start, length):
            continue
        blocks = range(start, start + length, BLOCK)
        bad += [offset for offset in blocks if not _is_whole(image.verified, offset, BLOCK)]
    return tuple(bad)


def _is_whole(verified: Verified, offset: int, length: int) -> bool:
    try:
        verified.read_exactly(offset, length)
    except Tampered:
        return False
    return True


async def _read_all(data: Path, size: int, at: _State, state: Path | None) -> None:
    """Read from where `at` is to the end, in rounds of several requests; `at` is true after each round."""
    fd = os.open(data, os.O_RDONLY | os.O_CLOEXEC)
    try:
        while at.done < size:
            starts = range(at.done, min(size, at.done + _READERS * _CHUNK), _CHUNK)
            found: list[int] = []
            async with trio.open_nursery() as nursery:
                for start in starts:
                    nursery.start_soon(_read_chunk, fd, start, min(_CHUNK, size - start), found)
            at.bad.extend(found)
            at.done = min(size, starts[-1] + _CHUNK)
            if len(at.bad) > _MAX_BAD:
                raise StoreError(
                    f"over {_MAX_BAD} damaged blocks in the first {at.done} bytes: this is another image"
                )
            await trio.to_thread.run_sync(at.save, state)
            os.posix_fadvise(fd, starts[0], at.done - starts[0], os.POSIX_FADV_DONTNEED)
    finally:
        os.close(fd)


async def _read_chunk(fd: int, start: int, length: int, bad: list[int]) -> None:
    await trio.to_thread.run_sync(_narrow, fd, start, length, bad)


def _narrow(fd: int, start: int, length: int, bad: list[int]) -> None:
    """Read a range; where that fails, block by block."""
    with contextlib.suppress(OSError):
        if len(os.pread(fd, length, start)) == length:
            return
    for offset in range(start, start + length, BLOCK):
        try:
            os.pread(fd, min(BLOCK, start + length - offset), offset)
        except OSError as exc:
            if exc.errno != errno.EIO:
                raise StoreError(f"volume: reading at {offset} failed: {exc.strerror}") from exc
            bad.append(offset)


async def _names(data: Path, bad: list[int]) -> tuple[tuple[str, ...], int]:
    """Paths of the files that have damaged blocks, and how many inodes have no path."""
    inodes: set[int] = set()
    blocks = sorted({offset // BLOCK for offset in bad})
    for start in range(0, len(blocks), _NAMES_AT_ONCE):
        words = " ".join(map(str, blocks[start : start + _NAMES_AT_ONCE]))
        _, said = await run_tool("debugfs", "-R", f"icheck {words}", str(data))
        inodes.update(int(number) for number in re.findall(r"^\d+\t(\d+)$", said, re.MULTILINE))
    files: dict[int, str] = {}
    numbers = sorted(inodes)
    for start in range(0, len(numbers), _NAMES_AT_ONCE):
        words = " ".join(map(str, numbers[start : start + _NAMES_AT_ONCE]))
        _, said = await run_tool("debugfs", "-R", f"ncheck {words}", str(data))
        for number, name in re.findall(r"^(\d+)\t(.*)$", said, re.MULTILINE):
            files.setdefault(int(number), name)
    return tuple(sorted(files.values())), len(inodes - files.keys())
