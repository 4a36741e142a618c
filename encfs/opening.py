"""From an image and a passphrase to an unlocked volume.

The header is read once into memory and checked; only that copy is used. Costly key derivation runs here, in
the caller's process, so that a driver's memory stays small.

Kind: composition
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Generic, TypeVar

import trio

from encfs.anchoring import AnchorStore, begin
from encfs.blobs import BlobAccess, open_access
from encfs.block.file import FileDevice, open_file
from encfs.errors import EncfsError, ImageError, TruncatedImage, UsageError
from encfs.keys import Secret
from encfs.luks2.kdf import KdfLimits
from encfs.luks2.unlock import Header, Unlocked, read_header, unlock
from encfs.protection import Protection, check_protection, level_of
from encfs.session import Volume
from encfs.verity.verified import Verified, sealed_size
from encfs.volume import SegmentGeometry, VerityOrder

if TYPE_CHECKING:
    from encfs.block.blob import BlobDevice

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class UnlockOptions:
    """How to unlock.

    Attributes:
        header: file of a detached header; None when it lies in the image.
        limits: what key derivation may cost; None for the defaults.
        keyslot: try only this one.
        require_authenticated: refuse a header without MAC.
        accept_changed_header: unlock although the MAC is wrong; only to sign the header anew.
        root_hash: of the hash tree, 32 bytes; every block is verified, and the image is read-only.
        require: the least protection against changes that the image must have.
        anchor: what tells an older image from the last one; None for nothing.
        accept_rollback: open an image that is older than its anchor, once.
    """

    header: Path | None = None
    limits: KdfLimits | None = None
    keyslot: int | None = None
    require_authenticated: bool = False
    accept_changed_header: bool = False
    root_hash: bytes | None = None
    require: Protection | None = None
    anchor: AnchorStore | None = None
    accept_rollback: bool = False


S = TypeVar("S", FileDevice, "BlobDevice")


@dataclass(frozen=True, slots=True)
class Image(Generic[S]):
    """An open image with its checked header; `header_source` is where the header and keyslots lie.

    `place` is its path or address; `verified` reads it through its hash tree, None without one.
    """

    place: Path | BlobAccess
    source: S
    header_source: S | FileDevice
    header: Header
    verified: Verified | None = None

    async def aclose(self) -> None:
        """Close both."""
        self.close_header()
        await self.source.aclose()

    def close_header(self) -> None:
        """Close the file of a detached header."""
        if isinstance(self.header_source, FileDevice) and self.header_source is not self.source:
            self.header_source.close()

    def unlock(self, passphrase: Secret, options: UnlockOptions) -> Unlocked:
        """Prove a passphrase; blocks for as long as key derivation takes.

        Raises:
            WrongKey: no keyslot opens with it.
            ImageError: the header is refused.
        """
        with naming(self.place):
            return unlock(
                self.header,
                passphrase,
                (self.verified or self.header_source).read_exactly,
                limits=options.limits,
                keyslot=options.keyslot,
                require_authenticated=options.require_authenticated,
                accept_changed_header=options.accept_changed_header,
            )


def open_image(
    path: Path,
    options: UnlockOptions | None = None,
    *,
    read_only: bool,
    lock: bool = True,
    direct: bool = True,
    sealed: bool = False,
) -> Image[FileDevice]:
    """Open a local image, read its header once and check it.

    Args:
        path: the image.
        options: say where the header is.
        read_only: for reading only, and with a shared lock.
        lock: refuse an image that is in use.
        direct: open for O_DIRECT; not for editing headers.
        sealed: open for writing even what a hash tree seals.

    Raises:
        ImageError: what is wrong with the image.
    """
    header_path = options.header if options is not None else None
    with contextlib.ExitStack() as stack:
        source = open_file(path, read_only=read_only, lock=lock, direct=direct)
        stack.callback(source.close)
        header_source = source
        if header_path is not None:
            header_source = open_file(header_path, read_only=read_only, lock=lock, direct=direct)
            stack.callback(header_source.close)
        with naming(path if header_path is None else header_path):
            if header_source.size == 0:
                raise TruncatedImage("image: empty", hint="restore it from a copy, or make one: encfs create")
            verified = _verified(source, options, read_only=read_only or sealed)
            data_size = None if header_path is None else source.size
            reader = verified or header_source
            header = read_header(reader.read_exactly, reader.size, data_size=data_size)
            _check_level(header, verified, options)
        stack.pop_all()
    return Image(path, source, header_source, header, verified)


async def open_place(
    place: Path | BlobAccess, options: UnlockOptions, *, read_only: bool, lock: bool = True
) -> Image[FileDevice] | Image[BlobDevice]:
    """Open a local image or a blob; see `open_image`. A blob is locked by its lease, when it is written.

    Raises:
        ImageError, StoreError: what is wrong with the image, or with the way to it.
    """
    if isinstance(place, Path):
        return open_image(place, options, read_only=read_only, lock=lock)
    source = await open_access(place, read_only=read_only)
    try:
        # In a thread: the format code reads when it likes, and the blob is read on our event loop meanwhile.
        return await trio.to_thread.run_sync(_read_blob_header, place, source, options)
    except BaseException:
        with trio.CancelScope(shield=True):
            await source.aclose()
        raise


def _read_blob_header(access: BlobAccess, source: BlobDevice, options: UnlockOptions) -> Image[BlobDevice]:
    if options.header is None:
        with naming(access):
            verified = _verified(source, options, read_only=source.read_only)
            reader = verified or source
            header = read_header(reader.read_exactly, reader.size)
            _check_level(header, verified, options)
            return Image(access, source, source, header, verified)
    header_source = open_file(options.header, read_only=True, lock=False)
    try:
        with naming(options.header):
            header = read_header(header_source.read_exactly, header_source.size, data_size=source.size)
            _check_level(header, None, options)
    except BaseException:
        header_source.close()
        raise
    return Image(access, source, header_source, header)


def _verified(
    source: FileDevice | BlobDevice, options: UnlockOptions | None, *, read_only: bool
) -> Verified | None:
    """A reader through the hash tree, when its root hash is given.

    Raises:
        UsageError: the options ask for something the tree cannot protect.
        ImageError: the image has no such tree.
    """
    if options is None or options.root_hash is None:
        if not read_only and sealed_size(source.read_exactly, source.size) is not None:
            raise ImageError(
                "image: sealed by a hash tree, which any write would break",
                hint="mount it with --root-hash or --read-only; to change it, copy its files to a new image",
            )
        return None
    if options.header is not None:
        raise UsageError("a root hash with a detached header: the header would not be verified")
    if not read_only:
        raise UsageError("a root hash with a writable image", hint="add --read-only")
    return Verified(source.read_exactly, source.size, options.root_hash)


def _check_level(header: Header, verified: Verified | None, options: UnlockOptions | None) -> None:
    if options is None:
        return
    if verified is not None and options.anchor is not None:
        raise UsageError("an anchor with a root hash", hint="a root hash alone tells every older image")
    integrity = header.segment.integrity
    seen = level_of(integrity=integrity, anchored=options.anchor is not None, verified=verified is not None)
    check_protection(options.require, seen)


async def check_before_key(place: Path | BlobAccess, options: UnlockOptions) -> None:
    """Refuse an image below the level required before its key is asked for; looks at nothing otherwise.

    Raises:
        ProtectionTooWeak: it is below.
        ImageError, StoreError: what else is wrong with the image, or with the way to it.
    """
    if options.require is not None:
        image = await open_place(place, options, read_only=True, lock=False)
        await image.aclose()


async def open_volume(
    place: Path | BlobAccess, passphrase: Secret, *, read_only: bool, options: UnlockOptions | None = None
) -> Volume:
    """Open, lock and unlock an image.

    Raises:
        ImageError, StoreError: what is wrong with the image, or with the way to it.
        WrongKey: no keyslot opens with this passphrase.
    """
    options = options or UnlockOptions()
    image = await open_place(place, options, read_only=read_only or options.root_hash is not None)
    try:
        warn(image)
        unlocked = await trio.to_thread.run_sync(image.unlock, passphrase, options)
        volume = volume_of(image, unlocked)
        if options.anchor is None:
            return volume
        with naming(place):
            anchoring = await begin(
                image.source,
                volume.name,
                image.header,
                unlocked,
                volume.segment,
                options.anchor,
                accept_rollback=options.accept_rollback,
            )
        return replace(volume, anchoring=anchoring)
    except BaseException:
        with trio.CancelScope(shield=True):
            await image.source.aclose()
        raise
    finally:
        image.close_header()


def volume_of(image: Image[FileDevice] | Image[BlobDevice], unlocked: Unlocked) -> Volume:
    """What a session serves; takes over the image's data file or blob."""
    segment = unlocked.segment
    geometry = SegmentGeometry(
        segment.offset, segment.size, segment.sector_size, segment.iv_tweak, segment.integrity
    )
    source = image.source
    access = image.place if isinstance(image.place, BlobAccess) else None
    verified = image.verified
    verity = None
    if verified is not None:
        verity = VerityOrder(verified.root.hex(), verified.salt.hex(), verified.size)
    return Volume(
        source,
        str(image.place),
        geometry,
        unlocked.volume_key,
        source.read_only,
        access=access,
        verity=verity,
    )


async def find_seal(image: Image[FileDevice] | Image[BlobDevice]) -> int | None:
    """Bytes of the image that a hash tree seals, None without one; proves nothing."""
    source = image.source
    return await trio.to_thread.run_sync(sealed_size, source.read_exactly, source.size)


def warn(image: Image[FileDevice] | Image[BlobDevice]) -> None:
    """Log what is not as it should be, though the image opens."""
    for warning in image.header.warnings:
        log.warning("image %s: %s", image.place, warning)


@contextlib.contextmanager
def naming(place: Path | BlobAccess) -> Iterator[None]:
    """Say in an error which image it is about; the format code below knows only bytes."""
    try:
        yield
    except EncfsError as exc:
        if not str(exc).startswith("image ") or isinstance(place, Path):
            exc.args = (f"image {place}: {str(exc).removeprefix('image: ')}",)
        raise
