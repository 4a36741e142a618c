"""What the local blob service remembers: containers, blobs and their content, on disk.

Strategy: one row a blob in a database of its own, one sparse file a content. All calls block and are made in
one worker thread (`run`), so a request that looks and then changes sees nobody in between. What was written
in a page blob is kept as intervals in memory and found again from the file's own extents after a restart,
where it may then be coarser (a whole 4096-byte block) but never less.

Rules: an answered write survives the end of this process at any moment. It is not forced to disk: a stand-in
on a developer's machine is not where data is kept.

Kind: adapter
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import json
import os
import shutil
import sqlite3
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TypeVar

import trio

from sidecar.errors import UsageError
from sidecar.local.bloblease import Lease
from sidecar.local.blobranges import RangeSet

T = TypeVar("T")
_SCHEMA = """
create table if not exists containers (name text primary key, public integer not null);
create table if not exists blobs (
    container text not null, name text not null, record text not null, primary key (container, name));
create table if not exists counters (name text primary key, value integer not null);
"""
_PUNCH = 0x01 | 0x02  # <linux/falloc.h>: KEEP_SIZE and PUNCH_HOLE
_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, slots=True)
class BlobRecord:
    """One blob without its content.

    Attributes:
        kind: `PageBlob` or `BlockBlob`; empty for a block blob that has only uncommitted blocks.
        etag: grows with every change.
        modified: Unix seconds.
        file: name of its content.
        blocks: committed ones of a block blob, identifier and length.
    """

    container: str
    name: str
    kind: str
    size: int
    etag: int
    modified: float
    created: float
    file: str
    sequence: int = 0
    content_type: str = "application/octet-stream"
    content_md5: str = ""
    metadata: dict[str, str] = field(default_factory=dict)
    blocks: tuple[tuple[str, int], ...] = ()
    lease: Lease = Lease()  # noqa: RUF009 - frozen


class BlobStore:
    """The blobs below one directory; open it once per process."""

    def __init__(self, directory: Path) -> None:
        """Open or create; UsageError when the directory cannot be used."""
        self._files = directory / "blobs"
        try:
            self._files.mkdir(mode=0o700, exist_ok=True)
            path = directory / "blobs.sqlite"
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
            self._db = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
            self._db.execute("pragma journal_mode = wal")
            self._db.execute("pragma synchronous = normal")
            self._db.executescript(_SCHEMA)
        except (OSError, sqlite3.Error) as exc:
            raise UsageError(f"blobs in {directory}: {exc}", hint="choose another directory") from exc
        self._limiter = trio.CapacityLimiter(1)
        self._written: dict[str, RangeSet] = {}
        self._last = 0

    def close(self) -> None:
        """Close the database."""
        self._db.close()

    async def run(self, call: Callable[[], T]) -> T:
        """Make a call of this store in its worker thread, alone."""
        return await trio.to_thread.run_sync(call, limiter=self._limiter)

    # -- containers and records -----------------------------------------------------------------

    def container(self, name: str) -> bool | None:
        """Whether a container may be read by anybody; None when there is none."""
        row = self._db.execute("select public from containers where name = ?", (name,)).fetchone()
        return None if row is None else bool(row[0])

    def add_container(self, name: str, *, public: bool) -> bool:
        """Make a container; False when there is one."""
        row = self._db.execute("insert or ignore into containers values (?, ?)", (name, int(public)))
        return row.rowcount == 1

    def find(self, container: str, name: str) -> BlobRecord | None:
        """A blob."""
        query = "select record from blobs where container = ? and name = ?"
        row = self._db.execute(query, (container, name)).fetchone()
        return None if row is None else _parsed(container, name, str(row[0]))

    def save(self, record: BlobRecord) -> None:
        """Write a record, new or changed."""
        values = asdict(record)
        for name in ("container", "name"):
            del values[name]
        row = (record.container, record.name, json.dumps(values))
        self._db.execute("insert or replace into blobs values (?, ?, ?)", row)

    def delete(self, record: BlobRecord) -> None:
        """Forget a blob and its content."""
        self._db.execute(
            "delete from blobs where container = ? and name = ?", (record.container, record.name)
        )
        self.drop(record.file)

    def next_etag(self) -> int:
        """Larger than every one before, also after a restart."""
        self._last = max(time.time_ns() // 100, self._last + 1)
        return self._last

    # -- content --------------------------------------------------------------------------------

    def new_file(self, size: int) -> str:
        """An empty content of `size` bytes, all zero."""
        name = os.urandom(16).hex()
        with self._opened(name, os.O_CREAT | os.O_EXCL) as handle:
            os.ftruncate(handle, size)
        self._written[name] = RangeSet()
        return name

    def drop(self, name: str) -> None:
        """Remove a content with its uncommitted blocks."""
        (self._files / name).unlink(missing_ok=True)
        shutil.rmtree(self._files / f"{name}.blocks", ignore_errors=True)
        self._written.pop(name, None)

    def read(self, name: str, offset: int, length: int) -> bytes:
        """Bytes of a content; the range lies inside it."""
        with self._opened(name) as handle:
            data = os.pread(handle, length, offset)
        return data + bytes(length - len(data))

    def write(self, name: str, offset: int, data: bytes) -> None:
        """Change a range."""
        written = self.written(name)
        with self._opened(name) as handle:
            done = 0
            while done < len(data):
                done += os.pwrite(handle, memoryview(data)[done:], offset + done)
        written.add(offset, offset + len(data))

    def clear(self, name: str, offset: int, length: int) -> None:
        """Make a range zero and unwritten."""
        written = self.written(name)
        with self._opened(name) as handle:
            place = (ctypes.c_int64(offset), ctypes.c_int64(length))
            if _libc.fallocate(handle, _PUNCH, *place) != 0:
                raise OSError(ctypes.get_errno(), "fallocate")
        written.remove(offset, offset + length)

    def resize(self, name: str, size: int) -> None:
        """Cut off or add zeros."""
        written = self.written(name)
        with self._opened(name) as handle:
            os.ftruncate(handle, size)
        written.remove(size, 1 << 62)

    def written(self, name: str) -> RangeSet:
        """What was written of a content."""
        if name not in self._written:
            with self._opened(name) as handle:
                self._written[name] = RangeSet(_extents(handle))
        return self._written[name]

    # -- blocks ---------------------------------------------------------------------------------

    def put_block(self, name: str, block: str, data: bytes) -> None:
        """Keep an uncommitted block of a content; `block` is its identifier in hex."""
        folder = self._files / f"{name}.blocks"
        folder.mkdir(mode=0o700, exist_ok=True)
        partial = folder / f".{block}"
        partial.write_bytes(data)
        partial.rename(folder / block)

    def blocks(self, name: str) -> dict[str, int]:
        """Uncommitted blocks of a content with their lengths, by name."""
        folder = self._files / f"{name}.blocks"
        if not folder.is_dir():
            return {}
        return {p.name: p.stat().st_size for p in sorted(folder.iterdir()) if not p.name.startswith(".")}

    def block(self, name: str, block: str) -> bytes:
        """An uncommitted block."""
        return (self._files / f"{name}.blocks" / block).read_bytes()

    @contextlib.contextmanager
    def _opened(self, name: str, flags: int = 0) -> Iterator[int]:
        handle = os.open(self._files / name, os.O_RDWR | os.O_CLOEXEC | flags, 0o600)
        try:
            yield handle
        finally:
            os.close(handle)


def _extents(handle: int) -> Iterator[tuple[int, int]]:
    """The parts of a sparse file that hold data."""
    end = 0
    while True:
        try:
            start = os.lseek(handle, end, os.SEEK_DATA)
            end = os.lseek(handle, start, os.SEEK_HOLE)
        except OSError as exc:
            if exc.errno != errno.ENXIO:  # no data after this place
                raise
            return
        yield start, end


def _parsed(container: str, name: str, text: str) -> BlobRecord:
    values = json.loads(text)
    lease = Lease(**values.pop("lease"))
    blocks = tuple((block, length) for block, length in values.pop("blocks"))
    return BlobRecord(container, name, blocks=blocks, lease=lease, **values)
