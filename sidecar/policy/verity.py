"""The dm-verity hash tree of a block device that is never held: blocks go in, the root hash comes out.

Strategy: each block is hashed as it comes. The digests of 128 blocks fill one block of the level above, which
is hashed at once and then dropped, so a device of 128 GiB costs 8 MiB of memory. Blocks that will be written
once more (an ext4 superblock is known last) are announced with `keep`, and their group's digests stay.

Spec: Linux, Documentation/admin-guide/device-mapper/verity.rst, hash type 1: SHA-256, blocks of 4096 bytes,
here with a salt of 32 zero bytes.

Kind: pure
"""

from __future__ import annotations

import hashlib

BLOCK = 4096
DIGEST = 32
SALT = bytes(32)
FAN_OUT = BLOCK // DIGEST

_SALTED = hashlib.sha256(SALT)
_ZERO_BLOCK = bytes(BLOCK)


def block_digest(block: bytes | bytearray | memoryview) -> bytes:
    """The 32-byte digest of one block of 4096 bytes."""
    state = _SALTED.copy()
    state.update(block)
    return state.digest()


_ZERO_DIGEST = block_digest(_ZERO_BLOCK)


class HashTree:
    """Takes a device's blocks in order and yields its root hash.

    Args:
        keep_all: keep the digests of all blocks, 32 bytes each, for `levels`.
    """

    def __init__(self, *, keep_all: bool = False) -> None:
        self.blocks = 0
        self._keep_all = keep_all
        self._group = bytearray()
        self._above = bytearray()
        self._kept: dict[int, bytearray | None] = {}

    def keep(self, block: int) -> None:
        """Announce, at the latest before it comes, that a block may be replaced."""
        self._kept.setdefault(block // FAN_OUT, None)

    def add(self, data: bytes | bytearray | memoryview) -> None:
        """Append whole blocks; `data` is only read, and not kept."""
        group, copy = self._group, _SALTED.copy
        view = memoryview(data)
        for start in range(0, len(view), BLOCK):
            state = copy()
            state.update(view[start : start + BLOCK])
            group += state.digest()
            if len(group) == BLOCK:
                self._close_group()
        self.blocks += len(view) // BLOCK

    def add_zeros(self, count: int) -> None:
        """Append blocks of zeros."""
        self.blocks += count
        while count:
            part = min(count, (BLOCK - len(self._group)) // DIGEST)
            self._group += _ZERO_DIGEST * part
            count -= part
            if len(self._group) == BLOCK:
                self._close_group()

    def replace(self, block: int, data: bytes) -> None:
        """Write one block again that was announced with `keep`."""
        number, place = block // FAN_OUT, block % FAN_OUT * DIGEST
        group = self._kept.get(number)
        if number == len(self._above) // DIGEST:
            self._group[place : place + DIGEST] = block_digest(data)
            return
        assert group is not None, f"block {block} was not kept"
        group[place : place + DIGEST] = block_digest(data)
        self._above[number * DIGEST : (number + 1) * DIGEST] = block_digest(group)

    def root(self) -> bytes:
        """The root hash, 32 bytes; the tree takes no more blocks afterwards.

        A device of no blocks or of one has no tree; asking for it is a bug of the caller.
        """
        assert self.blocks > 1, "a hash tree needs two blocks"
        if self._group:
            self._close_group()
        level = bytes(self._above)
        while len(level) > DIGEST:
            level = b"".join(map(block_digest, _blocks(level)))
        return level

    def levels(self) -> list[bytes]:
        """All levels as they lie on a hash device, the top first; only with `keep_all`, after `root`."""
        assert self._keep_all
        level = b"".join(bytes(self._kept[number] or b"") for number in sorted(self._kept))
        found = [level]
        while len(level) > BLOCK:
            level = b"".join(_blocks(b"".join(map(block_digest, _blocks(level)))))
            found.append(level)
        return found[::-1]

    def _close_group(self) -> None:
        number = len(self._above) // DIGEST
        self._group += bytes(BLOCK - len(self._group))
        self._above += block_digest(self._group)
        if self._keep_all or number in self._kept:
            self._kept[number] = self._group[:]
        self._group.clear()


def _blocks(level: bytes) -> list[bytes]:
    """A level's blocks, the last one padded with zeros."""
    return [level[start : start + BLOCK].ljust(BLOCK, b"\0") for start in range(0, len(level), BLOCK)]
