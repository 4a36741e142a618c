"""Sparse files in tar archives: which bytes of the file the archive holds; all others are zeros.

Three ways to say it: the old GNU header with its extension blocks, and PAX records of version 0.x (a map in
the records) and 1.0 (a map before the data).

Spec: GNU tar manual, "Storing Sparse Files"; Go archive/tar.

Kind: pure
"""

from __future__ import annotations

from sidecar.errors import LayerRejected
from sidecar.policy.tar_header import BLOCK, Header, Records, parse_integer, parse_number
from sidecar.policy.tar_input import Input

MAX_ENTRIES = 1 << 16
_OLD_ENTRIES, _OLD_EXTENDED, _OLD_REAL_SIZE = 386, 482, 483

Pieces = list[tuple[int, int]]


def read_sparse(header: Header, block: bytes, records: Records, source: Input) -> Pieces | None:
    """The pieces (offset, length) that the archive holds of a file, None when the file is not sparse.

    Sets the header's name and size to those of the file, `stored` to what is still in the archive.

    Raises:
        LayerRejected: the map is malformed, out of order or beyond the file's size.
    """
    if header.type == b"S":
        pieces = _old_map(header, block, source)
    else:
        version = sparse_version(records)
        if version is None:
            return None
        header.name = records.get(b"GNU.sparse.name") or header.name
        size = records.get(b"GNU.sparse.size") or records.get(b"GNU.sparse.realsize")
        if size:
            header.size = parse_integer(size, "GNU.sparse.size")
        pieces = _map_1(header, source) if version == 1 else _map_0(records)
    _check(pieces, header)
    return pieces


def sparse_version(records: Records) -> int | None:
    """Which PAX form the records speak of, 0 (0.0 and 0.1) or 1; None for none."""
    major, minor = records.get(b"GNU.sparse.major", b""), records.get(b"GNU.sparse.minor", b"")
    if major == b"0" and minor in (b"0", b"1"):
        return 0
    if (major, minor) == (b"1", b"0"):
        return 1
    if not major and not minor and records.get(b"GNU.sparse.map"):
        return 0
    return None


def _old_map(header: Header, block: bytes, source: Input) -> Pieces:
    if not header.gnu:
        raise LayerRejected("tar: a sparse file in a header that is not GNU's")
    header.size = parse_number(block[_OLD_REAL_SIZE : _OLD_REAL_SIZE + 12], "real size")
    pieces = _old_entries(block[_OLD_ENTRIES:_OLD_EXTENDED])
    extended = block[_OLD_EXTENDED]
    while extended:
        more = bytes(source.exactly(BLOCK, "a sparse file's map"))
        pieces += _old_entries(more[:504])
        extended = more[504]
        _check_count(len(pieces))
    return pieces


def _old_entries(data: bytes) -> Pieces:
    pieces: Pieces = []
    for start in range(0, len(data) - 23, 24):
        if data[start] == 0:
            break
        offset = parse_number(data[start : start + 12], "sparse offset")
        pieces.append((offset, parse_number(data[start + 12 : start + 24], "sparse length")))
    return pieces


def _map_0(records: Records) -> Pieces:
    count = parse_integer(records.get(b"GNU.sparse.numblocks", b""), "GNU.sparse.numblocks")
    _check_count(count)
    text = records.get(b"GNU.sparse.map", b"")
    numbers = [parse_integer(part, "GNU.sparse.map") for part in text.split(b",")] if text else []
    if len(numbers) != 2 * count:
        raise LayerRejected(f"tar: a sparse map of {len(numbers)} numbers, wanted {2 * count}")
    return list(zip(numbers[::2], numbers[1::2], strict=True))


def _map_1(header: Header, source: Input) -> Pieces:
    """Decimal numbers, one a line, at the start of the data: how many pieces, then the pieces."""
    text = bytearray()
    lines = 0

    def more(wanted: int) -> None:
        nonlocal lines
        while lines < wanted:
            header.stored -= BLOCK
            if header.stored < 0:
                raise LayerRejected("tar: a sparse map that does not end within its file")
            block = bytes(source.exactly(BLOCK, "a sparse file's map"))
            lines += block.count(b"\n")
            text.extend(block)

    more(1)
    count = parse_integer(bytes(text.split(b"\n", 1)[0]), "sparse map")
    _check_count(count)
    more(1 + 2 * count)
    numbers = [parse_integer(bytes(part), "sparse map") for part in text.split(b"\n")[1 : 1 + 2 * count]]
    return list(zip(numbers[::2], numbers[1::2], strict=True))


def _check_count(count: int) -> None:
    if not 0 <= count <= MAX_ENTRIES:
        raise LayerRejected(f"tar: a sparse file of {count} pieces, at most {MAX_ENTRIES} are accepted")


def _check(pieces: Pieces, header: Header) -> None:
    end = 0
    for offset, length in pieces:
        if offset < end or length < 0:
            raise LayerRejected("tar: a sparse file's pieces overlap or are out of order")
        end = offset + length
    if end > header.size:
        raise LayerRejected(f"tar: a sparse file of {header.size} bytes has a piece that ends at {end}")
    if sum(length for _, length in pieces) != header.stored:
        raise LayerRejected("tar: a sparse file's map and its data differ in length")
