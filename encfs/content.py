"""A folder as a value: its entries in one order, and a digest of what they are.

Order and digest depend on names and content only: not on where the folder lies, the order its file system
lists names in, times of access, or how its sparse files are laid out.

Kind: adapter
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from encfs.errors import UsageError

BLOCK = 4096
_ZEROS = bytes(BLOCK)
_READ = 1 << 20
_NANO = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Entry:
    """One name in the folder.

    Attributes:
        path: relative to the folder, without leading slash; empty for the folder itself.
        status: lstat of it.
        target: of a symbolic link, else empty.
        xattrs: (name, value), sorted; POSIX ACLs are among them.
        modified: nanoseconds since 1970, not later than the clamp given to `scan`.
        link_of: number of the entry that is the same file under an earlier name, None for the first name.
    """

    path: bytes
    status: os.stat_result
    target: bytes
    xattrs: tuple[tuple[bytes, bytes], ...]
    modified: int
    link_of: int | None

    @property
    def name(self) -> bytes:
        return self.path.rpartition(b"/")[2]

    @property
    def parent(self) -> bytes:
        return self.path.rpartition(b"/")[0]

    @property
    def size(self) -> int:
        """Bytes of a regular file, 0 for all else."""
        return self.status.st_size if stat.S_ISREG(self.status.st_mode) else 0

    def identity(self) -> tuple[object, ...]:
        """What changes whenever the entry is changed."""
        s = self.status
        numbers = (s.st_dev, s.st_ino, s.st_mode, s.st_uid, s.st_gid, s.st_size, s.st_mtime_ns, s.st_ctime_ns)
        return (self.path, *numbers, self.target, self.xattrs)


def scan(top: Path, *, clamp: int | None = None) -> list[Entry]:
    """All entries, parents before children, names in the order of their bytes; sockets are left out.

    Args:
        top: the folder.
        clamp: later times of modification become this one, seconds since 1970.

    Raises:
        UsageError: something cannot be read.
    """
    entries: list[Entry] = []
    seen: dict[tuple[int, int], int] = {}
    try:
        for path in _walk(os.fsencode(top)):
            full = _full(top, path)
            status = os.stat(full) if not path else os.lstat(full)
            if stat.S_ISSOCK(status.st_mode):
                continue
            first = None
            if not stat.S_ISDIR(status.st_mode) and status.st_nlink > 1:
                first = seen.setdefault((status.st_dev, status.st_ino), len(entries))
                first = None if first == len(entries) else first
            target = os.readlink(full) if stat.S_ISLNK(status.st_mode) else b""
            when = status.st_mtime_ns if clamp is None else min(status.st_mtime_ns, clamp * _NANO)
            entries.append(Entry(path, status, target, _xattrs(full, follow=not path), when, first))
    except OSError as exc:
        raise UsageError(f"source folder {top}: {os.fsdecode(exc.filename or '')}: {exc.strerror}") from exc
    return entries


def digest(top: Path, entries: list[Entry]) -> tuple[bytes, int]:
    """SHA-256 of everything that goes into an image, 32 bytes, and how many blocks of 4096 bytes files fill.

    Raises:
        UsageError: a file cannot be read.
    """
    whole, blocks = hashlib.sha256(b"encfs content 1\0"), 0
    for entry in entries:
        for field in _fields(entry):
            whole.update(len(field).to_bytes(8, "big") + field)
        if stat.S_ISREG(entry.status.st_mode) and entry.link_of is None:
            content, filled = _digest_file(top, entry)
            whole.update(content)
            blocks += filled
    return whole.digest(), blocks


def allocated(entries: list[Entry]) -> int:
    """About how many blocks of 4096 bytes the files fill, without reading them: holes do not count."""
    sizes = ((e.size, e.status.st_blocks * 512 + BLOCK) for e in entries if e.link_of is None)
    return sum(-(-min(size, on_disk) // BLOCK) for size, on_disk in sizes)


def newest(entries: list[Entry]) -> int:
    """The latest time of modification, seconds, within what e2fsprogs takes for a clock."""
    return max(1, min(max(entry.modified for entry in entries) // _NANO, (1 << 32) - 1))


def changed(top: Path, entries: list[Entry]) -> str | None:
    """Name of an entry that is no longer what it was when `entries` was made; None when all are."""
    for before, now in zip(entries, again := scan(top), strict=False):
        if before.identity() != now.identity():
            return os.fsdecode(before.path) or "."
    return None if len(again) == len(entries) else "."


def _walk(top: bytes) -> Iterator[bytes]:
    """Relative paths in order, the folder itself first; no recursion, however deep the folder is."""
    waiting = [b""]
    while waiting:
        path = waiting.pop()
        yield path
        full = os.path.join(top, path)
        if not path or stat.S_ISDIR(os.lstat(full).st_mode):
            names = sorted(os.listdir(full), reverse=True)
            waiting.extend(path + b"/" + name if path else name for name in names)


def _full(top: Path, path: bytes) -> bytes:
    return os.path.join(os.fsencode(top), path) if path else os.fsencode(top)


def _xattrs(full: bytes, *, follow: bool) -> tuple[tuple[bytes, bytes], ...]:
    try:
        names = sorted(os.fsencode(n) for n in os.listxattr(full, follow_symlinks=follow))
    except OSError as exc:
        if exc.errno == errno.ENOTSUP:
            return ()
        raise
    return tuple((name, os.getxattr(full, name, follow_symlinks=follow)) for name in names)


def _fields(entry: Entry) -> Iterator[bytes]:
    """The entry as a fixed number of fields and its attributes; sizes of folders are not content."""
    status = entry.status
    device = status.st_rdev if stat.S_ISCHR(status.st_mode) or stat.S_ISBLK(status.st_mode) else 0
    first = -1 if entry.link_of is None else entry.link_of
    numbers = (status.st_mode, status.st_uid, status.st_gid, entry.modified, entry.size, device, first)
    yield entry.path
    yield entry.target
    yield b" ".join(str(number).encode() for number in (*numbers, len(entry.xattrs)))
    for name, value in entry.xattrs:
        yield name
        yield value


def _digest_file(top: Path, entry: Entry) -> tuple[bytes, int]:
    """SHA-256 over (number, bytes) of the blocks that are not all zero, and how many they are.

    Raises:
        UsageError: the file cannot be read.
    """
    digest, filled = hashlib.sha256(), 0
    try:
        fd = os.open(_full(top, entry.path), os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            for number, block in _blocks(fd, entry.size):
                digest.update(number.to_bytes(8, "big") + block)
                filled += 1
        finally:
            os.close(fd)
    except OSError as exc:
        raise UsageError(f"source file {os.fsdecode(_full(top, entry.path))}: {exc.strerror}") from exc
    return digest.digest(), filled


def _blocks(fd: int, size: int) -> Iterator[tuple[int, bytes]]:
    offset = 0
    while offset < size:
        try:
            offset = os.lseek(fd, offset, os.SEEK_DATA) // BLOCK * BLOCK
        except OSError as exc:
            if exc.errno == errno.ENXIO:  # nothing but a hole from here on
                return
            raise
        data = os.pread(fd, min(_READ, size - offset), offset)
        if not data:
            return
        for start in range(0, len(data), BLOCK):
            block = data[start : start + BLOCK]
            if block != _ZEROS[: len(block)]:
                yield (offset + start) // BLOCK, block
        offset += -(-len(data) // BLOCK) * BLOCK
