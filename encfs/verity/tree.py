"""Verifies blocks against a root hash. Without I/O: it says which hash blocks it needs, and is given them.

A hash block is kept only after its own digest was found in a verified block above it, or is the root hash. So
whatever is in the cache is true, for as long as the root is.

Kind: pure
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Generator
from dataclasses import dataclass

from encfs.block.device import Buffer
from encfs.digests import salted
from encfs.errors import Tampered
from encfs.verity.format import BLOCK, DIGEST, FAN_OUT, Geometry

# Hash blocks under one parent fetched together: leaves for 8 MiB of data.
_TOGETHER = 16
_CACHE_BLOCKS = 2048


@dataclass(frozen=True, slots=True)
class Fetch:
    """Hash blocks that are needed next: `count` of them, from number `index` of `level`."""

    level: int
    index: int
    count: int


class Tree:
    """The tree of one image.

    Args:
        geometry: of the image.
        salt: hashed before every block, public.
        root: 32 bytes, trusted: where it comes from decides what all this is worth.
        cache_blocks: hash blocks kept, 4096 bytes each.
    """

    def __init__(
        self, geometry: Geometry, *, salt: bytes, root: bytes, cache_blocks: int = _CACHE_BLOCKS
    ) -> None:
        self.geometry = geometry
        self._hasher = salted(salt)
        self._root = root
        self._limit = max(cache_blocks, 4 * _TOGETHER)
        self._kept: OrderedDict[tuple[int, int], bytes] = OrderedDict()

    def digests(self, first: int, count: int) -> Generator[Fetch, bytes, bytes]:
        """What data blocks from number `first` must hash to; yields what to fetch, is sent its bytes.

        Returns:
            32 bytes a block, for `check`.

        Raises:
            Tampered: a hash block is not what the root hash says.
        """
        while (fetch := self._missing(first, count)) is not None:
            self._admit(fetch, (yield fetch))
        return self._digests(0, first, count)

    def check(self, first: int, data: Buffer, digests: bytes) -> None:
        """Hold data blocks from number `first` against their digests; may run in any thread.

        Raises:
            Tampered: one is not what the root hash says.
        """
        bad = self._hasher.compare(data, BLOCK, digests)
        if bad >= 0:
            raise Tampered(
                f"image: block {first + bad} (bytes {(first + bad) * BLOCK} to {(first + bad + 1) * BLOCK}) "
                "does not match the root hash",
                hint="the image was changed since it was sealed, or the root hash is another image's",
            )

    def offset(self, fetch: Fetch) -> int:
        """Byte of the file where those hash blocks lie."""
        return self.geometry.tree_offset + (self.geometry.levels[fetch.level].start + fetch.index) * BLOCK

    def _missing(self, first: int, count: int) -> Fetch | None:
        """The topmost hash blocks above some data blocks that are not in the cache."""
        spans = []
        low, high = first, first + count - 1
        for _ in self.geometry.levels:
            low, high = low // FAN_OUT, high // FAN_OUT
            spans.append((low, high))
        for level in reversed(range(len(spans))):
            for index in range(spans[level][0], spans[level][1] + 1):
                if (level, index) not in self._kept:
                    return Fetch(level, index, self._together(level, index))
        return None

    def _together(self, level: int, index: int) -> int:
        """How many blocks to fetch: to the end of those that one parent vouches for, within reason."""
        siblings = (index // FAN_OUT + 1) * FAN_OUT
        return min(siblings, self.geometry.levels[level].count, index + _TOGETHER) - index

    def _admit(self, fetch: Fetch, data: bytes) -> None:
        if len(data) != fetch.count * BLOCK:
            raise Tampered(f"image: {len(data)} bytes of hash blocks, wanted {fetch.count * BLOCK}")
        parent = (fetch.level + 1, fetch.index // FAN_OUT)
        if parent[0] < len(self.geometry.levels) and parent not in self._kept:
            return  # evicted for another request meanwhile; both are fetched again
        bad = self._hasher.compare(data, BLOCK, self._digests(fetch.level + 1, fetch.index, fetch.count))
        if bad >= 0:
            at = self.offset(fetch) + bad * BLOCK
            raise Tampered(
                f"image: hash block {fetch.index + bad} of level {fetch.level} (bytes {at} to {at + BLOCK}) "
                "does not match the root hash",
                hint="the image was changed since it was sealed, or the root hash is another image's",
            )
        for number in range(fetch.count):
            key = (fetch.level, fetch.index + number)
            self._kept[key] = data[number * BLOCK : (number + 1) * BLOCK]
        while len(self._kept) > self._limit:
            self._kept.popitem(last=False)

    def _digests(self, level: int, first: int, count: int) -> bytes:
        """What blocks from number `first` must hash to, taken from hash blocks of `level`."""
        if level == len(self.geometry.levels):
            return self._root
        parts, number, end = [], first, first + count
        while number < end:
            parent, child = divmod(number, FAN_OUT)
            stop = min(end, (parent + 1) * FAN_OUT)
            self._kept.move_to_end((level, parent))
            block = self._kept[level, parent]
            parts.append(block[child * DIGEST : (child + stop - number) * DIGEST])
            number = stop
        return b"".join(parts)
