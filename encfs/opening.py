"""From an image and a passphrase to an unlocked volume.

The header is read once into memory and checked; only that copy is used. Costly key derivation runs here, in
the caller's process, so that a driver's memory stays small.

Kind: composition
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path

import trio

from encfs.block.file import FileDevice, open_file
from encfs.errors import EncfsError, TruncatedImage
from encfs.keys import Secret
from encfs.luks2.unlock import Header, read_header, unlock
from encfs.session import Volume
from encfs.volume import SegmentGeometry

log = logging.getLogger(__name__)


def inspect(path: Path) -> tuple[Header, int]:
    """Read and check the header of an image, without a key.

    Returns:
        The header, and the size of the image in bytes.

    Raises:
        ImageError: what is wrong with the image.
    """
    source = open_file(path, read_only=True, lock=False)
    try:
        with naming(path):
            return read_checked_header(source), source.size
    finally:
        source.close()


async def open_volume(path: Path, passphrase: Secret, *, read_only: bool) -> Volume:
    """Open, lock and unlock a local image.

    Raises:
        ImageError: what is wrong with the image.
        WrongKey: no keyslot opens with this passphrase.
    """
    source = open_file(path, read_only=read_only)
    try:
        return await unlock_volume(source, path, passphrase)
    except BaseException:
        source.close()
        raise


async def unlock_volume(source: FileDevice, path: Path, passphrase: Secret) -> Volume:
    """Unlock an image that is open already; the caller closes it when this raises."""
    with naming(path):
        header = read_checked_header(source)
        for warning in header.warnings:
            log.warning("image %s: %s", path, warning)
        unlocked = await trio.to_thread.run_sync(lambda: unlock(header, passphrase, source.read_exactly))
    segment = unlocked.segment
    geometry = SegmentGeometry(segment.offset, segment.size, segment.sector_size, segment.iv_tweak)
    return Volume(source, str(path), geometry, unlocked.volume_key, source.read_only)


def read_checked_header(source: FileDevice) -> Header:
    """Read the header once, and check it.

    Raises:
        ImageError: what is wrong with the image.
    """
    if source.size == 0:
        raise TruncatedImage("image: empty", hint="restore it from a copy, or make one with `encfs create`")
    return read_header(source.read_exactly, source.size)


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
    """Say in an error which image it is about; the format code below knows only bytes."""
    try:
        yield
    except EncfsError as exc:
        exc.args = (f"image {path}: {str(exc).removeprefix('image: ')}",)
        raise
