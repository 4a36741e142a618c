"""Makes an encrypted image with a file system in it, without device-mapper and without root.

The file system is made by mke2fs on our own FUSE file, so its plaintext exists in memory only. The image
grows under a temporary name beside the final one and gets that name in one step, when it is durable.

Kind: composition
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import os
import re
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

import trio

from encfs.block.file import adopt_file
from encfs.block.integrity import split_key
from encfs.block.window import Window
from encfs.content import Entry, allocated, digest, newest, scan
from encfs.errors import FileSystemError, ImageError, UsageError
from encfs.exposing import exposed, run_tool, tool_environment, why_full
from encfs.integrity.format import format_segment
from encfs.integrity.layout import new_layout
from encfs.keys import Secret, offered_fingerprint
from encfs.luks2.create import FormattedHeader, SeededRandom, format_header, new_volume_key
from encfs.luks2.metadata import INTEGRITY_KEY_SIZE
from encfs.luks2.token import KeyToken
from encfs.partial import partial_file, publish
from encfs.populate import populate
from encfs.progress import in_units, progress
from encfs.sealing import seal
from encfs.session import Volume
from encfs.volume import SegmentGeometry

_MIN_SIZE = 20 << 20
_MAX_SIZE = 64 << 40
_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
# mke2fs: metadata, journal and slack on top of the files themselves, found by trying small and large trees.
_HEADER_BYTES = 16 << 20
_OVERHEAD_FIXED = 12 << 20
_OVERHEAD_PER_INODE = 512
_OVERHEAD_SHARE = 0.05
# What mke2fs 1.47 makes by default; written down because an image must not depend on a machine's settings.
_FEATURES = (
    "none,has_journal,ext_attr,resize_inode,dir_index,filetype,extent,64bit,flex_bg,sparse_super,large_file,"
    "huge_file,dir_nlink,extra_isize,metadata_csum"
)


@dataclass(frozen=True, slots=True)
class CreateOptions:
    """What the new image is to be.

    Attributes:
        size: bytes of the whole image, header included; None means as large as its content needs.
        source: folder whose content goes into it; None makes an empty file system.
        sector_size: LUKS2 sector size in bytes.
        pbkdf: `pbkdf2` or `argon2id`; None chooses by the key: pbkdf2 for full entropy.
        label: LUKS2 and ext4 label; may be empty.
        kid: name of the key in its vault, kept in the header; may be empty.
        reproducible: everything random comes from the key and the content, see `_reproducible`.
        integrity: an authentication tag for every sector, as `cryptsetup luksFormat --integrity hmac-sha256`.
        verity: seal it with a hash tree; it can then be mounted read-only alone.
        force: replace an existing file.
        progress: show on a terminal how far it is.
    """

    size: int | None
    source: Path | None
    sector_size: int = 4096
    pbkdf: str | None = None
    label: str = ""
    kid: str = ""
    reproducible: bool = False
    verity: bool = False
    integrity: bool = False
    force: bool = False
    progress: bool = False


@dataclass(frozen=True, slots=True)
class Created:
    """What was made: size in bytes, LUKS2 UUID, public fingerprint of the key (None for a typed one).

    `root_hash` of the hash tree in hex, None without one; a mount must be given it from elsewhere.
    """

    path: Path
    size: int
    uuid: str
    key_check_value: str | None
    root_hash: str | None


def parse_size(text: str, *, smallest: int = _MIN_SIZE) -> int:
    """Bytes from `64M`, `1.5G`, `4096`; units are powers of 1024.

    Args:
        text: as the user wrote it.
        smallest: bytes that are still accepted; by default those of the smallest image.

    Raises:
        UsageError: not a size, or outside `smallest` to 64 TiB.
    """
    match = re.fullmatch(r"(\d{1,12}(?:\.\d{1,6})?)\s*([KMGT]?)(?:i?B)?", text.strip(), re.IGNORECASE)
    if not match:
        raise UsageError(f"size {text!r}: not a size", hint="write it like 64M, 1.5G or 4096 (bytes)")
    size = int(float(match[1]) * _UNITS[match[2].upper()])
    if not smallest <= size <= _MAX_SIZE:
        raise UsageError(f"size {text!r}: {size} bytes, wanted {smallest >> 20}M to {_MAX_SIZE >> 40}T")
    return size


async def create_image(path: Path, passphrase: Secret, options: CreateOptions) -> Created:
    """Make the image at `path`.

    Raises:
        UsageError: the folder is missing, or the options make no sense.
        ImageError: the file exists already, or cannot be written.
        FileSystemError: mke2fs failed, most often because the content does not fit.
    """
    if options.integrity and options.verity:
        raise UsageError("--integrity with --verity", hint="a hash tree alone protects a read-only image")
    if options.source is not None and not options.source.is_dir():
        raise UsageError(f"source folder {options.source}: no such directory")
    if not options.force and path.exists():
        raise ImageError(
            f"image {path}: exists already", hint="choose another name, or give --force to replace it"
        )
    plan = await trio.to_thread.run_sync(_plan, passphrase, options)
    size = options.size or _size_for(plan.blocks + len(plan.entries), len(plan.entries))
    if options.size is None and options.integrity:
        size += _integrity_room(size, options.sector_size)
    size -= size % 4096
    _check_room(path, min(plan.bytes, size))
    with partial_file(path) as (partial, fd):
        async with progress(f"creating {path.name}", lambda: _stored(fd), plan.bytes, show=options.progress):
            uuid = await _fill(fd, path, size, passphrase, options, plan)
            os.fsync(fd)
        root = None
        if options.verity:
            root = (await trio.to_thread.run_sync(lambda: seal(fd, size, random=plan.random))).hex()
        whole = os.fstat(fd).st_size
        publish(partial, path, force=options.force)
    return Created(path, whole, uuid, offered_fingerprint(passphrase), root)


@dataclass(frozen=True, slots=True)
class _Plan:
    """What goes into the image.

    Attributes:
        entries: of the folder, the folder itself first; none for an empty file system.
        blocks: of 4096 bytes, that files fill.
        random: where key, salts and UUIDs come from.
        uuids: of the file system, and seed of its directory hashes; None lets mke2fs choose.
    """

    entries: list[Entry]
    blocks: int
    random: Callable[[int], bytes]
    uuids: tuple[str, str] | None

    @property
    def bytes(self) -> int:
        """About how much will be written."""
        return self.blocks * 4096 + len(self.entries) * _OVERHEAD_PER_INODE


def _tool_version() -> str:
    """What mke2fs calls itself."""
    try:
        done = subprocess.run(
            ["mke2fs", "-V"], capture_output=True, timeout=30, check=False, env=tool_environment()
        )
    except FileNotFoundError as exc:
        raise FileSystemError("mke2fs: not found", hint="install e2fsprogs") from exc
    return done.stderr.decode(errors="replace").partition("\n")[0]


def _plan(passphrase: Secret, options: CreateOptions) -> _Plan:
    """Read the folder.

    Raises:
        UsageError: it cannot be read, or what `_reproducible` says.
    """
    if options.reproducible:
        return _reproducible(passphrase, options)
    entries = [] if options.source is None else scan(options.source)
    return _Plan(entries, allocated(entries), os.urandom, None)


def _reproducible(passphrase: Secret, options: CreateOptions) -> _Plan:
    """A plan whose randomness comes from a generator seeded by key and content.

    The seed depends on the content because two images with one volume key and different content would show,
    sector by sector, where they are the same: AES-XTS turns equal sectors at one place into equal ciphertext.
    It depends on the release of e2fsprogs for the same reason: another one may lay out files differently.

    Raises:
        UsageError: no folder, a typed passphrase, or content that cannot be in such an image.
    """
    if options.source is None:
        raise UsageError(
            "--reproducible without --from", hint="an empty image has no content to derive it from"
        )
    if not passphrase.full_entropy:
        raise UsageError(
            "--reproducible with a typed passphrase: the volume key would be as weak as it is",
            hint="use a random key: head -c 32 /dev/urandom > key.bin",
        )
    epoch = os.environ.get("SOURCE_DATE_EPOCH", "")
    clamp = int(epoch) if epoch.isascii() and epoch.isdigit() else None
    entries = scan(options.source, clamp=clamp)
    content, blocks = digest(options.source, entries)
    settings = (
        options.size,
        options.sector_size,
        options.pbkdf,
        options.label,
        options.kid,
        options.integrity,
        _tool_version(),
    )
    content += hashlib.sha256(repr(settings).encode()).digest()
    seed = Secret(hmac.digest(passphrase.reveal(), content, "sha256"), full_entropy=True)
    random = SeededRandom(seed, "reproducible image")
    first, second = (str(UUID(bytes=random(16), version=4)) for _ in range(2))
    return _Plan(entries, blocks, random, (first, second))


async def _fill(
    fd: int, path: Path, size: int, passphrase: Secret, options: CreateOptions, plan: _Plan
) -> str:
    volume_key = new_volume_key(INTEGRITY_KEY_SIZE if options.integrity else 64, random=plan.random)
    pbkdf = options.pbkdf or ("pbkdf2" if passphrase.full_entropy else "argon2id")
    formatted = await trio.to_thread.run_sync(
        lambda: format_header(
            image_size=size,
            passphrase=passphrase,
            volume_key=volume_key,
            sector_size=options.sector_size,
            pbkdf=pbkdf,
            label=options.label,
            key_token=KeyToken(kid=options.kid),
            random=plan.random,
        )
    )
    os.ftruncate(fd, size)
    for offset, part in formatted.writes:
        _write_all(fd, offset, part)
    segment = formatted.segment
    if segment.integrity:
        await _format_integrity(fd, path, formatted, volume_key)
    geometry = SegmentGeometry(
        segment.offset, segment.size, segment.sector_size, segment.iv_tweak, segment.integrity
    )
    # The driver gets a descriptor of its own; ours stays open for the last fsync, and holds the lock.
    source = adopt_file(
        os.open(f"/proc/self/fd/{fd}", os.O_RDWR | os.O_CLOEXEC), path, read_only=False, lock=False
    )
    async with exposed(Volume(source, str(path), geometry, volume_key, False)) as data:
        await _make_file_system(data, options, plan)
    return formatted.uuid


async def _format_integrity(fd: int, path: Path, formatted: FormattedHeader, volume_key: Secret) -> None:
    """Superblock, journal and tags; the segment is all zero yet."""
    own = os.open(f"/proc/self/fd/{fd}", os.O_RDWR | os.O_CLOEXEC)
    file = adopt_file(own, path, read_only=False, lock=False, direct=False)
    segment = formatted.segment
    try:
        below = Window(file, offset=segment.offset, size=segment.size)
        layout = new_layout(segment.size, device_size=file.size, block_size=segment.sector_size)
        await format_segment(below, layout, split_key(volume_key)[1])
    finally:
        await file.aclose()


async def _make_file_system(data: Path, options: CreateOptions, plan: _Plan) -> None:
    """Run mke2fs on the plaintext device, and fill it. Nothing is left to the machine's mke2fs.conf."""
    # Inodes for every entry, and some to spare.
    inodes = max(data.stat().st_size // 16384, len(plan.entries) * 5 // 4 + 64)
    command = ["mke2fs", "-q", "-F", "-b", "4096", "-m", "0", "-O", _FEATURES, "-I", "256", "-N", str(inodes)]
    extended, environment = "nodiscard,lazy_itable_init=1,lazy_journal_init=0", {}
    if options.label:
        command += ["-L", options.label[:16]]
    if plan.uuids is not None:
        command += ["-U", plan.uuids[0]]
        extended += f",hash_seed={plan.uuids[1]}"
        environment = {"E2FSPROGS_FAKE_TIME": str(newest(plan.entries))}
    code, output = await run_tool(*command, "-E", extended, str(data), environment=environment)
    if code != 0:
        reason = (output.strip().splitlines() or [f"exit code {code}"])[-1]
        raise FileSystemError(
            f"mke2fs: {reason}",
            hint=why_full(reason),
        )
    if options.source is None:
        return
    await populate(data, options.source, plan.entries)
    code, output = await run_tool("e2fsck", "-fn", str(data))
    if code != 0:
        raise FileSystemError(f"e2fsck: {output.strip().splitlines()[-1]}", hint="report this as a defect")


def _check_room(path: Path, wanted: int) -> None:
    """Refuse early what would end with a full disk.

    Raises:
        ImageError: the disk has less room than the content needs.
    """
    with contextlib.suppress(OSError):
        status = os.statvfs(path.parent)
        free = status.f_bavail * status.f_frsize
        if status.f_blocks > 0 and free < wanted:
            raise ImageError(
                f"image {path}: {in_units(free)}B free on that disk, wanted about {in_units(wanted)}B",
                hint="make room, or choose another folder",
            )


def _stored(fd: int) -> int:
    """Bytes of the image written so far: the rest of it is a hole."""
    return os.fstat(fd).st_blocks * 512


def _integrity_room(size: int, sector_size: int) -> int:
    """Bytes for tags, journal and superblock of a volume of `size` bytes, more than it takes."""
    return size // (60 if sector_size == 4096 else 8) + (4 << 20) >> 20 << 20


def _size_for(blocks: int, files: int) -> int:
    """Bytes of an image for so many blocks of 4096 bytes in so many files."""
    content = blocks * 4096 + files * _OVERHEAD_PER_INODE
    journal = min(max(content // 32, 4 << 20), 1 << 30)
    total = int(content * (1 + _OVERHEAD_SHARE)) + journal + _OVERHEAD_FIXED + _HEADER_BYTES
    return -(-max(total, _MIN_SIZE) // (1 << 20)) << 20


def _write_all(fd: int, offset: int, data: bytes) -> None:
    view = memoryview(data)
    done = 0
    while done < len(view):
        done += os.pwrite(fd, view[done:], offset + done)
