"""Reads of a sealed image outside the driver: its header and keyslots, verified like all else.

Kind: pure
"""

from __future__ import annotations

from collections.abc import Callable

from encfs.errors import ImageError, TruncatedImage
from encfs.verity.format import BLOCK, SUPERBLOCK_SIZE, geometry_of_file, parse_superblock
from encfs.verity.tree import Tree

Read = Callable[[int, int], bytes]


class Verified:
    """The image inside a sealed file.

    Args:
        read: returns exactly the bytes (offset, length) of the file.
        size: bytes of the file.
        root: root hash, 32 bytes, trusted.

    Raises:
        ImageError: the file has no superblock where its size puts it, or one of another form or size.
    """

    def __init__(self, read: Read, size: int, root: bytes) -> None:
        geometry = geometry_of_file(size)
        superblock = parse_superblock(read(geometry.data_size, SUPERBLOCK_SIZE))
        if superblock.data_blocks != geometry.data_blocks:
            raise ImageError(
                f"verity superblock: {superblock.data_blocks} blocks, {geometry.data_blocks} lie before it",
                hint="the image was cut or extended since it was sealed",
            )
        self._read = read
        self.root = root
        self.salt = superblock.salt
        self.size = geometry.data_size
        self._tree = Tree(geometry, salt=superblock.salt, root=root)

    def read_exactly(self, offset: int, length: int) -> bytes:
        """Any byte range of the image.

        Raises:
            TruncatedImage: the range does not lie inside the image.
            Tampered: a block is not what the root hash says.
        """
        if offset < 0 or length < 0 or offset + length > self.size:
            raise TruncatedImage(f"image: {self.size} bytes long, wanted {length} bytes at {offset}")
        if not length:
            return b""
        first = offset // BLOCK
        data = self._read(first * BLOCK, (-(-(offset + length) // BLOCK) - first) * BLOCK)
        steps = self._tree.digests(first, len(data) // BLOCK)
        try:
            fetch = next(steps)
            while True:
                fetch = steps.send(self._read(self._tree.offset(fetch), fetch.count * BLOCK))
        except StopIteration as end:
            self._tree.check(first, data, end.value)
        return data[offset - first * BLOCK : offset - first * BLOCK + length]


def sealed_size(read: Read, size: int) -> int | None:
    """Bytes of the image inside a file of `size` bytes, None when it is not sealed. Proves nothing."""
    try:
        geometry = geometry_of_file(size)
        superblock = parse_superblock(read(geometry.data_size, SUPERBLOCK_SIZE))
    except ImageError:
        return None
    return geometry.data_size if superblock.data_blocks == geometry.data_blocks else None
