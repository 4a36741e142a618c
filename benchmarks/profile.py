"""Where the driver's time goes: `python -m benchmarks.profile` (as root; needs perf, Debian's linux-perf).

Mounts an image on tmpfs, runs one workload after the other, and samples the driver while it does. Prints
processor time of the driver for each request and each MiB, the shares of the kernel, OpenSSL and the
interpreter, and the functions with the largest shares.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path

from benchmarks import workloads as w
from benchmarks.quiet import kept_memory
from benchmarks.systems import ENVIRONMENT, MIB, Place, encfs, run

_TMPFS = Path("/dev/shm")  # noqa: S108 - a private folder is made in it
_TICK = os.sysconf("SC_CLK_TCK")
_LINE = re.compile(r"^\s+(\d+\.\d+)%\s+(.*?)(?:\s+-)*\s*$", re.MULTILINE)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.profile",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--size", type=int, default=256, metavar="MIB", help="of the file read and written")
    parser.add_argument("--seconds", type=float, default=3, help="of each random workload")
    parser.add_argument("--top", type=int, default=8, metavar="N", help="functions to print")
    arguments = parser.parse_args()
    if shutil.which("perf", path=ENVIRONMENT["PATH"]) is None:
        sys.exit("missing program; as root: apt-get install linux-perf")
    folder = Path(tempfile.mkdtemp(prefix="profile-", dir=_TMPFS))
    os.environ["ENCFS_RUN_DIR"] = ENVIRONMENT["ENCFS_RUN_DIR"] = str(folder / "run")
    try:
        place = Place(folder, (3 * arguments.size + 256) * MIB)
        with kept_memory(), encfs(place) as mount_point:
            profile_all(mount_point, driver_pid(folder / "run"), arguments)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def driver_pid(run_directory: Path) -> int:
    """Of the one volume that is mounted with that run directory."""
    (state,) = run_directory.glob("*/state.json")
    return int(json.loads(state.read_text())["driver_pid"])


def profile_all(mount_point: Path, pid: int, arguments: argparse.Namespace) -> None:
    """Run and sample each workload."""
    file = mount_point / "file"
    load = w.Load(arguments.size, arguments.seconds, Path())
    w.write_and_fsync(file, load.mebibytes)

    def cold_reads() -> float:
        for _ in range(4):
            w.drop_caches()
            w.read(file)
        return 4.0 * load.mebibytes

    def writes() -> float:
        for _ in range(4):
            w.write_and_fsync(mount_point / "other", load.mebibytes)
        return 4.0 * load.mebibytes

    def requests(kind: str, *options: str) -> float:
        return w.random_io(file, load, kind, *options) * load.seconds

    works: dict[str, tuple[str, Callable[[], float]]] = {
        w.COLD: ("MiB", cold_reads),
        w.WRITE: ("MiB", writes),
        w.READ_1: ("request", lambda: requests("randread", "--direct=1", "--numjobs=1")),
        w.READ_4: ("request", lambda: requests("randread", "--direct=1", "--numjobs=4")),
        w.RANDOM_WRITE: ("request", lambda: requests("randwrite", "--fsync=32")),
    }
    for name, (unit, work) in works.items():
        before = processor_seconds(pid)
        samples, done = sampled(pid, work)
        spent = processor_seconds(pid) - before
        print(f"\n{name}: {spent / done * 1e6:.1f} us of the driver's processor time a {unit}")
        for sort, count in (("dso", 4), ("symbol", arguments.top)):
            words = ("-i", samples, "--no-children", "--stdio", "-g", "none", "--sort", sort)
            shares = _LINE.findall(run("perf", "report", *words))
            print("  " + "; ".join(f"{share} % {what}" for share, what in shares[:count]))
        samples.unlink()


def processor_seconds(pid: int) -> float:
    """User and system time of a process, all threads."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICK


def sampled(pid: int, work: Callable[[], float]) -> tuple[Path, float]:
    """Samples of the process while `work` runs, and what that returned."""
    samples = Path(tempfile.mkstemp(prefix="perf-")[1])
    stop = tempfile.mkdtemp(prefix="perf-")
    fifo = Path(stop) / "stop"
    os.mkfifo(fifo)
    # perf samples for as long as the command it was given runs: here, until somebody opens the pipe.
    recorder = threading.Thread(
        target=run,
        args=("perf", "record", "-q", "-F", "2000", "-p", str(pid), "-o", samples, "--", "cat", fifo),
    )
    recorder.start()
    try:
        done = work()
    finally:
        fifo.write_text("")
        recorder.join()
        shutil.rmtree(stop)
    return samples, done


if __name__ == "__main__":
    main()
