"""Makes the tree of an image in one pass, in memory that does not grow with the image.

Each level holds the digests of the one below until they fill blocks; full blocks go out at once to the place
the geometry gives them, and their own digests one level up.

Kind: pure
"""

from __future__ import annotations

from collections.abc import Iterator

from encfs.block.device import Buffer
from encfs.digests import salted
from encfs.verity.format import BLOCK, DIGEST, Geometry


class Builder:
    """Give it the whole image in order with `add`, then take `finish`.

    Args:
        geometry: of the image.
        salt: hashed before every block, at most 256 bytes, public.
    """

    def __init__(self, geometry: Geometry, salt: bytes) -> None:
        self.geometry = geometry
        self.root = b""
        self._hasher = salted(salt)
        self._waiting = [bytearray() for _ in geometry.levels]
        self._written = [0 for _ in geometry.levels]

    def add(self, data: Buffer) -> Iterator[tuple[int, bytes]]:
        """Hash whole blocks; yields (byte of the file, bytes) to write there."""
        digests = bytearray(len(data) // BLOCK * DIGEST)
        self._hasher.digest(data, BLOCK, digests)
        if not self.geometry.levels:
            self.root = bytes(digests)
            return
        yield from self._push(0, digests)

    def finish(self) -> Iterator[tuple[int, bytes]]:
        """The last, partly filled block of each level; afterwards `root` is the root hash, 32 bytes."""
        for level, waiting in enumerate(self._waiting):
            if waiting:
                waiting.extend(bytes(-len(waiting) % BLOCK))
                yield from self._emit(level)
        counts = [level.count for level in self.geometry.levels]
        assert self._written == counts, f"{self._written} hash blocks made, wanted {counts}"

    def _push(self, level: int, digests: Buffer) -> Iterator[tuple[int, bytes]]:
        self._waiting[level].extend(digests)
        if len(self._waiting[level]) >= BLOCK:
            yield from self._emit(level)

    def _emit(self, level: int) -> Iterator[tuple[int, bytes]]:
        waiting = self._waiting[level]
        full = len(waiting) // BLOCK * BLOCK
        blocks = bytes(waiting[:full])
        del waiting[:full]
        start = self.geometry.levels[level].start + self._written[level]
        self._written[level] += full // BLOCK
        yield self.geometry.tree_offset + start * BLOCK, blocks
        digests = bytearray(full // BLOCK * DIGEST)
        self._hasher.digest(blocks, BLOCK, digests)
        if level + 1 < len(self._waiting):
            yield from self._push(level + 1, digests)
        else:
            self.root = bytes(digests)
