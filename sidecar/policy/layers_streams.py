"""Streams of a layer's bytes: counted and checked against their digest, decompressed, with bounds.

A digest is known to be right only at the end of the stream, so results made from a stream count only after
its `verify`.

The only user of zstandard.

Kind: adapter
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Callable
from typing import IO, cast

import zstandard

from sidecar.errors import DigestMismatch, LayerRejected
from sidecar.policy.oci import LYING_HINT
from sidecar.policy.tar_input import ByteStream

MAX_UNPACKED = 64 << 30
# A zstd frame can ask for any window; this is what the zstd tool accepts by itself.
_MAX_WINDOW = 128 << 20
_CHUNK = 1 << 16

Progress = Callable[[int], None]


class CheckedStream:
    """Passes a stream on and knows in the end whether it was the one that a digest names.

    Args:
        source: what to read.
        digest: `sha256:...` or `sha512:...`; None to count only.
        what: names the bytes in errors.
        size: bytes that there must be, None when unknown.
        limit: bytes after which it is refused.
        progress: told of each piece's length.
    """

    def __init__(
        self,
        source: ByteStream,
        digest: str | None,
        what: str,
        *,
        size: int | None = None,
        limit: int = MAX_UNPACKED,
        progress: Progress | None = None,
    ) -> None:
        self._source = source
        self._digest = digest
        self._what = what
        self._size = size
        self._limit = limit if size is None else size
        self._progress = progress
        self._hash = None if digest is None else hashlib.new(digest.partition(":")[0])
        self.count = 0

    def readinto(self, buffer: memoryview, /) -> int:
        count = self._source.readinto(buffer) or 0
        if self._hash is not None:
            self._hash.update(buffer[:count])
        self.count += count
        if self.count > self._limit:
            self._too_long()
        if self._progress is not None:
            self._progress(count)
        return count

    def verify(self) -> None:
        """Read what is left and check it all.

        Raises:
            DigestMismatch: other bytes than the digest names.
        """
        buffer = memoryview(bytearray(_CHUNK))
        while self.readinto(buffer):
            pass
        if self._size is not None and self.count != self._size:
            raise DigestMismatch(f"{self._what}: {self.count} bytes, wanted {self._size}", hint=LYING_HINT)
        if self._hash is None:
            return
        found = f"{self._hash.name}:{self._hash.hexdigest()}"
        if found != self._digest:
            raise DigestMismatch(
                f"{self._what}: digest {found}, wanted {self._digest}",
                hint=LYING_HINT,
            )

    def _too_long(self) -> None:
        if self._size is not None:
            raise DigestMismatch(f"{self._what}: over {self._size} bytes, its size", hint=LYING_HINT)
        raise LayerRejected(f"{self._what}: over {self._limit} bytes")


def decompressed(source: ByteStream, what: str) -> ByteStream:
    """The stream's content: gzip and zstd are known by their first bytes, all else passes through."""
    head = bytearray(4)
    view = memoryview(head)
    filled = 0
    while filled < 4 and (count := source.readinto(view[filled:])):
        filled += count
    whole = _Prefixed(bytes(head[:filled]), source)
    if head[:2] == b"\x1f\x8b":
        return _Gzip(whole, what)
    # 0x184D2A50 to 5F are frames to be skipped; some tools put one first.
    if head == b"\x28\xb5\x2f\xfd" or (head[1:] == b"\x2a\x4d\x18" and head[0] & 0xF0 == 0x50):
        return _Zstd(whole, what)
    return whole


class _Prefixed:
    """Some bytes that were read before, then the rest."""

    def __init__(self, head: bytes, rest: ByteStream) -> None:
        self._head = head
        self._rest = rest

    def readinto(self, buffer: memoryview, /) -> int:
        if not self._head:
            return self._rest.readinto(buffer) or 0
        count = min(len(buffer), len(self._head))
        buffer[:count] = self._head[:count]
        self._head = self._head[count:]
        return count


class _Gzip:
    """The content of gzip members that follow each other."""

    def __init__(self, source: ByteStream, what: str) -> None:
        self._source = source
        self._what = what
        self._buffer = memoryview(bytearray(_CHUNK))
        self._input: bytes | memoryview = b""
        self._member: zlib._Decompress | None = None

    def readinto(self, buffer: memoryview, /) -> int:
        # Output is bounded by the buffer: a small input may stand for a thousand times its length.
        while True:
            if not self._input and not self._refill():
                return 0
            if self._member is None:
                self._member = zlib.decompressobj(31)
            try:
                content = self._member.decompress(self._input, len(buffer))
            except zlib.error as exc:
                raise LayerRejected(f"{self._what}: not gzip: {exc}") from exc
            if self._member.eof:
                self._input, self._member = self._member.unused_data, None
            else:
                self._input = self._member.unconsumed_tail
            if content:
                buffer[: len(content)] = content
                return len(content)

    def _refill(self) -> bool:
        count = self._source.readinto(self._buffer) or 0
        self._input = self._buffer[:count]
        if not count and self._member is not None:
            raise LayerRejected(f"{self._what}: the gzip stream ends early", hint="the file is truncated")
        return bool(count)


class _Zstd:
    """The content of zstd frames that follow each other."""

    def __init__(self, source: ByteStream, what: str) -> None:
        self._what = what
        decompressor = zstandard.ZstdDecompressor(max_window_size=_MAX_WINDOW)
        self._reader = decompressor.stream_reader(
            cast(IO[bytes], _Reader(source)), read_size=_CHUNK, read_across_frames=True
        )

    def readinto(self, buffer: memoryview, /) -> int:
        try:
            return self._reader.readinto(buffer)
        except zstandard.ZstdError as exc:
            raise LayerRejected(f"{self._what}: not zstd: {exc}") from exc


class _Reader:
    """What zstandard reads from."""

    def __init__(self, source: ByteStream) -> None:
        self._source = source

    def read(self, size: int) -> bytes:
        buffer = bytearray(size)
        count = self._source.readinto(memoryview(buffer)) or 0
        return bytes(buffer[:count])
