"""A byte stream read in large pieces and handed out without copies.

One buffer is filled by `readinto`; callers get views of it, valid until their next call. What is behind the
place read so far is never seen again, so a stream may be a pipe.

Kind: pure
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from sidecar.errors import LayerRejected

BUFFER = 1 << 20


class ByteStream(Protocol):
    """What can be read from front to back."""

    def readinto(self, buffer: memoryview, /) -> int | None:
        """Fill some of the buffer; 0 at the end."""
        ...


class Input:
    """Reads a stream through one buffer of 1 MiB; `position` counts the bytes handed out.

    Args:
        stream: what is read.
        seek: moves the stream forward by so many bytes, where it can.
    """

    def __init__(self, stream: ByteStream, seek: Callable[[int], object] | None = None) -> None:
        self._stream = stream
        self._seek = seek
        self._view = memoryview(bytearray(BUFFER))
        self._start = self._end = 0
        self.position = 0

    def some(self, limit: int, unit: int) -> memoryview:
        """At least one and at most `limit` bytes' worth of whole units; less than a unit only at the end."""
        if self._end - self._start < unit:
            self._fill(unit)
        size = min(limit, self._end - self._start)
        return self._hand_out(size - size % unit if size > unit else size)

    def exactly(self, size: int, what: str) -> memoryview:
        """So many bytes, at most BUFFER; LayerRejected when the stream ends before."""
        view = self.at_most(size)
        if len(view) < size:
            raise LayerRejected(f"tar: the archive ends within {what}", hint="the file is truncated")
        return view

    def at_most(self, size: int) -> memoryview:
        """So many bytes, at most BUFFER, fewer only at the end of the stream."""
        if self._end - self._start < size:
            self._fill(size)
        return self._hand_out(min(size, self._end - self._start))

    def skip(self, size: int, what: str) -> None:
        """Pass over bytes; LayerRejected when the stream ends before (unless it can seek)."""
        if self._seek is not None and size > self._end - self._start:
            size -= self._end - self._start
            self.position += self._end - self._start + size
            self._start = self._end = 0
            self._seek(size)
            return
        while size:
            part = self.some(min(size, BUFFER), 1)
            if not part:
                raise LayerRejected(f"tar: the archive ends within {what}", hint="the file is truncated")
            size -= len(part)

    def drain(self) -> None:
        """Read to the end of the stream, so that who sees the stream sees all of it."""
        while self.some(BUFFER, 1):
            pass

    def _hand_out(self, size: int) -> memoryview:
        view = self._view[self._start : self._start + size]
        self._start += size
        self.position += size
        return view

    def _fill(self, wanted: int) -> None:
        """Have `wanted` bytes at hand, or all that there are."""
        left = self._end - self._start
        self._view[:left] = self._view[self._start : self._end]
        self._start, self._end = 0, left
        while self._end < wanted:
            count = self._stream.readinto(self._view[self._end :])
            if not count:
                return
            self._end += count
