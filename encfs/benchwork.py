"""The workloads of `encfs bench`, in a process of their own.

The command that serves the volume must not wait for it: were the driver stuck, nobody could cut it off.
Prints one JSON object a line for each measure; the fields are those of `benchreport.Measure`.

Arguments: PATH SECONDS BYTES READ|WRITE. A PATH that is a folder gets a scratch file without a name, which
is gone with this process however it ends; a PATH that is a file is read, and written only with WRITE.

Kind: entry
"""

from __future__ import annotations

import contextlib
import json
import mmap
import os
import random
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

_BLOCK, _PIECE = 4096, 1 << 20
_READERS = 4
_WRITES_PER_FSYNC = 32


@dataclass(frozen=True, slots=True)
class Target:
    """What is read and written: `whole` goes through the page cache of a file system, if there is one."""

    whole: int
    direct: int
    size: int
    on_file_system: bool


def main() -> None:
    """Run every workload that the arguments allow."""
    path, seconds, size, mode = sys.argv[1], float(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
    try:
        for name, work in _workloads(_open(path, size, mode == "WRITE"), seconds, mode == "WRITE"):
            print(json.dumps({"name": name} | work()), flush=True)
    except OSError as exc:
        sys.exit(f"{exc.strerror}")


def _open(path: str, size: int, write: bool) -> Target:
    if os.path.isdir(path):
        whole = os.open(path, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
        direct = os.open(f"/proc/self/fd/{whole}", os.O_RDONLY | os.O_DIRECT | os.O_CLOEXEC)
        return Target(whole, direct, size, True)
    flags = (os.O_RDWR if write else os.O_RDONLY) | os.O_DIRECT | os.O_CLOEXEC
    fd = os.open(path, flags)
    # Whole pieces, at least one block: a small image is read over and over.
    length = min(size, os.lseek(fd, 0, os.SEEK_END))
    return Target(fd, fd, max(length - length % _PIECE, length - length % _BLOCK), False)


Work = Callable[[], dict[str, float | str]]


def _workloads(target: Target, seconds: float, write: bool) -> Iterator[tuple[str, Work]]:
    if write:
        yield "sequential write, fsync", lambda: _sequential_write(target)
    yield "sequential read", lambda: _sequential_read(target, seconds)
    yield "random read, 1 reader", lambda: _random_reads(target, seconds, 1)
    yield f"random read, {_READERS} readers", lambda: _random_reads(target, seconds, _READERS)
    if write:
        words = f"random write, fsync every {_WRITES_PER_FSYNC}"
        yield words, lambda: _random_writes(target, seconds, _WRITES_PER_FSYNC)
        yield "write and fsync, 4 KiB", lambda: _random_writes(target, seconds, 1)


def _area(length: int) -> memoryview:
    """Memory aligned as O_DIRECT wants it, filled with noise."""
    area = memoryview(mmap.mmap(-1, length))
    area[:] = os.urandom(length)
    return area


def _sequential_write(target: Target) -> dict[str, float | str]:
    piece = _area(_PIECE)
    start = time.perf_counter()
    for offset in range(0, target.size, _PIECE):
        os.pwritev(target.whole, [piece[: min(_PIECE, target.size - offset)]], offset)
    os.fsync(target.whole)
    return _throughput(target.size, time.perf_counter() - start)


def _sequential_read(target: Target, seconds: float) -> dict[str, float | str]:
    """The whole of it, or as much as the time allows, and more than once when there is time."""
    piece = _area(_PIECE)
    done, start = 0, time.perf_counter()
    while time.perf_counter() - start < seconds:
        if done % target.size == 0:
            # A read from memory says nothing about the volume.
            os.posix_fadvise(target.whole, 0, 0, os.POSIX_FADV_DONTNEED)
        offset = done % target.size
        length = os.preadv(target.whole, [piece[: min(_PIECE, target.size - offset)]], offset)
        if length == 0:
            raise OSError(0, "the volume ends before its size")
        done += length
    return _throughput(done, time.perf_counter() - start)


def _throughput(count: int, seconds: float) -> dict[str, float | str]:
    return {"unit": "MiB/s", "value": count / (1 << 20) / seconds}


def _random_reads(target: Target, seconds: float, readers: int) -> dict[str, float | str]:
    """Each reader is a process, so that they do not wait for each other's interpreter."""
    latencies: list[float] = []
    with contextlib.ExitStack() as stack:
        pipes = [stack.enter_context(_reader(target, seconds, number)) for number in range(readers)]
        for pipe in pipes:
            with os.fdopen(pipe, "rb") as file:
                part = json.load(file)
            if isinstance(part, str):
                raise OSError(0, part)
            latencies += part
    return _rate(latencies, seconds)


@contextlib.contextmanager
def _reader(target: Target, seconds: float, number: int) -> Iterator[int]:
    """A child process that reads; yields where it writes its latencies, in microseconds, or what failed."""
    source, sink = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(source)
        with os.fdopen(sink, "w") as file:
            try:
                json.dump(
                    _timed(lambda block, at: os.preadv(target.direct, [block], at), target, seconds), file
                )
            except OSError as exc:
                json.dump(exc.strerror, file)
        os._exit(0)
    os.close(sink)
    try:
        yield source
    finally:
        os.waitpid(pid, 0)


def _timed(work: Callable[[memoryview, int], object], target: Target, seconds: float) -> list[float]:
    """Latencies of one request of 4 KiB after the other, each at a random place, in microseconds."""
    block, blocks = _area(_BLOCK), target.size // _BLOCK
    draw = random.Random(os.getpid())  # noqa: S311 - a place to read, not a secret
    latencies, end = [], time.perf_counter() + seconds
    while (start := time.perf_counter()) < end:
        work(block, draw.randrange(blocks) * _BLOCK)
        latencies.append((time.perf_counter() - start) * 1e6)
    return latencies


def _random_writes(target: Target, seconds: float, per_fsync: int) -> dict[str, float | str]:
    count = 0

    def write(block: memoryview, at: int) -> None:
        nonlocal count
        os.pwritev(target.whole, [block], at)
        count += 1
        if count % per_fsync == 0:
            os.fdatasync(target.whole)

    return _rate(_timed(write, target, seconds), seconds)


def _rate(latencies: list[float], seconds: float) -> dict[str, float | str]:
    latencies.sort()
    if not latencies:
        raise OSError(0, "not one request was answered in time")
    last = len(latencies) - 1
    return {
        "unit": "requests/s",
        "value": len(latencies) / seconds,
        "median_us": latencies[last // 2],
        "p99_us": latencies[last * 99 // 100],
    }


if __name__ == "__main__":
    main()
