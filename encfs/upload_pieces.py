"""What of a file has to be sent: pieces that are no holes, and what in them is not zero.

Kind: adapter
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

from encfs.block.blobcodec import MAX_PUT

GRAIN = 64 << 10  # zeros shorter than this are sent: another request would cost more
ZEROS = bytes(MAX_PUT)


def pieces_of(fd: int, size: int, skipped: Callable[[int], None]) -> Iterator[tuple[int, int]]:
    """Pieces of at most 4 MiB, on multiples of it, that are no holes of the file; holes count as zero."""
    at = 0
    while at < size:
        try:
            start = os.lseek(fd, at, os.SEEK_DATA)
        except OSError:  # a hole up to the end
            skipped(size - at)
            return
        start = max(at, start - start % MAX_PUT)
        skipped(start - at)
        at = min(start + MAX_PUT, size)
        yield start, at - start


def not_zero(data: memoryview) -> Iterator[tuple[int, int]]:
    """The parts of a piece that are not zero, in grains, neighbours together."""
    start = None
    for at in range(0, len(data), GRAIN):
        grain = data[at : at + GRAIN]
        if grain == ZEROS[: len(grain)]:
            if start is not None:
                yield start, at
            start = None
        elif start is None:
            start = at
    if start is not None:
        yield start, len(data)
