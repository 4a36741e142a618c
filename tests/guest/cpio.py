"""Initramfs archives in the `newc` format of cpio, built in memory.

Several archives may follow one another in one initramfs; the kernel unpacks them in order. So the large part
that never changes is cached on disk, and the small part of one run (its job, its keys) is appended.

Spec: Linux Documentation/driver-api/early-userspace/buffer-format.rst
"""

from __future__ import annotations

import stat
from dataclasses import dataclass
from pathlib import PurePosixPath

_MAGIC = b"070701"
_TRAILER = "TRAILER!!!"


@dataclass(frozen=True, slots=True)
class Entry:
    """One file, link or folder.

    Attributes:
        path: where it goes, relative to the root of the guest.
        mode: type and permission bits, as in `st_mode`.
        data: contents of a file, or target of a symbolic link.
    """

    path: str
    mode: int
    data: bytes = b""


def file(path: str, data: bytes, *, executable: bool = False) -> Entry:
    return Entry(path, stat.S_IFREG | (0o755 if executable else 0o644), data)


def link(path: str, target: str) -> Entry:
    return Entry(path, stat.S_IFLNK | 0o777, target.encode())


def folder(path: str) -> Entry:
    return Entry(path, stat.S_IFDIR | 0o755)


def _pad(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)


def _record(inode: int, entry: Entry) -> bytes:
    name = entry.path.encode() + b"\0"
    links = 2 if stat.S_ISDIR(entry.mode) else 1
    # inode, mode, uid, gid, links, mtime, size, device (4 fields), name size, checksum (unused in newc)
    fields = (inode, entry.mode, 0, 0, links, 0, len(entry.data), 0, 0, 0, 0, len(name), 0)
    return _pad(_MAGIC + b"".join(b"%08X" % field for field in fields) + name) + _pad(entry.data)


def _with_parents(entries: list[Entry]) -> list[Entry]:
    """Adds the folders that entries lie in, each before its contents and once."""
    known = {entry.path for entry in entries}
    parents: dict[str, Entry] = {}
    for entry in entries:
        for parent in reversed(PurePosixPath(entry.path).parents):
            if str(parent) not in known and str(parent) != ".":
                parents.setdefault(str(parent), folder(str(parent)))
    return [*parents.values(), *entries]


def archive(entries: list[Entry]) -> bytes:
    """One whole archive, its folders included, padded so that another may follow."""
    records = [_record(number, entry) for number, entry in enumerate(_with_parents(entries), start=1)]
    data = b"".join(records) + _record(0, Entry(_TRAILER, 0))
    return data + bytes(-len(data) % 512)
