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
import secrets
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

import trio

from encfs.block.file import adopt_file
from encfs.errors import FileSystemError, ImageError, UsageError
from encfs.exposing import exposed, run_tool
from encfs.keys import Secret, offered_fingerprint
from encfs.luks2.create import SeededRandom, format_header, new_volume_key
from encfs.luks2.token import KeyToken
from encfs.populate import Entry, digest, newest, populate, scan
from encfs.session import Volume
from encfs.volume import SegmentGeometry

_MIN_SIZE = 20 << 20
_MAX_SIZE = 64 << 40
_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
# mke2fs: metadata, journal and slack on top of the files themselves, found by trying small and large trees.
_OVERHEAD_FIXED = 12 << 20
_OVERHEAD_PER_INODE = 512
_OVERHEAD_SHARE = 0.05
# What mke2fs 1.47 makes by default; written down for images that must not depend on a machine's settings.
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
        reproducible: everything random comes from the key and the content, see `_Fixed`.
        force: replace an existing file.
    """

    size: int | None
    source: Path | None
    sector_size: int = 4096
    pbkdf: str | None = None
    label: str = ""
    kid: str = ""
    reproducible: bool = False
    force: bool = False


@dataclass(frozen=True, slots=True)
class Created:
    """What was made: size in bytes, LUKS2 UUID, public fingerprint of the key (None for a typed one)."""

    path: Path
    size: int
    uuid: str
    key_check_value: str | None


def parse_size(text: str) -> int:
    """Bytes from `64M`, `1.5G`, `4096`; units are powers of 1024.

    Raises:
        UsageError: not a size, or outside 20 MiB to 64 TiB.
    """
    match = re.fullmatch(r"(\d{1,12}(?:\.\d{1,6})?)\s*([KMGT]?)(?:i?B)?", text.strip(), re.IGNORECASE)
    if not match:
        raise UsageError(f"size {text!r}: not a size", hint="write it like 64M, 1.5G or 4096 (bytes)")
    size = int(float(match[1]) * _UNITS[match[2].upper()])
    if not _MIN_SIZE <= size <= _MAX_SIZE:
        raise UsageError(f"size {text!r}: {size} bytes, wanted {_MIN_SIZE >> 20}M to {_MAX_SIZE >> 40}T")
    return size


async def create_image(path: Path, passphrase: Secret, options: CreateOptions) -> Created:
    """Make the image at `path`.

    Raises:
        UsageError: the folder is missing, or the options make no sense.
        ImageError: the file exists already, or cannot be written.
        FileSystemError: mke2fs failed, most often because the content does not fit.
    """
    if options.source is not None and not options.source.is_dir():
        raise UsageError(f"source folder {options.source}: no such directory")
    if not options.force and path.exists():
        raise ImageError(
            f"image {path}: exists already", hint="choose another name, or give --force to replace it"
        )
    fixed = await trio.to_thread.run_sync(_Fixed.of, passphrase, options) if options.reproducible else None
    size = options.size
    if size is None:
        size = fixed.size() if fixed is not None else estimate_size(options.source)
    size -= size % 4096
    with _partial(path) as (partial, fd):
        uuid = await _fill(fd, path, size, passphrase, options, fixed)
        os.fsync(fd)
        _publish(partial, path, force=options.force)
    return Created(path, size, uuid, offered_fingerprint(passphrase))


@dataclass(frozen=True, slots=True)
class _Fixed:
    """What makes an image reproducible: its content as a list, and a generator seeded by key and content.

    The seed depends on the content because two images with one volume key and different content would show,
    sector by sector, where they are the same: AES-XTS turns equal sectors at one place into equal ciphertext.
    """

    entries: list[Entry]
    random: SeededRandom
    uuids: tuple[str, str]

    @classmethod
    def of(cls, passphrase: Secret, options: CreateOptions) -> _Fixed:
        """Read the folder.

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
        settings = repr(
            (options.size, options.sector_size, options.pbkdf, options.label, options.kid)
        ).encode()
        content = digest(options.source, entries) + hashlib.sha256(settings).digest()
        seed = Secret(hmac.digest(passphrase.reveal(), content, "sha256"), full_entropy=True)
        random = SeededRandom(seed, "reproducible image")
        first, second = (str(UUID(bytes=random(16), version=4)) for _ in range(2))
        return cls(entries, random, (first, second))

    def size(self) -> int:
        """Bytes of the image, from the content alone."""
        blocks = sum(-(-entry.size // 4096) + 1 for entry in self.entries if entry.link_of is None)
        return _size_for(blocks, len(self.entries))


async def _fill(
    fd: int, path: Path, size: int, passphrase: Secret, options: CreateOptions, fixed: _Fixed | None
) -> str:
    random = os.urandom if fixed is None else fixed.random
    volume_key = new_volume_key(64, random=random)
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
            random=random,
        )
    )
    os.ftruncate(fd, size)
    for offset, part in formatted.writes:
        _write_all(fd, offset, part)
    segment = formatted.segment
    geometry = SegmentGeometry(segment.offset, segment.size, segment.sector_size, segment.iv_tweak)
    # The driver gets a descriptor of its own; ours stays open for the last fsync.
    source = adopt_file(
        os.open(f"/proc/self/fd/{fd}", os.O_RDWR | os.O_CLOEXEC), path, read_only=False, lock=True
    )
    async with exposed(Volume(source, str(path), geometry, volume_key, False)) as data:
        await _make_file_system(data, options, fixed)
    return formatted.uuid


async def _make_file_system(data: Path, options: CreateOptions, fixed: _Fixed | None) -> None:
    """Run mke2fs on the plaintext device; it copies owners, modes, times, links and xattrs too."""
    extended, environment = "nodiscard", {}
    command = ["mkfs.ext4", "-q", "-F", "-b", "4096", "-m", "0"]
    if options.label:
        command += ["-L", options.label[:16]]
    if fixed is not None:
        # Nothing is left to the machine's mke2fs.conf or kernel; inodes for every entry, and some to spare.
        inodes = max(data.stat().st_size // 16384, len(fixed.entries) * 5 // 4 + 64)
        command += ["-U", fixed.uuids[0], "-O", _FEATURES, "-I", "256", "-N", str(inodes)]
        extended += f",hash_seed={fixed.uuids[1]},lazy_itable_init=1,lazy_journal_init=0"
        environment = {"E2FSPROGS_FAKE_TIME": str(newest(fixed.entries))}
    elif options.source is not None:
        command += ["-d", str(options.source.resolve())]
    code, output = await run_tool(*command, "-E", extended, str(data), environment=environment)
    if code != 0:
        lines = output.strip().splitlines()
        raise FileSystemError(
            f"mkfs.ext4: {lines[-1] if lines else f'exit code {code}'}",
            hint="if the content does not fit, give a larger --size, or none to have it computed",
        )
    if options.source is not None and fixed is None:
        await _copy_top(data, options.source)
    elif options.source is not None and fixed is not None:
        await populate(data, options.source, fixed.entries)
        code, output = await run_tool("e2fsck", "-fn", str(data))
        if code != 0:
            raise FileSystemError(
                f"e2fsck: {output.strip().splitlines()[-1]}", hint="report this as a defect"
            )


async def _copy_top(data: Path, source: Path) -> None:
    """Give the top directory the owner, mode and times of the folder; mke2fs copies only what is in it."""
    status = source.stat()
    fields = {
        "mode": f"0{status.st_mode:o}",
        "uid_lo": status.st_uid & 0xFFFF,
        "uid_hi": status.st_uid >> 16,
        "gid_lo": status.st_gid & 0xFFFF,
        "gid_hi": status.st_gid >> 16,
        "atime": f"@{int(status.st_atime)}",
        "mtime": f"@{int(status.st_mtime)}",
        "ctime": f"@{int(status.st_ctime)}",
    }
    script = "".join(f"set_inode_field <2> {name} {value}\n" for name, value in fields.items())
    code, output = await run_tool("debugfs", "-w", "-f", "/dev/stdin", str(data), script=script.encode())
    # debugfs ends with 0 whatever happened; it repeats each command and says below it what went wrong.
    complaints = [line for line in output.splitlines() if line and not line.startswith("debugfs")]
    if code != 0 or complaints:
        raise FileSystemError(f"debugfs: {complaints[0] if complaints else f'exit code {code}'}")


def estimate_size(source: Path | None) -> int:
    """Bytes that an image of the folder needs: its files in whole blocks, inodes, journal, header, slack."""
    files, blocks = 0, 0
    if source is not None:
        seen: set[tuple[int, int]] = set()
        for directory, names, leaves in os.walk(source):
            for name in (*names, *leaves):
                status = os.lstat(os.path.join(directory, name))
                files += 1
                if stat.S_ISREG(status.st_mode) and (status.st_dev, status.st_ino) not in seen:
                    seen.add((status.st_dev, status.st_ino))
                    blocks += -(-min(status.st_size, status.st_blocks * 512 + 4096) // 4096) + 1
                elif stat.S_ISDIR(status.st_mode):
                    blocks += -(-status.st_size // 4096)
    return _size_for(blocks, files)


def _size_for(blocks: int, files: int) -> int:
    """Bytes of an image for so many blocks of 4096 bytes in so many files."""
    content = blocks * 4096 + files * _OVERHEAD_PER_INODE
    journal = min(max(content // 32, 4 << 20), 1 << 30)
    total = int(content * (1 + _OVERHEAD_SHARE)) + journal + _OVERHEAD_FIXED + (16 << 20)
    return -(-max(total, _MIN_SIZE) // (1 << 20)) << 20


@contextlib.contextmanager
def _partial(path: Path) -> Iterator[tuple[Path, int]]:
    """A new file beside `path`, mode 0600, gone again unless it was published."""
    partial = path.with_name(f".{path.name}.partial-{secrets.token_hex(4)}")
    try:
        fd = os.open(partial, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except OSError as exc:
        raise ImageError(f"image {path}: {exc.strerror}") from exc
    try:
        yield partial, fd
    finally:
        os.close(fd)
        partial.unlink(missing_ok=True)


def _publish(partial: Path, path: Path, *, force: bool) -> None:
    """Give the finished image its name in one step, and make the name durable."""
    try:
        if force:
            partial.replace(path)
        else:
            os.link(partial, path)  # unlike rename, fails when the name was taken meanwhile
    except OSError as exc:
        raise ImageError(f"image {path}: {exc.strerror}") from exc
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _write_all(fd: int, offset: int, data: bytes) -> None:
    view = memoryview(data)
    done = 0
    while done < len(view):
        done += os.pwrite(fd, view[done:], offset + done)
