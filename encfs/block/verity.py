"""Layer: an image with its hash tree below, the verified image above; read-only.

Kind: layer
"""

from __future__ import annotations

from encfs.block.device import BlockDevice, Buffer, check_request, read
from encfs.errors import BadRequest, ReadOnlyDevice
from encfs.verity.format import BLOCK
from encfs.verity.tree import Tree


class Verity:
    """The first `tree.geometry.data_size` bytes of `below`, each block verified before anybody sees it.

    Raises:
        BadRequest: `below` has larger blocks than the tree, or is shorter than image and tree.
    """

    block_size = BLOCK
    read_only = True

    def __init__(self, below: BlockDevice, tree: Tree) -> None:
        if BLOCK % below.block_size:
            raise BadRequest(f"blocks below are of {below.block_size} bytes, wanted a divisor of {BLOCK}")
        if below.size < tree.geometry.file_size:
            raise BadRequest(f"{below.size} bytes below, wanted {tree.geometry.file_size}")
        self.below = below
        self.size = tree.geometry.data_size
        self._tree = tree

    async def read_into(self, offset: int, buffer: memoryview) -> None:
        check_request(self, offset, len(buffer))
        if not buffer:
            return
        await self.below.read_into(offset, buffer)
        steps = self._tree.verify(offset // BLOCK, buffer)
        try:
            fetch = next(steps)
            while True:
                fetch = steps.send(await read(self.below, self._tree.offset(fetch), fetch.count * BLOCK))
        except StopIteration:
            return
        except BaseException:
            buffer[:] = bytes(len(buffer))  # nobody gets to see what was not verified
            raise

    async def write(self, offset: int, data: Buffer) -> None:
        raise ReadOnlyDevice("image is sealed by a hash tree")

    async def flush(self) -> None:
        """Nothing is ever written."""

    async def aclose(self) -> None:
        await self.below.aclose()
