"""Throughput of a mounted volume against a plain ext4 loop mount, in one run, as ratios of medians.

    sudo .venv/bin/python benchmarks/throughput.py [--size 512] [--rounds 5] [--folder DIR]

Both file systems live in image files in one folder (put it on tmpfs to leave the disc out of it). In each
round every system takes its turn, so that a noisy machine is noisy for all.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

MIB = 1 << 20
Measures = dict[str, float]


def write_and_fsync(file: Path, mebibytes: int) -> float:
    """MiB a second of writing a new file with 1 MiB writes, up to and including fsync."""
    block = os.urandom(MIB)
    start = time.perf_counter()
    with file.open("wb", buffering=0) as out:
        for _ in range(mebibytes):
            out.write(block)
        os.fsync(out.fileno())
    return mebibytes / (time.perf_counter() - start)


def read(file: Path) -> float:
    """MiB a second of reading a file with 1 MiB reads."""
    buffer = memoryview(bytearray(MIB))
    total = 0
    start = time.perf_counter()
    with file.open("rb", buffering=0) as source:
        while count := source.readinto(buffer):
            total += count
    return total / MIB / (time.perf_counter() - start)


def drop_caches() -> None:
    os.sync()
    Path("/proc/sys/vm/drop_caches").write_text("3")


def measure(mount_point: Path, mebibytes: int) -> Measures:
    file = mount_point / "file"
    written = write_and_fsync(file, mebibytes)
    drop_caches()
    cold, hot = read(file), read(file)
    file.unlink()
    return {"write+fsync": written, "cold read": cold, "hot read": hot}


@contextlib.contextmanager
def plain_loop(folder: Path, mebibytes: int) -> Iterator[Path]:
    """ext4 on a loop device on a file: the ceiling."""
    image, mount_point = folder / "plain.img", folder / "plain"
    mount_point.mkdir()
    with image.open("wb") as file:
        file.truncate((2 * mebibytes + 256) * MIB)
    subprocess.run(["mkfs.ext4", "-q", "-F", str(image)], check=True)
    subprocess.run(["mount", "-o", "loop", str(image), str(mount_point)], check=True, timeout=60)
    try:
        yield mount_point
    finally:
        subprocess.run(["umount", str(mount_point)], check=True, timeout=60)


@contextlib.contextmanager
def encfs(folder: Path, mebibytes: int) -> Iterator[Path]:
    """Our driver."""
    command = str(Path(sys.executable).parent / "encfs")
    image, mount_point, key = folder / "encfs.img", folder / "encfs", folder / "key.bin"
    mount_point.mkdir()
    key.touch(mode=0o600)
    key.write_bytes(os.urandom(32))
    size = f"{2 * mebibytes + 256}M"
    subprocess.run(
        [command, "create", image, "--size", size, "--key-file", key, "--json"], check=True, stdout=-3
    )
    subprocess.run([command, "mount", image, mount_point, "--key-file", key], check=True, timeout=60)
    try:
        yield mount_point
    finally:
        subprocess.run([command, "unmount", mount_point], check=True, timeout=60)


SYSTEMS: dict[str, Callable[[Path, int], contextlib.AbstractContextManager[Path]]] = {
    "plain loop ext4": plain_loop,
    "encfs": encfs,
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", type=int, default=512, metavar="MIB", help="of the file read and written")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--folder", type=Path, help="where the images are made (default: a temporary folder)")
    arguments = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="throughput-", dir=arguments.folder))
    samples: dict[str, list[Measures]] = {name: [] for name in SYSTEMS}
    try:
        with contextlib.ExitStack() as stack:
            mounts = {
                name: stack.enter_context(make(folder, arguments.size)) for name, make in SYSTEMS.items()
            }
            for _ in range(arguments.rounds):
                for name, mount_point in mounts.items():
                    samples[name].append(measure(mount_point, arguments.size))
    finally:
        shutil.rmtree(folder)
    print_table(samples)


def print_table(samples: dict[str, list[Measures]]) -> None:
    baseline, *_ = samples
    columns = list(samples[baseline][0])
    medians = {
        n: {c: statistics.median(s[c] for s in rounds) for c in columns} for n, rounds in samples.items()
    }
    print(f"{'MiB/s, median':20}" + "".join(f"{column:>22}" for column in columns))
    for name, values in medians.items():
        cells = [f"{values[c]:.0f} ({values[c] / medians[baseline][c]:.2f} x)" for c in columns]
        print(f"{name:20}" + "".join(f"{cell:>22}" for cell in cells))


if __name__ == "__main__":
    main()
