"""configfs-tsm as a small FUSE file system, run in a process of its own:

    python snp_configfs.py MOUNTPOINT PROCESSOR_DIRECTORY [key=value ...]

Prints "ready" when it is mounted and ends when it is unmounted. Reports are signed by the software processor
kept in PROCESSOR_DIRECTORY. Behaviour, all optional:

    provider=sev_guest      content of `provider`; "none": mkdir fails with ENXIO, as without a provider
    floor=0                 content of `privlevel_floor`; "none": the file is missing
    disturb=0               in so many folders, somebody else writes `inblob` before outblob is read
    late=0                  in so many folders, somebody else writes `inblob` after outblob was read
    lie=0                   the report is over other data although the generation is right
    outblob=0 inblob=0      errno that reading or writing the file fails with
    failures=99             how often that happens
    table=0                 1: auxblob holds the certificate table
    long=0                  1: outblob is longer than a report
    generation=             content of `generation` instead of the count

Rules of the kernel that it keeps (drivers/virt/coco/tsm.c): inblob has 1 to 64 bytes per write, each
successful write counts, privlevel must be floor..3, reading without inblob fails, sev_guest wants exactly 64
bytes.
"""

from __future__ import annotations

import errno
import os
import stat
import sys
from dataclasses import dataclass, field
from pathlib import Path

import pyfuse3
import trio

from sidecar.snp.certtable import build_certificate_table, table_of
from sidecar.snp.software import SoftwareProcessor

READABLE = {"provider", "generation", "privlevel_floor", "outblob", "auxblob"}
WRITABLE = {"inblob", "privlevel"}


@dataclass
class Folder:
    """State of one request."""

    name: bytes
    inblob: bytes = b""
    privlevel: int = 0
    generation: int = 0
    files: dict[str, int] = field(default_factory=dict)


class Tsm(pyfuse3.Operations):
    """Root directory, folders made with mkdir, and their attribute files."""

    enable_writeback_cache = False

    def __init__(self, processor: SoftwareProcessor, settings: dict[str, str]) -> None:
        super().__init__()
        self.processor = processor
        self.settings = settings
        self.folders: dict[int, Folder] = {}
        self.files: dict[int, tuple[int, str]] = {}
        self.next_inode = pyfuse3.ROOT_INODE + 1

    def number(self, key: str, default: int = 0) -> int:
        return int(self.settings.get(key, default))

    def once(self, key: str) -> bool:
        """Count a setting down: true as often as it says."""
        left = self.number(key)
        self.settings[key] = str(left - 1)
        return left > 0

    def allocate(self) -> int:
        self.next_inode += 1
        return self.next_inode

    async def getattr(self, inode: int, ctx: object = None) -> pyfuse3.EntryAttributes:
        entry = pyfuse3.EntryAttributes()
        entry.st_ino = inode
        entry.attr_timeout = entry.entry_timeout = 0
        if inode in self.files:
            name = self.files[inode][1]
            entry.st_mode = stat.S_IFREG | (0o200 if name in WRITABLE else 0o400)
            # As sysfs and configfs do: the size says nothing about the content.
            entry.st_size = 4096
        elif inode == pyfuse3.ROOT_INODE or inode in self.folders:
            entry.st_mode = stat.S_IFDIR | 0o755
        else:
            raise pyfuse3.FUSEError(errno.ENOENT)
        return entry

    async def lookup(self, parent: int, name: bytes, ctx: object = None) -> pyfuse3.EntryAttributes:
        if parent == pyfuse3.ROOT_INODE:
            for inode, folder in self.folders.items():
                if folder.name == name:
                    return await self.getattr(inode)
        elif parent in self.folders and name.decode() in self.folders[parent].files:
            return await self.getattr(self.folders[parent].files[name.decode()])
        raise pyfuse3.FUSEError(errno.ENOENT)

    async def mkdir(self, parent: int, name: bytes, mode: int, ctx: object) -> pyfuse3.EntryAttributes:
        if self.settings.get("provider") == "none":
            raise pyfuse3.FUSEError(errno.ENXIO)
        inode = self.allocate()
        folder = self.folders[inode] = Folder(name)
        missing = {"privlevel_floor"} if self.settings.get("floor") == "none" else set()
        for attribute in READABLE | WRITABLE - missing:
            if attribute in missing:
                continue
            folder.files[attribute] = self.allocate()
            self.files[folder.files[attribute]] = (inode, attribute)
        return await self.getattr(inode)

    async def rmdir(self, parent: int, name: bytes, ctx: object) -> None:
        for inode, folder in list(self.folders.items()):
            if folder.name == name:
                for file in folder.files.values():
                    del self.files[file]
                del self.folders[inode]
                return
        raise pyfuse3.FUSEError(errno.ENOENT)

    async def opendir(self, inode: int, ctx: object) -> int:
        return inode

    async def readdir(self, handle: int, start: int, token: object) -> None:
        if handle == pyfuse3.ROOT_INODE:
            for inode in sorted(i for i in self.folders if i > start):
                if not pyfuse3.readdir_reply(
                    token, self.folders[inode].name, await self.getattr(inode), inode
                ):
                    return

    async def open(self, inode: int, flags: int, ctx: object) -> pyfuse3.FileInfo:
        wants_write = flags & os.O_ACCMODE != os.O_RDONLY
        if wants_write != (self.files[inode][1] in WRITABLE):
            raise pyfuse3.FUSEError(errno.EACCES)
        return pyfuse3.FileInfo(fh=inode, direct_io=True)

    async def read(self, handle: int, offset: int, size: int) -> bytes:
        inode, name = self.files[handle]
        return self.content(self.folders[inode], name)[offset : offset + size]

    async def write(self, handle: int, offset: int, data: bytes) -> int:
        inode, name = self.files[handle]
        folder = self.folders[inode]
        self.fail(name)
        if name == "inblob":
            if offset or not 1 <= len(data) <= 64:
                raise pyfuse3.FUSEError(errno.EINVAL)
            folder.inblob = bytes(data)
        else:
            level = int(data)
            if not self.floor() <= level <= 3:
                raise pyfuse3.FUSEError(errno.EINVAL)
            folder.privlevel = level
        folder.generation += 1
        return len(data)

    def fail(self, name: str) -> None:
        code = self.number(name)
        if code and self.number("failures", 99) > 0:
            self.settings["failures"] = str(self.number("failures", 99) - 1)
            raise pyfuse3.FUSEError(code)

    def floor(self) -> int:
        text = self.settings.get("floor", "0")
        return 0 if text == "none" else int(text)

    def content(self, folder: Folder, name: str) -> bytes:
        if name == "provider":
            return self.settings.get("provider", "sev_guest").encode() + b"\n"
        if name == "generation":
            return self.settings.get(name, str(folder.generation)).encode() + b"\n"
        if name == "privlevel_floor":
            return b"%d\n" % self.floor()
        self.fail(name)
        if len(folder.inblob) != 64 or folder.privlevel < self.floor():
            raise pyfuse3.FUSEError(errno.EINVAL)
        if name == "auxblob":
            table = build_certificate_table(table_of(self.processor.chain).entries)
            return table if self.number("table") else b""
        return self.outblob(folder)

    def outblob(self, folder: Folder) -> bytes:
        if self.once("disturb"):
            folder.inblob = b"o" * 64
            folder.generation += 1
        data = b"l" * 64 if self.number("lie") else folder.inblob
        report = self.processor.sign_report(data, vmpl=folder.privlevel)
        if self.once("late"):
            folder.generation += 1
        return report + b"!" * self.number("long")


def main(mountpoint: str, directory: str, *settings: str) -> None:
    tsm = Tsm(SoftwareProcessor.open(Path(directory)), dict(s.split("=", 1) for s in settings))
    pyfuse3.init(tsm, mountpoint, {"fsname=tsm", "default_permissions", *pyfuse3.default_options})
    print("ready", flush=True)
    try:
        trio.run(pyfuse3.main)
    finally:
        pyfuse3.close(unmount=False)


if __name__ == "__main__":
    main(*sys.argv[1:])
