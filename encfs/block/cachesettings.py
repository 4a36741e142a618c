"""How large a cache is and how it behaves, and what it says of itself.

Everything a cache holds lies inside `size_bytes`: the blocks, what is known of each, and the buffers in which
ranges travel. Memory is taken once, before serving, so the figures here are also what the process will use.

Kind: pure
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from encfs.errors import UsageError

PAGE = 4096
MIB = 1 << 20
MIN_SIZE = 16 * MIB
# What is known of one block takes less, as Python objects.
BLOCK_OVERHEAD = 1024
# Buffers for ranges somebody waits for. Read-ahead has its own, so that it never delays such a range.
DEMAND = 4


@dataclass(frozen=True, slots=True)
class CacheSettings:
    """Sizes in bytes, times in seconds.

    Attributes:
        size_bytes: all memory of the cache.
        block_bytes: unit of memory and of eviction, a power of two, at least 4096.
        read_ahead: how far a reader's next ranges are fetched before it asks; 0 for never.
        fetch_bytes: largest range fetched by one request for a reader that waits.
        ahead_bytes: largest range read ahead by one request.
        fetches: ranges read ahead at once.
        put_bytes: largest range stored by one request.
        puts: ranges stored at once.
        dirty_limit: writes wait while so much is not stored.
        delay: data waits this long for neighbours before it is stored, unless a flush or the limit asks.
        retry_min, retry_max: pause before a range that could not be stored is tried again; it doubles.
    """

    size_bytes: int
    block_bytes: int
    read_ahead: int
    fetch_bytes: int
    ahead_bytes: int
    fetches: int
    put_bytes: int
    puts: int
    dirty_limit: int
    delay: float = 1.0
    retry_min: float = 1.0
    retry_max: float = 30.0

    def __post_init__(self) -> None:
        assert self.block_bytes >= PAGE
        assert not self.block_bytes & (self.block_bytes - 1)
        assert self.block_bytes <= min(self.fetch_bytes, self.ahead_bytes, self.put_bytes)
        if self.slots < 2 * self.dirty_blocks or self.slots < 4:
            raise UsageError(
                f"cache: {self.size_bytes} bytes leave room for {self.slots} blocks beside its buffers,"
                f" {self.dirty_blocks} of which may be dirty",
                hint=f"give it at least {MIN_SIZE >> 20} MiB",
            )

    @property
    def slots(self) -> int:
        """Blocks that fit beside the buffers."""
        buffers = self.fetch_bytes * DEMAND + self.ahead_bytes * self.fetches + self.put_bytes * self.puts
        return (self.size_bytes - buffers) // (self.block_bytes + BLOCK_OVERHEAD)

    @property
    def dirty_blocks(self) -> int:
        """Blocks that may hold data not stored yet; the others keep reading possible."""
        return max(1, self.dirty_limit // self.block_bytes)


def sized(size_bytes: int = 256 * MIB, *, read_ahead: int | None = None, delay: float = 1.0) -> CacheSettings:
    """Settings for a cache of a size, everything else in proportion to it.

    Args:
        size_bytes: all memory of the cache.
        read_ahead: bytes; None for an eighth of the cache, at most 32 MiB.
        delay: seconds before data is stored without being asked for.

    Raises:
        UsageError: too small, or more read-ahead than half of it.
    """
    if size_bytes < MIN_SIZE:
        raise UsageError(
            f"cache: size {size_bytes} bytes, wanted at least {MIN_SIZE}", hint="use --cache-size 16M or more"
        )
    if read_ahead is None:
        read_ahead = min(size_bytes // 8, 32 * MIB)
    if not 0 <= read_ahead <= size_bytes // 2:
        raise UsageError(
            f"cache: read-ahead of {read_ahead} bytes, wanted at most half of {size_bytes}",
            hint="use a smaller --read-ahead or a larger --cache-size",
        )
    if delay < 0:
        raise UsageError(f"cache: write delay {delay:g} s, wanted 0 or more")
    is_small = size_bytes < 64 * MIB
    # A store spends the most on small ranges: the largest that leave most of the memory to blocks.
    ahead_bytes = next(n for n in (8 * MIB, 4 * MIB, 2 * MIB, MIB, MIB // 2) if 32 * n <= size_bytes)
    return CacheSettings(
        size_bytes=size_bytes,
        block_bytes=64 << 10,
        read_ahead=read_ahead,
        fetch_bytes=MIB // 4 if is_small else MIB,
        ahead_bytes=ahead_bytes,
        fetches=4,
        put_bytes=MIB if is_small else 4 * MIB,
        puts=4,
        dirty_limit=size_bytes // 4,
        delay=delay,
    )


def parse_bytes(text: str) -> int:
    """A number of bytes, like `65536`, `64K` or `256M`.

    Raises:
        UsageError: it is none.
    """
    match = re.fullmatch(r"([0-9]{1,12})([KMG]?)", text.upper())
    if match is None:
        raise UsageError(f"size {text!r}: not a number of bytes", hint="like 65536, 64K, 256M or 1G")
    return int(match.group(1)) << {"": 0, "K": 10, "M": 20, "G": 30}[match.group(2)]


@dataclass(frozen=True, slots=True)
class CacheState:
    """One look at a cache, for metrics; sizes in bytes.

    Attributes:
        capacity: blocks' memory.
        dirty: accepted and not known to be stored.
        accepted: number of the last write accepted.
        stored: every write up to that number is stored.
        failures: puts that failed, ever.
        failing: blocks whose last put failed.
        hits, misses: pages asked for that were there, and that had to be waited for.
        fetched, fetches: bytes and requests of reading.
        put, puts: bytes and requests of storing.
        answered: requests of both kinds that succeeded.
    """

    capacity: int
    dirty: int
    accepted: int
    stored: int
    failures: int
    failing: int
    hits: int
    misses: int
    fetched: int
    fetches: int
    put: int
    puts: int
    answered: int
