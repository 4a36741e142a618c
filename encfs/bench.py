"""`encfs bench`: how fast an image is, on this machine, through our driver.

An image of the user's is read only; with `write`, its file system is mounted and a scratch file without a
name is written in it, so nothing else in it can be touched. Without an image, a temporary one is made, and
as nobody needs its content, the plaintext device itself is read and written.

Kind: composition
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import trio

from encfs import cipher
from encfs.benchreport import Report, parse_measures
from encfs.create import CreateOptions, create_image
from encfs.errors import FileSystemError, StoreError, UsageError
from encfs.exposing import exposed, serving
from encfs.filesystem import KernelFileSystem
from encfs.keys import Secret
from encfs.opening import UnlockOptions, open_volume
from encfs.session import Volume

if TYPE_CHECKING:
    from encfs.blobs import BlobAccess

_MAX_OUTPUT = 64 << 10
_HEADER_BYTES = 16 << 20
# Of a file system's free space; a benchmark should not be what fills it.
_SHARE = 0.5
_SMALLEST = 4 << 20


@dataclass(frozen=True, slots=True)
class BenchOptions:
    """How to measure.

    Attributes:
        seconds: of each workload that runs for a time.
        size: bytes written, read in order, and read at random.
        mounted: measure a scratch file in the mounted file system, which needs root.
        write: measure writes too.
    """

    seconds: float = 2
    size: int = 128 << 20
    mounted: bool = False
    write: bool = False


async def bench_image(
    place: Path | BlobAccess, passphrase: Secret, options: BenchOptions, unlock: UnlockOptions
) -> Report:
    """Measure an image; reads only, unless the options ask for writes.

    Raises:
        ImageError, WrongKey, StoreError: as for a mount.
        FileSystemError: no room for a scratch file.
    """
    if options.write and not options.mounted:
        raise UsageError("writes to the device of an image would destroy its file system")
    volume = await open_volume(place, passphrase, read_only=not options.write, options=unlock)
    return await _bench(volume, options)


async def bench_temporary(folder: Path, options: BenchOptions) -> Report:
    """Make an image in `folder`, measure it, remove it.

    Raises:
        UsageError: no such folder.
        ImageError: the image cannot be made there.
    """
    if not folder.is_dir():
        raise UsageError(f"folder {folder}: no such directory")
    passphrase = Secret(os.urandom(32))
    size = options.size * (2 if options.mounted else 1) + _HEADER_BYTES + (16 << 20)
    with tempfile.TemporaryDirectory(prefix="encfs-bench-", dir=folder) as directory:
        image = Path(directory) / "image"
        await create_image(image, passphrase, CreateOptions(size=size, source=None))
        volume = await open_volume(image, passphrase, read_only=False)
        report = await _bench(volume, options)
    return replace(report, image=f"temporary image in {folder}")


async def _bench(volume: Volume, options: BenchOptions) -> Report:
    if options.mounted:
        async with _mounted(volume) as folder:
            size = await trio.to_thread.run_sync(_scratch_size, folder, options.size)
            output = await _run_workloads(volume, folder, size, options)
    else:
        async with exposed(volume) as data:
            output = await _run_workloads(volume, data, options.size, options)
    return Report(
        image=volume.name,
        size=volume.segment.size,
        sector_size=volume.segment.sector_size,
        engine=cipher.ENGINE,
        through="file system" if options.mounted else "driver",
        measures=parse_measures(output),
    )


@asynccontextmanager
async def _mounted(volume: Volume) -> AsyncIterator[Path]:
    """The volume's file system, mounted where nobody else looks, for as long as a block of code runs."""
    async with serving(volume) as session:
        mount_point = session.device_directory.parent / "mnt"
        mount_point.mkdir(mode=0o700)
        file_system = KernelFileSystem(sector_size=volume.segment.sector_size, read_only=volume.read_only)
        await session.mount(file_system, mount_point)
        yield mount_point


def _scratch_size(folder: Path, wanted: int) -> int:
    """As much as was asked for, if that leaves half of the free space."""
    free = os.statvfs(folder)
    size = min(wanted, int(free.f_bavail * free.f_frsize * _SHARE))
    size -= size % (1 << 20)
    if size < _SMALLEST:
        raise FileSystemError(
            f"file system: room for {size >> 20} MiB of scratch file, wanted {_SMALLEST >> 20} at least",
            hint="measure without --write, or make room in it",
        )
    return size


async def _run_workloads(volume: Volume, target: Path, size: int, options: BenchOptions) -> str:
    """Run the workload process; what it printed."""
    mode = "WRITE" if options.write else "READ"
    words = [sys.executable, "-P", "-m", "encfs.benchwork", target, f"{options.seconds}", f"{size}", mode]
    done = await trio.run_process(
        [str(word) for word in words],
        capture_stdout=True,
        capture_stderr=True,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    if done.returncode != 0:
        reason = done.stderr.decode(errors="replace").strip().splitlines()
        raise StoreError(
            f"image {volume.name}: measuring failed: {reason[-1] if reason else done.returncode}",
            hint="the log lines above say what the driver saw",
        )
    return done.stdout[:_MAX_OUTPUT].decode()
