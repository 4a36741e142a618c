"""Seals an image: a dm-verity hash tree goes behind it, and its root hash says what every block of it is.

Works on the ciphertext and needs no key. Killed half-way, the image is as good as before, only longer.

Kind: composition
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import trio

from encfs.errors import ImageError, StoreError
from encfs.opening import naming, open_image
from encfs.progress import progress
from encfs.verity.build import Builder
from encfs.verity.format import BLOCK, Geometry, Superblock, build_superblock
from encfs.verity.verified import sealed_size

_CHUNK = 4 << 20


@dataclass(frozen=True, slots=True)
class Sealed:
    """What was made: `root_hash` in hex, sizes in bytes of the image and of the whole file. All public."""

    path: Path
    root_hash: str
    data_size: int
    size: int


async def seal_image(path: Path, *, force: bool, show: bool) -> Sealed:
    """Seal an image that nobody has open.

    Args:
        path: a local LUKS2 image.
        force: replace the tree of an image that is sealed already.
        show: progress on a terminal.

    Raises:
        ImageError: it is no LUKS2 image, in use, sealed already, or of a size no tree fits.
        StoreError: reading or writing failed.
    """
    image = open_image(path, read_only=False, direct=False, sealed=True)
    try:
        with naming(path):
            fd = image.source.fd
            if image.header.segment.integrity:
                raise ImageError(
                    "image: has integrity, and must not change its length",
                    hint="seal an image made without --integrity: a hash tree protects more",
                )
            size = _unsealed_size(fd, force=force)
            done = [0]
            async with progress(f"sealing {path.name}", lambda: done[0], size, show=show):
                root = await trio.to_thread.run_sync(
                    lambda: seal(fd, size, random=os.urandom, tick=lambda count: done.__setitem__(0, count))
                )
    finally:
        image.source.close()
    return Sealed(path, root.hex(), size, Geometry.of(size // BLOCK).file_size)


def seal(
    fd: int, size: int, *, random: Callable[[int], bytes], tick: Callable[[int], None] = lambda _: None
) -> bytes:
    """Write superblock and tree behind the first `size` bytes, durably; blocks. Gives the 32-byte root hash.

    Args:
        fd: the image, open for reading and writing, without O_DIRECT.
        size: bytes of the image, a multiple of 4096.
        random: salt and UUID come from it.
        tick: told how many bytes are hashed.

    Raises:
        StoreError: reading or writing failed.
    """
    geometry = Geometry.of(size // BLOCK)
    salt, uuid = random(32), random(16)
    builder = Builder(geometry, salt)
    try:
        os.ftruncate(fd, geometry.file_size)
        for start in range(0, size, _CHUNK):
            data = os.pread(fd, min(_CHUNK, size - start), start)
            if len(data) != min(_CHUNK, size - start):
                raise StoreError(f"image: ends at {start + len(data)} while it was read, wanted {size} bytes")
            _write(fd, builder.add(data))
            tick(start)
        _write(fd, builder.finish())
        os.fsync(fd)
        superblock = build_superblock(Superblock(geometry.data_blocks, salt, uuid))
        _write(fd, iter([(geometry.data_size, superblock)]))  # last: until now the file was not sealed
        os.fsync(fd)
    except OSError as exc:
        raise StoreError(f"image: sealing failed: {exc.strerror}") from exc
    return builder.root


def _write(fd: int, parts: Iterator[tuple[int, bytes]]) -> None:
    for offset, part in parts:
        view, done = memoryview(part), 0
        while done < len(view):
            done += os.pwrite(fd, view[done:], offset + done)


def _unsealed_size(fd: int, *, force: bool) -> int:
    """Bytes of the image without the tree it may have.

    Raises:
        ImageError: it has one and `force` is not given, or its size fits no tree.
    """
    size = os.fstat(fd).st_size
    inner = sealed_size(lambda offset, length: os.pread(fd, length, offset), size)
    if inner is not None and not force:
        raise ImageError(
            "image: sealed already", hint="--force replaces its tree, and gives another root hash"
        )
    if inner is not None:
        return inner
    if size % BLOCK:
        raise ImageError(f"image: {size} bytes long, wanted a multiple of {BLOCK}")
    return size
