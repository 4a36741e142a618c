"""What protection costs: `python -m benchmarks.protection` (as root, from the checkout).

A plain volume, one with integrity, one with integrity and an anchor, and a sealed one, in turn, on tmpfs;
medians, and medians of the rounds' ratios to the plain one.
"""

from __future__ import annotations

import contextlib
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks.quiet import kept_memory
from benchmarks.systems import MIB, run
from benchmarks.workloads import drop_caches, read, write_and_fsync

_TMPFS = Path("/dev/shm")  # noqa: S108 - a private folder is made in it
_ROUNDS, _MEBIBYTES, _SYNCS = 5, 256, 300
_ENCFS = Path(sys.executable).parent / "encfs"
_UNITS = {"write+fsync": "MiB/s", "cold read": "MiB/s", "4 KiB + fsync": "ms", "mount": "ms", "unmount": "ms"}
_LESS_IS_BETTER = {"4 KiB + fsync", "mount", "unmount"}


def main() -> None:
    if os.geteuid() != 0:
        sys.exit("run as root: loop devices and mounts")
    with tempfile.TemporaryDirectory(dir=_TMPFS, prefix="protection-") as name, kept_memory():
        folder = Path(name)
        (folder / "key").touch(mode=0o600)
        (folder / "key").write_bytes(os.urandom(32))
        options = make(folder)
        samples = {kind: list[dict[str, float]]() for kind in options}
        for _ in range(_ROUNDS):
            for kind, rounds in samples.items():
                rounds.append(measure(folder, kind, options[kind]))
    report(samples)


def make(folder: Path) -> dict[str, tuple[str, ...]]:
    """The volumes, and what mounts each besides its key."""
    size = ("--size", str((_MEBIBYTES + 96) * MIB))
    create = (_ENCFS, "create", "--key-file", folder / "key", "--quiet")
    tags = ("--integrity", "hmac-sha256")
    run(*create, folder / "plain", *size)
    run(*create, folder / "integrity", *size, *tags)
    run(*create, folder / "anchored", *size, *tags)
    source = folder / "source"
    source.mkdir()
    (source / "file").write_bytes(os.urandom(_MEBIBYTES * MIB))
    run(*create, folder / "sealed", "--from", source)
    (source / "file").unlink()
    root = run(_ENCFS, "seal", "--quiet", folder / "sealed").strip()
    return {
        "plain": (),
        "integrity": (),
        "anchored": ("--anchor", str(folder / "anchor")),
        "sealed": ("--root-hash", root),
    }


@contextlib.contextmanager
def mounted(folder: Path, kind: str, words: tuple[str, ...], figures: dict[str, float]) -> Iterator[Path]:
    """The volume, mounted; how long that took, and the end of it."""
    point = folder / "mnt"
    point.mkdir(exist_ok=True)
    start = time.perf_counter()
    run(_ENCFS, "mount", folder / kind, point, "--key-file", folder / "key", *words)
    figures["mount"] = (time.perf_counter() - start) * 1000
    try:
        yield point
    finally:
        start = time.perf_counter()
        run(_ENCFS, "unmount", point)
        figures["unmount"] = (time.perf_counter() - start) * 1000


def measure(folder: Path, kind: str, words: tuple[str, ...]) -> dict[str, float]:
    """One round of one volume."""
    figures: dict[str, float] = {}
    with mounted(folder, kind, words, figures) as point:
        file = point / "file"
        if kind != "sealed":
            figures["write+fsync"] = write_and_fsync(file, _MEBIBYTES)
        drop_caches()
        figures["cold read"] = read(file)
        if kind != "sealed":
            figures["4 KiB + fsync"] = sync_latency(file)
            file.unlink()
    return figures


def sync_latency(file: Path) -> float:
    """Milliseconds of one write of 4 KiB in place, with fsync."""
    data = os.urandom(4096)
    start = time.perf_counter()
    with file.open("r+b", buffering=0) as out:
        for number in range(_SYNCS):
            os.pwrite(out.fileno(), data, number * 7 * 4096)
            os.fdatasync(out.fileno())
    return (time.perf_counter() - start) * 1000 / _SYNCS


def report(samples: dict[str, list[dict[str, float]]]) -> None:
    """A Markdown table on standard output."""
    print("| | " + " | ".join(f"{name}, {unit}" for name, unit in _UNITS.items()) + " |")
    print("|---|" + "---:|" * len(_UNITS))
    for kind, rounds in samples.items():
        cells = []
        for name in _UNITS:
            if name not in rounds[0]:
                cells.append("")
                continue
            value = statistics.median(figures[name] for figures in rounds)
            pairs = zip(rounds, samples["plain"], strict=True)
            ratio = statistics.median(mine[name] / plain[name] for mine, plain in pairs)
            ratio = 1 / ratio if name in _LESS_IS_BETTER else ratio
            cells.append(
                f"{value:.{0 if value >= 10 else 2}f}" + ("" if kind == "plain" else f" ({ratio:.2f} x)")
            )
        print(f"| {kind} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
