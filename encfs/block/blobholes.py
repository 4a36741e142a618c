"""Which parts of a page blob were never written, so that nobody asks the store for zeros.

Strategy: one byte a granule in a bytearray made at open, because a list of ranges grows with every write and
the write path must not allocate. The granule grows with the blob so that the map stays under 1 MiB.

Rules: a set byte means "may hold data". It is never cleared: a wrong set byte costs a request, a wrong
clear one would cost data.

Kind: pure
"""

from __future__ import annotations

MAX_MAP = 1 << 20
MIN_GRANULE = 4096


class HoleMap:
    """Zero everywhere until told otherwise.

    Args:
        size: of the blob in bytes.
        full: everything may hold data.
    """

    def __init__(self, size: int, *, full: bool = False) -> None:
        granule = MIN_GRANULE
        while size > granule * MAX_MAP:
            granule *= 2
        self.granule = granule
        self._map = bytearray((b"\1" if full else b"\0") * -(-size // granule))

    def mark(self, offset: int, length: int) -> None:
        """Bytes `offset` to `offset + length` may hold data from now on."""
        if length:
            first, last = offset // self.granule, (offset + length - 1) // self.granule
            if last < len(self._map):
                self._map[first : last + 1] = b"\1" * (last + 1 - first)

    def data_in(self, offset: int, length: int) -> tuple[int, int]:
        """The smallest part of a range that may hold data, as start and end; equal when there is none."""
        end = offset + length
        first, last = offset // self.granule, -(-end // self.granule)
        found = self._map.find(1, first, last)
        if found < 0:
            return offset, offset
        final = self._map.rfind(1, first, last)
        return max(offset, found * self.granule), min(end, (final + 1) * self.granule)

    @property
    def data_bytes(self) -> int:
        """How many bytes may hold data, rounded up to granules."""
        return self._map.count(1) * self.granule
