"""The FUSE layer: a directory with one file, `data`, which is the plaintext block device.

The only user of pyfuse3, and the only place where errors become errno. Under a mounted file system the file
is open for direct I/O: the kernel keeps no second copy of what that file system's page cache holds already.
Tools that read and write 4096 bytes at a time (e2fsprogs) get it cached instead, and the kernel turns their
requests into large ones: seven times as fast when an image is made.

A reply that returns a pooled buffer gives it back just before the return: pyfuse3 copies the bytes to the
kernel before any other task runs, so nobody can overwrite them in between.

Kind: adapter
"""

from __future__ import annotations

import errno
import logging
import os
import stat
import time
from pathlib import Path
from typing import cast

import pyfuse3
import trio

from encfs.block.buffers import BufferPool
from encfs.block.device import BlockDevice
from encfs.eager import EagerWait, eager_trio
from encfs.errors import BadRequest, EncfsError, FuseUnavailable, ReadOnlyDevice, Tampered
from encfs.health import Pulse

log = logging.getLogger(__name__)

DATA_NAME = b"data"
_DATA_INODE = 2
_HANDLE = 1
# libfuse 3.14 takes requests of at most 256 pages.
MAX_REQUEST = 1 << 20
# Requests served at once. A local image is read without waiting, so a few suffice; every worker
# owns a request buffer of 1 MiB, so this is also a memory figure.
WORKERS = 4


class DataFile(pyfuse3.Operations):
    """FUSE operations over one block device.

    Args:
        device: plaintext, block size of one byte (the `Unaligned` layer is on top).
        pool: reply buffers of `MAX_REQUEST` bytes.
        pulse: told of every request's start and end, read by the supervisor.
        cached: let the kernel keep pages, and write them back later; an error then shows at fsync.
    """

    supports_dot_lookup = False
    enable_acl = False

    def __init__(self, device: BlockDevice, pool: BufferPool, pulse: Pulse, *, cached: bool) -> None:
        super().__init__()
        self.enable_writeback_cache = cached
        self._device = device
        self._pool = pool
        self._pulse = pulse
        self._started_ns = time.time_ns()

    def _attributes(self, inode: pyfuse3.InodeT) -> pyfuse3.EntryAttributes:
        entry = pyfuse3.EntryAttributes()
        entry.st_ino = inode
        entry.attr_timeout = entry.entry_timeout = 3600
        entry.st_uid, entry.st_gid = os.geteuid(), os.getegid()
        entry.st_atime_ns = entry.st_mtime_ns = entry.st_ctime_ns = self._started_ns
        if inode == pyfuse3.ROOT_INODE:
            mode, entry.st_size, entry.st_nlink = stat.S_IFDIR | 0o500, 0, 2
        else:
            permissions = 0o400 if self._device.read_only else 0o600
            mode, entry.st_size, entry.st_nlink = stat.S_IFREG | permissions, self._device.size, 1
        entry.st_mode = mode
        entry.st_blksize = 4096
        entry.st_blocks = entry.st_size // 512
        return entry

    async def getattr(
        self, inode: pyfuse3.InodeT, ctx: pyfuse3.RequestContext | None = None
    ) -> pyfuse3.EntryAttributes:
        return self._attributes(inode)

    async def setattr(
        self,
        inode: pyfuse3.InodeT,
        attr: pyfuse3.EntryAttributes,
        fields: pyfuse3.SetattrFields,
        fh: pyfuse3.FileHandleT | None,
        ctx: pyfuse3.RequestContext,
    ) -> pyfuse3.EntryAttributes:
        """Accept a size that is the size we have (mkfs truncates to it) and times; refuse the rest."""
        if fields.update_size and attr.st_size != self._device.size:
            raise pyfuse3.FUSEError(errno.EPERM)
        if fields.update_mode or fields.update_uid or fields.update_gid:
            raise pyfuse3.FUSEError(errno.EPERM)
        return self._attributes(inode)

    async def lookup(
        self, parent_inode: pyfuse3.InodeT, name: pyfuse3.FileNameT, ctx: pyfuse3.RequestContext
    ) -> pyfuse3.EntryAttributes:
        if parent_inode != pyfuse3.ROOT_INODE or name != DATA_NAME:
            raise pyfuse3.FUSEError(errno.ENOENT)
        return self._attributes(_DATA_INODE)

    async def opendir(self, inode: pyfuse3.InodeT, ctx: pyfuse3.RequestContext) -> pyfuse3.FileHandleT:
        return _HANDLE

    async def readdir(self, fh: pyfuse3.FileHandleT, start_id: int, token: pyfuse3.ReaddirToken) -> None:
        if start_id == 0:
            pyfuse3.readdir_reply(token, DATA_NAME, self._attributes(_DATA_INODE), 1)

    async def statfs(self, ctx: pyfuse3.RequestContext) -> pyfuse3.StatvfsData:
        data = pyfuse3.StatvfsData()
        data.f_bsize = data.f_frsize = 4096
        data.f_blocks = self._device.size // 4096
        data.f_files, data.f_namemax = 1, 255
        return data

    async def open(
        self, inode: pyfuse3.InodeT, flags: pyfuse3.FlagT, ctx: pyfuse3.RequestContext
    ) -> pyfuse3.FileInfo:
        if inode != _DATA_INODE:
            raise pyfuse3.FUSEError(errno.EISDIR)
        if self._device.read_only and flags & os.O_ACCMODE != os.O_RDONLY:
            raise pyfuse3.FUSEError(errno.EROFS)
        if flags & os.O_TRUNC:
            raise pyfuse3.FUSEError(errno.EPERM)
        return pyfuse3.FileInfo(fh=_HANDLE, direct_io=not self.enable_writeback_cache)

    async def read(self, fh: pyfuse3.FileHandleT, off: int, size: int) -> bytes:
        length = max(0, min(size, self._device.size - off, MAX_REQUEST))
        self._pulse.begin()
        try:
            async with self._pool.take(length) as view:
                await self._device.read_into(off, view)
            return cast(bytes, view)
        except Exception as exc:
            if isinstance(exc, Tampered):
                self._pulse.tell_tampered()
            raise _as_errno(exc, "read", off, length) from exc
        finally:
            self._pulse.end()

    async def write(self, fh: pyfuse3.FileHandleT, off: int, buf: bytes) -> int:
        if off + len(buf) > self._device.size:
            raise pyfuse3.FUSEError(errno.ENOSPC)  # a block device does not grow
        self._pulse.begin()
        try:
            await self._device.write(off, buf)
            return len(buf)
        except Exception as exc:
            raise _as_errno(exc, "write", off, len(buf)) from exc
        finally:
            self._pulse.end()

    async def fsync(self, fh: pyfuse3.FileHandleT, datasync: bool) -> None:
        self._pulse.begin()
        try:
            await self._device.flush()
        except Exception as exc:
            raise _as_errno(exc, "fsync", 0, 0) from exc
        finally:
            self._pulse.end()

    async def flush(self, fh: pyfuse3.FileHandleT) -> None:
        """close(2) of one descriptor; durability is what fsync is for."""

    async def release(self, fh: pyfuse3.FileHandleT) -> None:
        """The last close of the file: a caller that goes away without fsync loses nothing."""
        await self.fsync(fh, True)


def _as_errno(exc: Exception, operation: str, offset: int, length: int) -> pyfuse3.FUSEError:
    """The errno for an error, after a log line that says what happened."""
    if isinstance(exc, ReadOnlyDevice):
        return pyfuse3.FUSEError(errno.EROFS)
    if isinstance(exc, BadRequest):
        log.error("%s at %d of %d bytes: %s", operation, offset, length, exc)
        return pyfuse3.FUSEError(errno.EINVAL)
    if isinstance(exc, EncfsError):
        log.error("%s at %d of %d bytes: %s", operation, offset, length, exc)
    else:
        log.exception("%s at %d of %d bytes failed", operation, offset, length)
    return pyfuse3.FUSEError(errno.EIO)


def is_worth_saying(record: logging.LogRecord) -> bool:
    """Filter of pyfuse3's log: not that nobody waits for a reply any more.

    The kernel sends the last release of a file in the background, and may end the connection before its reply
    arrives; ENOENT is how it says so. Nothing is lost by it: the driver flushes before it ends.
    """
    gone = isinstance(record.args, tuple) and record.args == (os.strerror(errno.ENOENT),)
    return not (gone and "fuse_reply_* failed" in str(record.msg))


def check_available() -> None:
    """Refuse early, and in words, where FUSE cannot work.

    Raises:
        FuseUnavailable: no `/dev/fuse`, or no permission to open it.
    """
    try:
        os.close(os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC))
    except OSError as exc:
        raise FuseUnavailable(
            f"/dev/fuse: {exc.strerror}",
            hint="load the fuse module on the host, or give the container the device /dev/fuse",
        ) from exc


async def serve(
    device: BlockDevice,
    directory: Path,
    pool: BufferPool,
    pulse: Pulse,
    *,
    cached: bool,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Mount at `directory` and serve until it is unmounted; closes nothing of what it was given.

    Raises:
        FuseUnavailable: libfuse would not mount.
    """
    options = {"fsname=encfs", "subtype=encfs", "default_permissions", "nosuid", "nodev"}
    try:
        pyfuse3.init(DataFile(device, pool, pulse, cached=cached), str(directory), options)
    except RuntimeError as exc:
        raise FuseUnavailable(
            f"mounting FUSE at {directory} failed: {exc}",
            hint="run as root, or install fuse3 so that fusermount3 can mount for you",
        ) from exc
    logging.getLogger("pyfuse3").addFilter(is_worth_saying)
    # The module's own way to exchange its event loop; see `eager`.
    pyfuse3.trio = eager_trio(EagerWait(pulse.busy))  # type: ignore[attr-defined]
    try:
        task_status.started()
        await pyfuse3.main(min_tasks=WORKERS, max_tasks=WORKERS)
    finally:
        pyfuse3.close()
