"""A tar archive from a stream, entry by entry, with the data as views of the read buffer.

Headers that only describe the next one (PAX, GNU long names) are applied to it. A global PAX header is an
entry: the guest's converter makes an empty file of it.

Spec: POSIX pax interchange format; GNU tar manual; Go archive/tar where they leave room.

Kind: pure
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from sidecar.errors import LayerRejected
from sidecar.policy.tar_header import (
    BLOCK,
    MAX_META,
    Header,
    Records,
    apply_records,
    parse_header,
    parse_records,
)
from sidecar.policy.tar_input import BUFFER, ByteStream, Input
from sidecar.policy.tar_sparse import Pieces, read_sparse, sparse_version

GLOBAL_HEADER = b"g"
# Links, devices, directories and FIFOs: no data follows, whatever the size field says.
HEADER_ONLY = frozenset((b"1", b"2", b"3", b"4", b"5", b"6"))
_ZEROS = bytes(BLOCK)
_DATA_UNIT = 4096
_MAX_META_IN_A_ROW = 16


@dataclass(slots=True)
class _Pending:
    """What the headers before an entry say of it."""

    records: Records
    name: bytes = b""
    target: bytes = b""
    count: int = 0


class TarReader:
    """Iterates over an archive's entries; read an entry's `data` before the next one comes, or not.

    Raises, in all methods:
        LayerRejected: not a tar archive, malformed, truncated or over a bound.
    """

    def __init__(self, stream: ByteStream, seek: Callable[[int], object] | None = None) -> None:
        self.input = Input(stream, seek)
        self._stored = 0
        self._padding = 0
        self._pieces: Pieces | None = None
        self._size = 0

    def __iter__(self) -> Iterator[Header]:
        pending = _Pending({})
        while (block := self._next_block()) is not None:
            header = parse_header(block)
            self._start_data(header)
            if header.type in (b"x", b"L", b"K"):
                self._take_meta(header, pending)
                continue
            if header.type == GLOBAL_HEADER:
                # Of the records only the name and the attributes reach the entry.
                apply_records(header, parse_records(self._meta(header)))
                entry = Header(header.name, GLOBAL_HEADER, xattrs=header.xattrs)
            else:
                entry = self._finish_header(header, block, pending)
            yield entry
            pending = _Pending({})

    def data(self) -> Iterator[memoryview | int]:
        """The current entry's data: views valid until the next step, and numbers of zero bytes of holes."""
        if self._pieces is None:
            yield from self._stored_data(self._stored)
            return
        place = 0
        for offset, length in self._pieces:
            if offset > place:
                yield offset - place
            yield from self._stored_data(length)
            place = offset + length
        if self._size > place:
            yield self._size - place

    def skip_data(self) -> None:
        """Pass over what is left of the current entry's data."""
        self.input.skip(self._stored, "a file's data")
        self._stored = 0

    # -- headers ----------------------------------------------------------------------------------

    def _next_block(self) -> bytes | None:
        """The next header block, None at the end of the archive."""
        self.skip_data()
        # An archive may end within the padding of its last file, and without its zero blocks.
        if len(self.input.at_most(self._padding)) < self._padding:
            return None
        at_start = self.input.position == 0
        block = bytes(self.input.at_most(BLOCK))
        if not block and at_start:
            raise LayerRejected("tar: an empty file, not a tar archive")
        if not block:
            return None
        if len(block) < BLOCK:
            raise LayerRejected("tar: the archive ends within a header", hint="the file is truncated")
        if block != _ZEROS:
            return block
        second = bytes(self.input.at_most(BLOCK))
        if second not in (_ZEROS, b""):
            raise LayerRejected("tar: a single zero block between entries")
        return None

    def _start_data(self, header: Header) -> None:
        stored = 0 if header.type in HEADER_ONLY else header.size
        if stored < 0:
            raise LayerRejected(f"tar: a file of {stored} bytes")
        header.stored = stored
        self._stored, self._padding = stored, -stored % BLOCK
        self._pieces = None

    def _take_meta(self, header: Header, pending: _Pending) -> None:
        pending.count += 1
        if pending.count > _MAX_META_IN_A_ROW:
            raise LayerRejected(f"tar: over {_MAX_META_IN_A_ROW} headers of headers in a row")
        data = self._meta(header)
        if header.type == b"x":
            pending.records = parse_records(data)
        elif header.type == b"L":
            pending.name = data.split(b"\0", 1)[0]
        else:
            pending.target = data.split(b"\0", 1)[0]

    def _meta(self, header: Header) -> bytes:
        if header.stored > MAX_META:
            raise LayerRejected(f"tar: a header of {header.stored} bytes, at most {MAX_META} are accepted")
        self._stored = 0
        return bytes(self.input.exactly(header.stored, "an extended header"))

    def _finish_header(self, header: Header, block: bytes, pending: _Pending) -> Header:
        apply_records(header, pending.records)
        header.name = pending.name or header.name
        header.target = pending.target or header.target
        if header.type == b"\0":
            header.type = b"5" if header.name.endswith(b"/") else b"0"
        self._start_data(header)
        if header.type not in HEADER_ONLY:
            self._pieces = read_sparse(header, block, pending.records, self.input)
        elif sparse_version(pending.records) is not None:
            raise LayerRejected("tar: a sparse map for an object that is no file")
        self._stored, self._size = header.stored, header.size
        return header

    def _stored_data(self, size: int) -> Iterator[memoryview]:
        while size:
            view = self.input.some(min(size, BUFFER), min(size, _DATA_UNIT))
            if not view:
                raise LayerRejected(
                    "tar: the archive ends within a file's data", hint="the file is truncated"
                )
            size -= len(view)
            self._stored -= len(view)
            yield view
