"""What each layer adds to a request of 4 KiB and of 1 MiB: `python -m benchmarks.layers` (no root, no FUSE).

Minimum of five passes, microseconds a call, on a file in /dev/shm, from the system call up to what pyfuse3
calls. The difference between two lines is what the layer between them costs.
"""

from __future__ import annotations

import argparse
import os
import random
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeAlias

import trio

from encfs.block.buffers import BufferPool
from encfs.block.crypt import Crypt
from encfs.block.file import FileDevice, open_file
from encfs.block.unaligned import Unaligned
from encfs.block.window import Window
from encfs.cipher import ENGINE, SectorCipher
from encfs.fuse import DataFile
from encfs.health import Pulse
from encfs.keys import Secret

MIB = 1 << 20
Step: TypeAlias = Callable[[int], Awaitable[object]]
_IMAGE_BYTES = 64 * MIB
_PASSES = 5


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.layers",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--sector-size", type=int, default=4096)
    arguments = parser.parse_args()
    trio.run(measure, arguments.sector_size)


async def measure(sector_size: int) -> None:
    """Print one line for each layer."""
    with tempfile.NamedTemporaryFile(dir="/dev/shm") as image:
        image.write(os.urandom(_IMAGE_BYTES))
        image.flush()
        source = open_file(Path(image.name), read_only=False)
        pool = BufferPool(4, MIB)
        cipher = SectorCipher(Secret(os.urandom(64)), sector_size=sector_size)
        window = Window(source, offset=MIB, size=_IMAGE_BYTES - MIB)
        crypt = Crypt(window, cipher, pool)
        device = Unaligned(crypt, pool)
        served = DataFile(device, pool, Pulse.create(), cached=False)
        print(f"AES-XTS engine {ENGINE}, sectors of {sector_size} bytes, microseconds a call")
        for size, count in ((4096, 2000), (MIB, 60)):
            data = os.urandom(size)
            async with pool.take(size) as view:
                for name, step in steps(view, data, source, cipher, crypt, device, served).items():
                    print(f"{size >> 10:5} KiB  {name:24}{await best(step, size, count):10.2f}")
        await device.aclose()


def steps(
    view: memoryview,
    data: bytes,
    source: FileDevice,
    cipher: SectorCipher,
    crypt: Crypt,
    device: Unaligned,
    served: DataFile,
) -> dict[str, Step]:
    """What is timed, from the bottom up; each takes an offset."""

    async def system_call(at: int) -> None:
        os.preadv(source.fd, [view], at)

    async def decrypt(at: int) -> None:
        cipher.decrypt(view, at // cipher.sector_size)

    return {
        "preadv": system_call,
        "file": lambda at: source.read_into(at, view),
        "decryption alone": decrypt,
        "file, window, AES-XTS": lambda at: crypt.read_into(at, view),
        "  and unaligned": lambda at: device.read_into(at, view),
        "  and FUSE's read": lambda at: served.read(1, at, len(view)),
        "FUSE's write": lambda at: served.write(1, at, data),
    }


async def best(step: Step, size: int, count: int) -> float:
    """Microseconds of one call, in the fastest pass."""
    places = [random.randrange((_IMAGE_BYTES - 2 * MIB) // size) * size for _ in range(count)]  # noqa: S311
    fastest = float("inf")
    for _ in range(_PASSES):
        start = time.perf_counter()
        for at in places:
            await step(at)
        fastest = min(fastest, time.perf_counter() - start)
    return fastest / count * 1e6


if __name__ == "__main__":
    main()
