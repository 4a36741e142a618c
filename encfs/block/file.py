"""Source: a local image file or block device, by O_DIRECT where the file system allows it.

Calls are made straight from the event loop, not from a thread: a local read takes less time than a task
switch, and threads made on the write path would need memory there (see `buffers`). Loop-side concurrency
comes from the kernel's own queue.

O_DIRECT matters for more than speed: a buffered write needs page cache, and page cache may have to be
reclaimed from the very pages whose write is being served.

Kind: adapter
"""

from __future__ import annotations

import errno
import fcntl
import logging
import mmap
import os
import stat
from collections.abc import Callable
from pathlib import Path

from encfs.block.device import Buffer, check_request
from encfs.errors import ImageBusy, ImageMissing, ReadOnlyDevice, StoreError, TruncatedImage

log = logging.getLogger(__name__)

_DIRECT_BLOCK = 4096
_BOUNCE_BYTES = 256 << 10


class FileDevice:
    """A block device over an open file descriptor, which it owns.

    Args:
        fd: open for reading, and for writing unless `read_only`.
        size: bytes served; the file's size rounded down to `block_size`.
        block_size: smallest request in bytes; with O_DIRECT also the alignment of buffers.
        read_only: refuse writes.
        direct: the descriptor was opened with O_DIRECT.
    """

    def __init__(self, fd: int, *, size: int, block_size: int, read_only: bool, direct: bool) -> None:
        self.fd = fd
        self.size = size
        self.block_size = block_size
        self.read_only = read_only
        self.direct = direct
        # O_DIRECT refuses memory that is not aligned. The driver's buffers are; others go through this one.
        self._bounce = memoryview(mmap.mmap(-1, _BOUNCE_BYTES)) if direct else memoryview(b"")

    async def read_into(self, offset: int, buffer: memoryview) -> None:
        check_request(self, offset, len(buffer))
        try:
            self._transfer(os.preadv, buffer, offset)
        except OSError as exc:
            if exc.errno != errno.EINVAL or not self.direct:
                raise StoreError(
                    f"image: reading {len(buffer)} bytes at {offset} failed: {exc.strerror}"
                ) from exc
            for start in range(0, len(buffer), len(self._bounce)):
                part = self._bounce[: min(len(self._bounce), len(buffer) - start)]
                self._transfer(os.preadv, part, offset + start)
                buffer[start : start + len(part)] = part

    async def write(self, offset: int, data: Buffer) -> None:
        if self.read_only:
            raise ReadOnlyDevice("image is open read-only")
        check_request(self, offset, len(data))
        view = memoryview(data)
        try:
            self._transfer(os.pwritev, view, offset)
        except OSError as exc:
            if exc.errno != errno.EINVAL or not self.direct:
                raise StoreError(
                    f"image: writing {len(view)} bytes at {offset} failed: {exc.strerror}"
                ) from exc
            for start in range(0, len(view), len(self._bounce)):
                part = self._bounce[: min(len(self._bounce), len(view) - start)]
                part[:] = view[start : start + len(part)]
                self._transfer(os.pwritev, part, offset + start)

    def _transfer(
        self, call: Callable[[int, list[memoryview], int], int], view: memoryview, offset: int
    ) -> None:
        """Repeat `call` until the whole of `view` is read or written."""
        done = 0
        while done < len(view):
            count = call(self.fd, [view[done:]], offset + done)
            if count == 0:
                raise StoreError(
                    f"image: ends at {offset + done}, wanted {len(view) - done} more bytes",
                    hint="the file was truncated while in use; restore it from a copy",
                )
            done += count

    async def flush(self) -> None:
        if self.read_only:
            return
        try:
            os.fdatasync(self.fd)
        except OSError as exc:
            raise StoreError(f"image: making writes durable failed: {exc.strerror}") from exc

    def read_exactly(self, offset: int, length: int) -> bytes:
        """Read any byte range, blocking; for headers, not for the hot path.

        Raises:
            TruncatedImage: the range does not lie inside the image.
            StoreError: reading failed.
        """
        if offset < 0 or length < 0 or offset + length > self.size:
            raise TruncatedImage(f"image: {self.size} bytes long, wanted {length} bytes at {offset}")
        first = offset - offset % _DIRECT_BLOCK
        span = -(-(offset + length - first) // _DIRECT_BLOCK) * _DIRECT_BLOCK
        with mmap.mmap(-1, max(span, mmap.PAGESIZE)) as area, memoryview(area) as view:
            try:
                count = os.preadv(self.fd, [view[:span]], first)
            except OSError as exc:
                raise StoreError(f"image: reading {length} bytes at {offset} failed: {exc.strerror}") from exc
            if first + count < offset + length:
                raise TruncatedImage(f"image: ends at {first + count}, wanted {length} bytes at {offset}")
            return bytes(view[offset - first : offset - first + length])

    def write_durably(self, offset: int, data: bytes) -> None:
        """Write any byte range and make it durable, blocking; for headers. Needs a device without O_DIRECT.

        Raises:
            StoreError: writing failed; some of the bytes may be there.
        """
        assert not self.direct
        try:
            self._transfer(os.pwritev, memoryview(data), offset)
            os.fsync(self.fd)
        except OSError as exc:
            raise StoreError(f"image: writing {len(data)} bytes at {offset} failed: {exc.strerror}") from exc

    def close(self) -> None:
        """Close the descriptor; also what `aclose` does."""
        os.close(self.fd)

    async def aclose(self) -> None:
        self.close()


def open_file(path: Path, *, read_only: bool, lock: bool = True, direct: bool = True) -> FileDevice:
    """Open a local image, locked against a second writer.

    The lock (flock, shared when read-only) belongs to the open file, so it lives as long as any process
    that inherited the descriptor.

    Raises:
        ImageMissing: no such file, not a regular file or block device, or no permission.
        ImageBusy: another process has the image open for writing (or for reading, when we want to write).
    """
    flags = (os.O_RDONLY if read_only else os.O_RDWR) | os.O_CLOEXEC
    try:
        fd = os.open(path, flags)
    except OSError as exc:
        raise ImageMissing(
            f"image {path}: {exc.strerror}", hint="make one with `encfs create`, or check the path"
        ) from exc
    try:
        return adopt_file(fd, path, read_only=read_only, lock=lock, direct=direct)
    except BaseException:
        os.close(fd)
        raise


def adopt_file(fd: int, path: Path, *, read_only: bool, lock: bool, direct: bool = True) -> FileDevice:
    """Make a device of an open descriptor: check its kind, take the lock, turn on O_DIRECT if possible."""
    status = os.fstat(fd)
    if not (stat.S_ISREG(status.st_mode) or stat.S_ISBLK(status.st_mode)):
        raise ImageMissing(f"image {path}: not a regular file or block device")
    if lock:
        try:
            fcntl.flock(fd, (fcntl.LOCK_SH if read_only else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except BlockingIOError as exc:
            raise ImageBusy(
                f"image {path}: in use by another process",
                hint="unmount it there first; an image has one writer, or any number of readers",
            ) from exc
    size = os.lseek(fd, 0, os.SEEK_END)
    direct = direct and _set_direct(fd)
    block_size = _DIRECT_BLOCK if direct and not _reads_sectors(fd, size) else 512
    return FileDevice(
        fd, size=size - size % block_size, block_size=block_size, read_only=read_only, direct=direct
    )


def _set_direct(fd: int) -> bool:
    """Turn on O_DIRECT; False where the file system has none: the page cache serves then."""
    try:
        fcntl.fcntl(fd, fcntl.F_SETFL, fcntl.fcntl(fd, fcntl.F_GETFL) | os.O_DIRECT)
    except OSError as exc:
        if exc.errno != errno.EINVAL:
            raise StoreError(f"image: setting O_DIRECT failed: {exc.strerror}") from exc
        log.info("image: its file system has no O_DIRECT, using the page cache")
        return False
    return True


def _reads_sectors(fd: int, size: int) -> bool:
    """Whether direct requests of 512 bytes work; discs with 4096-byte sectors refuse them."""
    if size < 1024:
        return True
    with mmap.mmap(-1, mmap.PAGESIZE) as area:
        view = memoryview(area)
        try:
            os.preadv(fd, [view[512:1024]], 512)
        except OSError as exc:
            if exc.errno == errno.EINVAL:
                return False
            raise StoreError(f"image: reading failed: {exc.strerror}") from exc
        finally:
            view.release()
    return True
