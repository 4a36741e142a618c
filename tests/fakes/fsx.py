"""Random operations on one file of a mounted volume, checked against a model in memory.

fsx.py FILE SECONDS SEED     prints `0` when it starts, and `done OPERATIONS` when all agreed

In the manner of fsx: reads, writes and mapped writes of any size and alignment, truncation both ways, holes,
zeroed and preallocated ranges, fsync, dropping the page cache, closing and opening again. A difference ends
it with the operation's number, so that the same seed finds it again.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import random
import sys
import time
from collections.abc import Callable
from pathlib import Path

MAX_SIZE = 6 << 20
_KEEP_SIZE, _PUNCH_HOLE, _ZERO_RANGE = 1, 2, 16
_libc = ctypes.CDLL(None, use_errno=True)
_libc.fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]


class Exerciser:
    """One file and what it should hold."""

    def __init__(self, path: Path, seed: int) -> None:
        self.path = path
        self.random = random.Random(seed)
        self.model = bytearray()
        self.fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
        self.count = 0

    def step(self) -> None:
        """One operation."""
        self.count += 1
        operations: list[tuple[int, Callable[[], None]]] = [
            (30, self.write),
            (30, self.read),
            (8, self.write_mapped),
            (6, self.truncate),
            (5, self.punch),
            (4, self.zero),
            (3, self.preallocate),
            (4, self.sync),
            (2, self.drop),
            (2, self.reopen),
        ]
        weights = [weight for weight, _ in operations]
        (_, operation), *_ = self.random.choices(operations, weights)
        operation()

    def place(self, limit: int) -> tuple[int, int]:
        """Offset and length below a limit, often on or beside a boundary of pages or sectors."""
        offset = self.random.randrange(max(limit, 1))
        if self.random.random() < 0.4:
            offset = offset // 4096 * 4096 + self.random.choice((0, 0, 1, 4095, 512))
        length = int(2 ** self.random.uniform(0, 18.5))
        offset = min(offset, max(limit - 1, 0))
        return offset, max(1, min(length, limit - offset))

    def grow(self, size: int) -> None:
        if size > len(self.model):
            self.model += bytes(size - len(self.model))

    def write(self) -> None:
        offset, length = self.place(MAX_SIZE)
        data = self.random.randbytes(length)
        assert os.pwrite(self.fd, data, offset) == length
        self.grow(offset + length)
        self.model[offset : offset + length] = data

    def read(self) -> None:
        offset, length = self.place(len(self.model) + 1)
        self.compare(offset, os.pread(self.fd, length, offset), self.model[offset : offset + length])

    def write_mapped(self) -> None:
        if not self.model:
            return
        offset, length = self.place(len(self.model))
        data = self.random.randbytes(length)
        with mmap.mmap(self.fd, len(self.model)) as area:
            area[offset : offset + length] = data
            if self.random.random() < 0.3:
                area.flush()
        self.model[offset : offset + length] = data

    def truncate(self) -> None:
        size = self.random.randrange(MAX_SIZE)
        os.ftruncate(self.fd, size)
        self.grow(size)
        del self.model[size:]

    def allocate(self, mode: int, offset: int, length: int) -> None:
        if _libc.fallocate(self.fd, mode, offset, length):
            raise OSError(ctypes.get_errno(), "fallocate")

    def punch(self) -> None:
        offset, length = self.place(len(self.model) + 1)
        self.allocate(_PUNCH_HOLE | _KEEP_SIZE, offset, length)
        end = min(offset + length, len(self.model))
        self.model[offset:end] = bytes(max(end - offset, 0))

    def zero(self) -> None:
        offset, length = self.place(MAX_SIZE)
        self.allocate(_ZERO_RANGE, offset, length)
        self.grow(offset + length)
        self.model[offset : offset + length] = bytes(length)

    def preallocate(self) -> None:
        offset, length = self.place(MAX_SIZE)
        self.allocate(0, offset, length)
        self.grow(offset + length)

    def sync(self) -> None:
        os.fsync(self.fd)

    def drop(self) -> None:
        os.fsync(self.fd)
        os.posix_fadvise(self.fd, 0, 0, os.POSIX_FADV_DONTNEED)

    def reopen(self) -> None:
        os.close(self.fd)
        self.fd = os.open(self.path, os.O_RDWR)
        self.compare_all()

    def compare_all(self) -> None:
        assert os.fstat(self.fd).st_size == len(self.model), f"size after {self.count} operations"
        self.compare(0, os.pread(self.fd, len(self.model) + 1, 0), self.model)

    def compare(self, offset: int, found: bytes, wanted: bytes | bytearray) -> None:
        if found != wanted:
            assert len(found) == len(wanted), f"operation {self.count}: {len(found)} bytes at {offset}"
            bad = next(i for i in range(len(found)) if found[i] != wanted[i])
            sys.exit(f"operation {self.count}: byte {offset + bad} is not what was written")


def main() -> None:
    path, seconds, seed = Path(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3])
    exerciser = Exerciser(path, seed)
    print("0", flush=True)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        exerciser.step()
    exerciser.drop()
    exerciser.compare_all()
    print(f"done {exerciser.count}", flush=True)


if __name__ == "__main__":
    main()
