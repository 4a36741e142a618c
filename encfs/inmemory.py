"""The plaintext of a volume as a file in memory, for as long as a block of code runs: no FUSE, no privileges.

For containers that may nothing at all: `encfs extract --in-memory`. Costs as much memory as the volume is
large, less what is zero in it. The file has no name in any file system.

Kind: composition
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import trio

from encfs.block.buffers import BufferPool
from encfs.block.device import BlockDevice
from encfs.block.file import FileDevice
from encfs.block.verity import Verity
from encfs.errors import FileSystemError
from encfs.session import Volume
from encfs.stack import build_stack
from encfs.verity.format import BLOCK, Geometry
from encfs.verity.tree import Tree

_CHUNK = 1 << 20
_PARALLEL = 4
_STORE_DEADLINE = 120.0


@asynccontextmanager
async def in_memory(volume: Volume) -> AsyncIterator[Path]:
    """Decrypt a volume into memory; leaving frees it and closes the image.

    Yields:
        Path by which this process and its children open the plaintext.

    Raises:
        FileSystemError: the memory is not there.
        StoreError, IntegrityError: reading failed.
    """
    pool = BufferPool(2 * _PARALLEL + 2, _CHUNK)
    fd = os.memfd_create("plaintext", os.MFD_CLOEXEC)
    device: BlockDevice = volume.source
    try:
        device = await build_stack(_source(volume), volume.segment, volume.volume_key, pool, read_only=True)
        await _copy(device, fd)
        yield Path(f"/proc/{os.getpid()}/fd/{fd}")
    finally:
        os.close(fd)
        with trio.CancelScope(shield=True):
            await device.aclose()


def _source(volume: Volume) -> BlockDevice:
    """The image: repeated where it is a blob, verified where a hash tree is asked for."""
    source: BlockDevice = volume.source
    if not isinstance(volume.source, FileDevice):
        from encfs.block.retry import Retry

        source = Retry(volume.source, deadline=_STORE_DEADLINE)
    if volume.verity is None:
        return source
    tree = Tree(
        Geometry.of(volume.verity.size // BLOCK),
        salt=bytes.fromhex(volume.verity.salt),
        root=bytes.fromhex(volume.verity.root),
    )
    return Verity(source, tree)


async def _copy(device: BlockDevice, fd: int) -> None:
    """All of a device, a few requests at a time; zeros become holes."""
    os.ftruncate(fd, device.size)
    offsets = iter(range(0, device.size, _CHUNK))

    async def copy() -> None:
        buffer = memoryview(bytearray(_CHUNK))
        for offset in offsets:
            part = buffer[: min(_CHUNK, device.size - offset)]
            await device.read_into(offset, part)
            if bytes(part) != bytes(len(part)):
                _write(fd, part, offset)

    try:
        async with trio.open_nursery() as nursery:
            for _ in range(_PARALLEL):
                nursery.start_soon(copy)
    except BaseExceptionGroup as group:
        raise group.exceptions[0] from None


def _write(fd: int, data: memoryview, offset: int) -> None:
    try:
        while len(data):
            done = os.pwrite(fd, data, offset)
            data, offset = data[done:], offset + done
    except OSError as exc:
        raise FileSystemError(
            f"plaintext in memory: {exc.strerror}", hint="give more memory, or /dev/fuse and no --in-memory"
        ) from exc
