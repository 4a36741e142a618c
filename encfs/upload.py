"""`encfs upload`: an image into a page or block blob, in parallel, from where the last try ended.

Strategy
- Page blob: made empty with a mark that says which image it will be, then its pages are sent under a lease.
  What the store lists as written by an upload with the same mark is not sent again. Until the mark is taken
  away nothing of ours mounts the blob.
- Block blob: blocks are named by the SHA-256 of their content, so what the store has is known by name, equal
  blocks (of zeros, most of all) are sent once, and the commit at the end is all or nothing.
- Zeros are never sent: neither holes of the file nor what is written zero.
- In the end every byte is read back and compared, against the blob's ETag.

Rules: nothing that is there is replaced unless asked for; the image is locked against writers meanwhile.

Kind: composition
"""

from __future__ import annotations

import base64
import hashlib
import os
from bisect import bisect_right
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import trio

from encfs.blobs import BlobAccess, open_access, open_http
from encfs.block.blob import BlobDevice
from encfs.block.blobcodec import MAX_BLOB, MAX_BLOCKS, MAX_PUT, PAGE, BlobKind, BlobProperties
from encfs.block.blobhttp import BlobHttp
from encfs.block.bloblease import Lease
from encfs.block.blobput import BlobPut
from encfs.block.file import FileDevice, open_file
from encfs.block.retry import DEADLINE, Retry
from encfs.errors import ImageBusy, ImageError, StoreError, UnsuitableBlob
from encfs.opening import UnlockOptions, open_place
from encfs.progress import progress

_GRAIN = 64 << 10  # zeros shorter than this are sent: another request would cost more
_ZEROS = bytes(MAX_PUT)
# The shortest there is: a try that is killed keeps the next one waiting for no longer than that.
_LEASE_SECONDS = 15
_AGAIN_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class UploadOptions:
    """How to upload.

    Attributes:
        kind: of the blob.
        force: replace what is there.
        raw: not an image with a LUKS2 header in it.
        parallel: requests at once.
        progress: show on a terminal how far it is.
    """

    kind: BlobKind = BlobKind.PAGE
    force: bool = False
    raw: bool = False
    parallel: int = 8
    progress: bool = False


@dataclass(slots=True)
class Uploaded:
    """What was done, in bytes: `sent` now, `resumed` by an earlier try, `zero` not sent at all."""

    url: str
    kind: str
    size: int
    sent: int = 0
    resumed: int = 0
    zero: int = 0
    verified: int = 0

    @property
    def done(self) -> int:
        """Bytes of the image that are dealt with."""
        return self.sent + self.resumed + self.zero


@dataclass(slots=True)
class _Work:
    """One upload under way."""

    source: FileDevice
    size: int
    mark: str
    options: UploadOptions
    done: Uploaded
    seen: list[tuple[int, int]] = field(default_factory=list)

    async def read(self, offset: int, length: int) -> bytes:
        return await trio.to_thread.run_sync(self.source.read_exactly, offset, length)

    async def each(
        self, pieces: Iterator[tuple[int, int]], call: Callable[[int, int], Awaitable[None]]
    ) -> None:
        """Make a call for every piece (offset and length), so many at once."""
        lock = trio.Lock()

        async def worker() -> None:
            while True:
                async with lock:
                    piece = next(pieces, None)
                if piece is None:
                    return
                await call(*piece)

        async with trio.open_nursery() as nursery:
            for _ in range(self.options.parallel):
                nursery.start_soon(worker)


async def upload(path: Path, access: BlobAccess, options: UploadOptions) -> Uploaded:
    """Upload an image.

    Raises:
        ImageError: not an image, or something is there already.
        ImageBusy: another writes the image, or the blob.
        StoreError: the store failed, or holds something else than was sent.
    """
    if not options.raw:
        image = await open_place(path, UnlockOptions(), read_only=True)
        await image.aclose()
    source = await trio.to_thread.run_sync(lambda: open_file(path, read_only=True, direct=False))
    try:
        size = os.fstat(source.fd).st_size
        if size % PAGE or not 0 < size <= MAX_BLOB:
            raise UnsuitableBlob(f"image {path}: {size} bytes, wanted a multiple of {PAGE} up to 8 TiB")
        mark = await trio.to_thread.run_sync(_mark_of, source)
        work = _Work(source, size, mark, options, Uploaded(str(access.url), str(options.kind), size))
        async with _only_error():
            send = _upload_pages if options.kind is BlobKind.PAGE else _upload_blocks
            await send(access, work)
        return work.done
    finally:
        source.close()


def _mark_of(source: FileDevice) -> str:
    """Which image this is: its size, time and beginning."""
    status = os.fstat(source.fd)
    head = source.read_exactly(0, min(source.size, 1 << 20))
    return hashlib.sha256(f"{status.st_size} {status.st_mtime_ns} ".encode() + head).hexdigest()[:40]


# -- page blobs -----------------------------------------------------------------------------------


async def _upload_pages(access: BlobAccess, work: _Work) -> None:
    http = open_http(access)
    try:
        await _make_page_blob(BlobPut(http), access, work)
        lease = await _become_writer(http)
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_keep, lease)
                put = BlobPut(http, lease.lease_id)
                work.seen = await put.pages(work.size)
                await _send_pages(put, work)
                await _verify(access, work)
                await put.finish()
                nursery.cancel_scope.cancel()
        finally:
            with trio.CancelScope(shield=True):
                await lease.release()
    finally:
        with trio.CancelScope(shield=True):
            await http.aclose()


async def _become_writer(http: BlobHttp) -> Lease:
    """A lease of our own; that of a try that was killed is waited for."""
    lease = Lease(http, seconds=_LEASE_SECONDS)
    end = trio.current_time() + _LEASE_SECONDS + _AGAIN_SECONDS
    while True:
        try:
            await lease.acquire(deadline=DEADLINE)
            return lease
        except ImageBusy:
            if trio.current_time() >= end:
                raise
        await trio.sleep(_AGAIN_SECONDS)


async def _make_page_blob(put: BlobPut, access: BlobAccess, work: _Work) -> None:
    """An empty one with our mark, unless an earlier try left one."""
    found = await put.look()
    if found is not None and _is_ours(found, work):
        return
    if found is not None and not work.options.force:
        raise _exists(access, found)
    try:
        await put.create_pages(work.size, upload=work.mark, replace=found is not None)
    except StoreError:
        # The answer to the request that made it may have been lost, and the next one refused.
        found = await put.look()
        if found is None or not _is_ours(found, work):
            raise


def _is_ours(found: BlobProperties, work: _Work) -> bool:
    """Whether it is what an earlier try of this upload left."""
    return (found.kind, found.size, found.upload) == (BlobKind.PAGE, work.size, work.mark)


async def _keep(lease: Lease) -> None:
    raise await lease.keep()


async def _send_pages(put: BlobPut, work: _Work) -> None:
    starts = [start for start, _ in work.seen]

    def is_there(start: int, end: int) -> bool:
        index = bisect_right(starts, start) - 1
        return index >= 0 and end <= work.seen[index][1]

    async def send(offset: int, length: int) -> None:
        data = memoryview(await work.read(offset, length))
        work.done.zero += length
        for start, end in _not_zero(data):
            if is_there(offset + start, offset + end):
                work.done.resumed += end - start
            else:
                await put.put_pages(offset + start, data[start:end])
                work.done.sent += end - start
            work.done.zero -= end - start

    label = f"uploading to {put.http.url.name}"
    async with progress(label, lambda: work.done.done, work.size, show=work.options.progress):
        await work.each(_pieces(work.source.fd, work.size, work.done), send)


def _pieces(fd: int, size: int, done: Uploaded) -> Iterator[tuple[int, int]]:
    """Pieces of at most 4 MiB, on multiples of it, that are no holes of the file; holes count as zero."""
    at = 0
    while at < size:
        try:
            start = os.lseek(fd, at, os.SEEK_DATA)
        except OSError:  # a hole up to the end
            done.zero += size - at
            return
        start = max(at, start - start % MAX_PUT)
        done.zero += start - at
        at = min(start + MAX_PUT, size)
        yield start, at - start


def _not_zero(data: memoryview) -> Iterator[tuple[int, int]]:
    """The parts of a piece that are not zero, in grains, neighbours together."""
    start = None
    for at in range(0, len(data), _GRAIN):
        grain = data[at : at + _GRAIN]
        if grain == _ZEROS[: len(grain)]:
            if start is not None:
                yield start, at
            start = None
        elif start is None:
            start = at
    if start is not None:
        yield start, len(data)


# -- block blobs ----------------------------------------------------------------------------------


async def _upload_blocks(access: BlobAccess, work: _Work) -> None:
    http = open_http(access)
    try:
        put = BlobPut(http)
        found = await put.look()
        if found is not None and not work.options.force:
            raise _exists(access, found)
        if found is not None and found.kind is not BlobKind.BLOCK:
            raise UnsuitableBlob(
                f"image {access}: a {found.kind} is there, wanted to replace a {BlobKind.BLOCK}"
            )
        names, md5 = await _send_blocks(put, work)
        await put.commit(names, md5=md5, replace=found is not None)
    finally:
        with trio.CancelScope(shield=True):
            await http.aclose()
    await _verify(access, work)


async def _send_blocks(put: BlobPut, work: _Work) -> tuple[list[str], str]:
    """Send what the store does not have; names of all blocks in order, and the MD5 of the whole."""
    length = max(MAX_PUT, -(-work.size // MAX_BLOCKS // PAGE) * PAGE)
    kept = await put.blocks()
    names = [""] * -(-work.size // length)
    whole = hashlib.md5(usedforsecurity=False)
    reading, turn = trio.Lock(), iter(range(len(names)))

    async def worker() -> None:
        while True:
            async with reading:  # in order, for the checksum of the whole
                index = next(turn, None)
                if index is None:
                    return
                data = await work.read(index * length, min(length, work.size - index * length))
                await trio.to_thread.run_sync(whole.update, data)
                name = base64.b64encode(hashlib.sha256(data).digest()).decode()
                names[index], is_new = name, kept.get(name) != len(data)
                kept[name] = len(data)
            if data == _ZEROS[: len(data)] and not is_new:
                work.done.zero += len(data)
            elif not is_new:
                work.done.resumed += len(data)
            else:
                await put.put_block(name, data)
                work.done.sent += len(data)

    label = f"uploading to {put.http.url.name}"
    async with (
        progress(label, lambda: work.done.done, work.size, show=work.options.progress),
        trio.open_nursery() as nursery,
    ):
        for _ in range(work.options.parallel):
            nursery.start_soon(worker)
    return names, base64.b64encode(whole.digest()).decode()


# -- both -----------------------------------------------------------------------------------------


async def _verify(access: BlobAccess, work: _Work) -> None:
    """Read everything back and compare; holes of the blob are zeros that nobody has to send."""
    device = await open_access(access, read_only=True, unfinished=True)
    try:
        if (device.kind, device.size) != (work.options.kind, work.size):
            raise StoreError(
                f"image {access}: {device.kind} of {device.size} bytes after uploading {work.size}"
            )
        await _compare(device, access, work)
    finally:
        with trio.CancelScope(shield=True):
            await device.aclose()


async def _compare(device: BlobDevice, access: BlobAccess, work: _Work) -> None:
    patient = Retry(device)

    async def compare(offset: int, length: int) -> None:
        wanted, seen = await work.read(offset, length), bytearray(length)
        await patient.read_into(offset, memoryview(seen))
        if seen != wanted:
            raise StoreError(
                f"image {access}: the store holds something else at {offset} than was sent",
                hint="upload it again with --force; if that is no help, something is wrong with the store",
            )
        work.done.verified += length

    pieces = ((at, min(MAX_PUT, work.size - at)) for at in range(0, work.size, MAX_PUT))
    label = f"verifying {access.url.name}"
    async with progress(label, lambda: work.done.verified, work.size, show=work.options.progress):
        await work.each(pieces, compare)


def _exists(access: BlobAccess, found: BlobProperties) -> ImageError:
    what = (
        "an upload of another image is under way there"
        if found.upload
        else f"a {found.kind} is there already"
    )
    return ImageError(f"image {access}: {what}", hint="choose another name, or give --force to replace it")


@asynccontextmanager
async def _only_error() -> AsyncIterator[None]:
    """The one error out of the group that a nursery makes of it."""
    try:
        yield
    except BaseExceptionGroup as group:
        error: BaseException = group
        while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
            error = error.exceptions[0]
        raise error from None
