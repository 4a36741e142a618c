"""Clients of a mounted volume, run as processes of their own: a volume that hangs takes only them with it.

load.py write PATH BYTES SEED   writes blocks that all differ, fsyncs, prints `stored`
load.py check PATH BYTES SEED   reads them back, without the page cache's help
load.py store FOLDER            writes numbered files until it is stopped; prints each number once fsync
                                told that the file is stored, and at the end the error that stopped it
load.py verify FOLDER COUNT     reads the first files back
load.py fill PATH               writes blocks to one file until there is an error; prints `0` at the start
load.py read PATH               reads the first block again and again, past the page cache, until an error
"""

from __future__ import annotations

import errno
import hashlib
import mmap
import os
import sys
from pathlib import Path

BLOCK = 1 << 20


def _block(number: int, seed: bytes) -> bytes:
    """Block of that number: random to look at, and unlike every other."""
    return number.to_bytes(8, "little") + seed * ((BLOCK - 8) // len(seed)) + seed[: (BLOCK - 8) % len(seed)]


def contents(number: int) -> bytes:
    """What the file of that number holds: 0 to 300 kB."""
    length = int.from_bytes(hashlib.sha256(b"%d" % number).digest()[:4], "little") % 300_000
    return hashlib.shake_128(b"%d" % number).digest(length)


def write(path: Path, size: int, seed: bytes) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    for number in range(size // BLOCK):
        block = _block(number, seed)
        assert os.write(fd, block) == len(block)
    os.fsync(fd)
    print("stored", flush=True)


def check(path: Path, size: int, seed: bytes) -> None:
    fd = os.open(path, os.O_RDONLY)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    with os.fdopen(fd, "rb", buffering=0) as file:
        assert os.fstat(fd).st_size == size
        for number in range(size // BLOCK):
            if file.read(BLOCK) != _block(number, seed):
                sys.exit(f"block {number} of {BLOCK} bytes is not what was written")


def store(folder: Path) -> None:
    folder.mkdir()
    directory = os.open(folder, os.O_RDONLY)
    number = 0
    while True:
        fd = os.open(folder / str(number), os.O_WRONLY | os.O_CREAT, 0o600)
        data = contents(number)
        if os.write(fd, data) != len(data):
            raise OSError(errno.ENOSPC, "the volume is full")
        os.fsync(fd)
        os.fsync(directory)
        os.close(fd)
        print(number, flush=True)
        number += 1


def verify(folder: Path, count: int) -> None:
    for number in range(count):
        if (folder / str(number)).read_bytes() != contents(number):
            sys.exit(f"file {number} is not what was written")


def fill(path: Path) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    print("0", flush=True)
    for number in range(1 << 20):
        os.write(fd, _block(number, b"fill"))
        if number % 64 == 63:
            os.fsync(fd)


def read(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECT)
    area = mmap.mmap(-1, 4096)
    while True:
        os.preadv(fd, [area], 0)
        print("read", flush=True)


def main(words: list[str]) -> None:
    operation, path, rest = words[0], Path(words[1]), words[2:]
    try:
        match operation:
            case "write":
                write(path, int(rest[0]), bytes.fromhex(rest[1]))
            case "check":
                check(path, int(rest[0]), bytes.fromhex(rest[1]))
            case "store":
                store(path)
            case "verify":
                verify(path, int(rest[0]))
            case "fill":
                fill(path)
            case "read":
                read(path)
    except OSError as exc:
        print(errno.errorcode[exc.errno or 0], flush=True)
        # Closing descriptors of a broken file system may complain; nothing is left to be done about it.
        os._exit(1)


if __name__ == "__main__":
    main(sys.argv[1:])
