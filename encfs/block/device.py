"""The one block interface, shared by sources (file, memory, blob) and layers (window, crypt, ...).

Contract, which `tests/encfs/block/contract.py` holds every implementation to:

- Units are bytes. A request starts and ends on a multiple of `block_size` and lies inside `size`,
  or raises `BadRequest`; nothing is cut short silently.
- `read_into` fills the whole buffer. `write` returns when the data is accepted; a later read sees it.
- `flush` returns when every write accepted before the call is durable in the backing store.
- Concurrent calls are allowed; overlapping concurrent writes have no defined order.
- A layer holds what is `below` it, changes one thing, and closes `below` when it is closed.
- After `aclose` nothing may be called; `aclose` does not flush.

`read_into` takes the caller's buffer instead of returning fresh bytes, because a driver that allocates
memory on its write path can deadlock with the kernel's reclaim: buffers are made once and kept.

Kind: pure
"""

from __future__ import annotations

from typing import Protocol, TypeAlias

from encfs.errors import BadRequest

Buffer: TypeAlias = bytes | bytearray | memoryview


class BlockDevice(Protocol):
    """A fixed-size array of bytes, read and written in whole blocks."""

    @property
    def size(self) -> int:
        """Size in bytes, a multiple of `block_size`."""
        ...

    @property
    def block_size(self) -> int:
        """Smallest unit of a request in bytes, a power of two."""
        ...

    @property
    def read_only(self) -> bool:
        """True when `write` always raises `ReadOnlyDevice`."""
        ...

    async def read_into(self, offset: int, buffer: memoryview) -> None:
        """Fill `buffer` from `offset`."""
        ...

    async def write(self, offset: int, data: Buffer) -> None:
        """Store all of `data` at `offset`."""
        ...

    async def flush(self) -> None:
        """Make every accepted write durable."""
        ...

    async def aclose(self) -> None:
        """Free what the device holds, and close what is below it."""
        ...


def check_request(device: BlockDevice, offset: int, length: int) -> None:
    """Refuse a request that is not aligned or not inside the device.

    Raises:
        BadRequest: offset or length is not a multiple of the block size, or the end lies past the size.
    """
    mask = device.block_size - 1
    if offset & mask or length & mask:
        raise BadRequest(f"request at {offset} of {length} bytes, wanted multiples of {device.block_size}")
    if offset < 0 or length < 0 or offset + length > device.size:
        raise BadRequest(f"request at {offset} of {length} bytes, wanted inside {device.size} bytes")


async def read(device: BlockDevice, offset: int, length: int) -> bytes:
    """Read `length` bytes into a buffer of their own; for callers outside the hot path."""
    buffer = bytearray(length)
    await device.read_into(offset, memoryview(buffer))
    return bytes(buffer)
