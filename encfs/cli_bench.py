"""`encfs bench` on the command line.

Kind: entry
"""

from __future__ import annotations

import argparse
import math
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from encfs.arguments import (
    Commands,
    add_store_options,
    add_unlock_options,
    command,
    passphrase_for,
    place_of,
    run_trio,
    unlock_options,
)
from encfs.errors import UsageError

if TYPE_CHECKING:
    from encfs.bench import BenchOptions
    from encfs.benchreport import Report

_MORE = """\
Reads in order, reads at random with one reader and with four, and, where writes are measured, writes in
order, at random, and with fsync after each. Nothing is taken from the page cache.

Without IMAGE, a temporary image is made, measured with writes, and removed. An image is only read; --write
mounts its file system (needs root) and writes a scratch file in it that has no name and is gone afterwards.

examples: encfs bench
          encfs bench data.img --key-file key.bin --write --json"""


def add_commands(commands: Commands) -> None:
    """Declare the command."""
    parser = command(commands, "bench", _bench, "Measure how fast an image, or this machine, is.", _MORE)
    parser.add_argument(
        "image", metavar="IMAGE|URL", nargs="?", help="a file or a blob (default: a temporary image)"
    )
    add_store_options(parser, writes=True)
    add_unlock_options(parser, required=False)
    parser.add_argument("--write", action="store_true", help="write a scratch file in IMAGE; needs root")
    parser.add_argument(
        "--mounted", action="store_true", help="without IMAGE: measure the mounted file system; needs root"
    )
    parser.add_argument("--folder", type=Path, metavar="DIR", help="where the temporary image is made")
    parser.add_argument("--size", default="128M", help="of what is written and read (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=2, metavar="S", help="of each workload (default: 2)")
    parser.add_argument("--json", action="store_true")


def _bench(arguments: argparse.Namespace) -> None:
    from encfs.benchreport import to_json, to_table
    from encfs.fuse import check_available

    options = _options(arguments)
    check_available()
    report = run_trio(_measure, arguments, options)
    print((to_json if arguments.json else to_table)(report))


def _options(arguments: argparse.Namespace) -> BenchOptions:
    """The options as a value.

    Raises:
        UsageError: they do not fit together.
    """
    from encfs.bench import BenchOptions
    from encfs.create import parse_size

    size = parse_size(arguments.size, smallest=1 << 20)
    if not math.isfinite(arguments.seconds) or not 0 < arguments.seconds <= 3600:
        raise UsageError(f"--seconds {arguments.seconds:g}: wanted more than 0, 3600 at most")
    has_key = arguments.key_file is not None or arguments.key_config is not None
    if arguments.image is None:
        if arguments.write or has_key:
            raise UsageError("--write and keys are for an IMAGE; the temporary one is written anyhow")
        return BenchOptions(arguments.seconds, size, mounted=arguments.mounted, write=True)
    if not has_key:
        raise UsageError("an image without its key", hint="give --key-file or --key-config")
    if arguments.mounted or arguments.folder is not None:
        raise UsageError("--mounted and --folder are for the temporary image", hint="--write mounts IMAGE")
    return BenchOptions(arguments.seconds, size, mounted=arguments.write, write=arguments.write)


async def _measure(arguments: argparse.Namespace, options: BenchOptions) -> Report:
    from encfs.bench import bench_image, bench_temporary

    if arguments.image is None:
        return await bench_temporary(arguments.folder or Path(tempfile.gettempdir()), options)
    place = place_of(arguments)
    passphrase = await passphrase_for(arguments, place)
    return await bench_image(place, passphrase, options, unlock_options(arguments))
