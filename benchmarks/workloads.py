"""What is measured on a mounted file system: one round of every workload, on a file and on a folder."""

from __future__ import annotations

import json
import os
import shutil
import tarfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

from benchmarks.systems import MIB, run

# Name of a measure -> its unit. In all but the last, more is better.
WRITE, COLD, HOT = "write+fsync", "cold read", "hot read"
READ_1, READ_4, RANDOM_WRITE = "random read, 1 reader", "random read, 4 readers", "random write, fsync/32"
UNTAR = "untar 10,000 files"
UNITS = {
    WRITE: "MiB/s",
    COLD: "MiB/s",
    HOT: "MiB/s",
    READ_1: "IOPS",
    READ_4: "IOPS",
    RANDOM_WRITE: "IOPS",
    UNTAR: "ms",
}
LESS_IS_BETTER = {UNTAR}
FILES, FILES_PER_FOLDER, FILE_BYTES = 10_000, 100, 1024


@dataclass(frozen=True, slots=True)
class Load:
    """How much of everything, and when.

    Attributes:
        mebibytes: of the file.
        seconds: of each random workload.
        archive: what is unpacked.
        ready: called before each measurement.
    """

    mebibytes: int
    seconds: float
    archive: Path
    ready: Callable[[], None] = lambda: None


def measure(mount_point: Path, load: Load) -> dict[str, float]:
    """One round: every measure of `UNITS`. Leaves the file system as empty as it was."""
    file = mount_point / "file"
    steps: dict[str, Callable[[], float]] = {
        WRITE: lambda: write_and_fsync(file, load.mebibytes),
        COLD: lambda: read(file),
        HOT: lambda: read(file),
        READ_1: lambda: random_io(file, load, "randread", "--direct=1", "--numjobs=1"),
        READ_4: lambda: random_io(file, load, "randread", "--direct=1", "--numjobs=4"),
        RANDOM_WRITE: lambda: random_io(file, load, "randwrite", "--fsync=32"),
        UNTAR: lambda: untar(mount_point / "tree", load.archive),
    }
    measured = {}
    for name, step in steps.items():
        if name == COLD:
            drop_caches()
        load.ready()
        measured[name] = step()
    file.unlink()
    return measured


def write_and_fsync(file: Path, mebibytes: int) -> float:
    """MiB/s of a new file written in pieces of 1 MiB, fsync included."""
    data = os.urandom(MIB)
    start = time.perf_counter()
    with file.open("wb", buffering=0) as out:
        for _ in range(mebibytes):
            out.write(data)
        os.fsync(out.fileno())
    return mebibytes / (time.perf_counter() - start)


def read(file: Path) -> float:
    """MiB/s of the whole file read in pieces of 1 MiB."""
    buffer = memoryview(bytearray(MIB))
    start = time.perf_counter()
    total = 0
    with file.open("rb", buffering=0) as source:
        while count := source.readinto(buffer):
            total += count
    return total / MIB / (time.perf_counter() - start)


def drop_caches() -> None:
    """Empty the page cache (tmpfs, which has no other place for its pages, keeps them)."""
    os.sync()
    Path("/proc/sys/vm/drop_caches").write_text("3")


def random_io(file: Path, load: Load, kind: str, *options: str) -> float:
    """Requests of 4 KiB a second, by fio."""
    runtime = f"{round(load.seconds * 1000)}ms"
    # fmt: off
    output = run(
        "fio", "--name=random", f"--filename={file}", f"--size={load.mebibytes}M", f"--rw={kind}",
        "--bs=4k", "--ioengine=psync", "--time_based", f"--runtime={runtime}", "--randrepeat=0",
        "--norandommap", "--group_reporting", "--output-format=json", *options,
    )
    # fmt: on
    (job,) = json.loads(output)["jobs"]
    return float(job["read" if kind == "randread" else "write"]["iops"])


def make_archive(path: Path) -> None:
    """A tar archive of small files, in folders of a hundred."""
    with tarfile.open(path, "w") as archive:
        for number in range(FILES):
            entry = tarfile.TarInfo(f"folder-{number // FILES_PER_FOLDER}/file-{number}")
            entry.size = FILE_BYTES
            archive.addfile(entry, BytesIO(os.urandom(FILE_BYTES)))


def untar(folder: Path, archive: Path) -> float:
    """Milliseconds to unpack the archive."""
    folder.mkdir()
    start = time.perf_counter()
    run("tar", "-xf", archive, "-C", folder)
    elapsed = time.perf_counter() - start
    shutil.rmtree(folder)
    os.sync()
    return elapsed * 1000
