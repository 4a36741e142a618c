"""Layer: an image with its hash tree below, the verified image above; read-only.

Kind: layer
"""

from __future__ import annotations

import trio

from encfs.block.device import BlockDevice, Buffer, check_request, read
from encfs.errors import BadRequest, ReadOnlyDevice
from encfs.verity.format import BLOCK
from encfs.verity.tree import Tree

# Bytes worth a thread: hashing them takes several times as long as handing them over.
_THREAD_FROM = 256 << 10


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
        try:
            await self.below.read_into(offset, buffer)
            await self._check(offset // BLOCK, buffer)
        except BaseException:
            buffer[:] = bytes(len(buffer))  # nobody gets to see what was not verified
            raise

    async def _check(self, first: int, buffer: memoryview) -> None:
        steps = self._tree.digests(first, len(buffer) // BLOCK)
        try:
            fetch = next(steps)
            while True:
                fetch = steps.send(await read(self.below, self._tree.offset(fetch), fetch.count * BLOCK))
        except StopIteration as end:
            digests: bytes = end.value
        if len(buffer) < _THREAD_FROM:
            self._tree.check(first, buffer, digests)
        else:  # hashed on another core, while this one decrypts what came before
            await trio.to_thread.run_sync(self._tree.check, first, buffer, digests)

    async def write(self, offset: int, data: Buffer) -> None:
        raise ReadOnlyDevice("image is sealed by a hash tree")

    async def flush(self) -> None:
        """Nothing is ever written."""

    async def aclose(self) -> None:
        await self.below.aclose()
