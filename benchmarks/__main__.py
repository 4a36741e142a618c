"""Compares encfs with its peers, in turn, in one run: `python -m benchmarks` (as root, from the checkout).

Every round measures each system once, so that what else the machine does hits all alike; the figures are
medians, the ratios are medians of the rounds' ratios. Prints the tables; `--save FOLDER` writes samples,
Markdown and plot, `--update FILE` puts the tables into a document.

The peers are Debian's qemu-storage-daemon and gocryptfs; what is missing is named, nothing is installed.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import json
import os
import platform
import shutil
import signal
import sys
import tempfile
from pathlib import Path

from benchmarks import report
from benchmarks.quiet import Quiet, kept_memory
from benchmarks.systems import MIB, SYSTEMS, Place, missing_programs
from benchmarks.workloads import Load, make_archive, measure

_TMPFS = Path("/dev/shm")  # noqa: S108 - a private folder is made in it


def main() -> None:
    arguments = _parser().parse_args()
    if missing := missing_programs():
        sys.exit(f"missing programs; as root: apt-get install {' '.join(missing)}")
    if os.geteuid() != 0:
        sys.exit("run as root: loop devices and mounts")
    # Ended from outside, it unmounts everything all the same.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("interrupted"))
    quiet = Quiet(arguments.patience)
    with kept_memory():
        samples = compare(arguments, quiet)
    text = report.markdown(samples, _today(), machine(), f"{_method(arguments)} {quiet}")
    print(text)
    if arguments.save is not None:
        save(arguments.save, samples, text)
    if arguments.update is not None:
        report.include(arguments.update, text)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", type=int, default=512, metavar="MIB", help="of the file read and written")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2, help="of each random workload")
    parser.add_argument(
        "--patience", type=float, default=5, metavar="S", help="wait so long for a quiet moment, each time"
    )
    parser.add_argument("--systems", nargs="+", choices=SYSTEMS, default=list(SYSTEMS), metavar="NAME")
    parser.add_argument("--folder", type=Path, default=_TMPFS, help="where the images are made (tmpfs)")
    parser.add_argument(
        "--save", type=Path, metavar="FOLDER", help="write samples.json, table.md, plot.png there"
    )
    parser.add_argument("--update", type=Path, metavar="FILE", help="document with the marks for the tables")
    return parser


def compare(arguments: argparse.Namespace, quiet: Quiet) -> dict[str, list[dict[str, float]]]:
    """Samples of each system, one of every round."""
    folder = Path(tempfile.mkdtemp(prefix="benchmark-", dir=arguments.folder))
    samples: dict[str, list[dict[str, float]]] = {name: [] for name in arguments.systems}
    try:
        archive = folder / "archive.tar"
        make_archive(archive)
        load = Load(arguments.size, arguments.seconds, archive, quiet.wait)
        with contextlib.ExitStack() as stack:
            mounts = {}
            for number, name in enumerate(arguments.systems):
                place = Place(folder / str(number), (2 * arguments.size + 512) * MIB)
                place.folder.mkdir()
                mounts[name] = stack.enter_context(SYSTEMS[name](place))
            for number in range(arguments.rounds):
                for name, mount_point in mounts.items():
                    print(f"round {number + 1}/{arguments.rounds}: {name}", file=sys.stderr)
                    samples[name].append(measure(mount_point, load))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return samples


def save(folder: Path, samples: report.Samples, text: str) -> None:
    """Samples, table and plot; without matplotlib, the plot is left out and that is said."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "samples.json").write_text(json.dumps(samples, indent=1))
    (folder / "table.md").write_text(text + "\n")
    try:
        for suffix in ("png", "svg"):
            report.plot(report.medians(samples), folder / f"plot.{suffix}")
    except ImportError:
        print("no plot: pip install -c scripts/constraints.txt '.[benchmarks]'", file=sys.stderr)


def machine() -> str:
    """Processor, cores, memory and kernel, in words."""
    cpuinfo = Path("/proc/cpuinfo").read_text()
    model = next(
        (line.partition(": ")[2] for line in cpuinfo.splitlines() if "model name" in line), "unknown"
    )
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") >> 30
    return f"{os.cpu_count()} cores of {model}, {memory} GiB of memory, Linux {platform.release()}"


def _today() -> str:
    return datetime.datetime.now(datetime.UTC).date().isoformat()


def _method(arguments: argparse.Namespace) -> str:
    return (
        f"Medians of {arguments.rounds} rounds, images on tmpfs, a file of {arguments.size} MiB, "
        f"{arguments.seconds:g} s for each random workload (4 KiB, reads with O_DIRECT)."
    )


if __name__ == "__main__":
    main()
