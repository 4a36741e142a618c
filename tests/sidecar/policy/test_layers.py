"""Layers against the reference's hashes, and against what the reference refuses."""

from __future__ import annotations

import hashlib
import io

import pytest
from fakes.layer_tars import (
    END,
    GNU,
    PAX,
    USTAR,
    Entry,
    Vector,
    Zeros,
    attribute_block,
    directory,
    file,
    header_block,
    make_tar,
    plain,
    special,
    vectors,
)

from sidecar.errors import LayerRejected, LayerUnpredictable
from sidecar.policy.ext4 import MAX_FILE
from sidecar.policy.layers import convert, hash_layer, layer_root_hash


class ImageFile:
    """A sink that keeps the image, in memory."""

    def __init__(self) -> None:
        self.image = bytearray()

    def add(self, data: bytes | bytearray | memoryview) -> None:
        assert len(data) % 4096 == 0
        self.image += data

    def add_zeros(self, count: int) -> None:
        self.image += bytes(4096 * count)

    def keep(self, block: int) -> None:
        """Everything is kept."""

    def replace(self, block: int, data: bytes) -> None:
        self.image[4096 * block : 4096 * block + len(data)] = data


def image_of(tar: bytes, **options: int) -> bytes:
    sink = ImageFile()
    blocks = convert(io.BytesIO(tar), sink, **options)
    assert len(sink.image) == 4096 * blocks
    return bytes(sink.image)


@pytest.mark.parametrize("vector", vectors(), ids=lambda vector: vector.name)
def test_reference_vector(vector: Vector) -> None:
    if vector.tar_sha256:
        assert hashlib.sha256(vector.tar).hexdigest() == vector.tar_sha256
    found = hash_layer(io.BytesIO(vector.tar))
    assert found.root_hash == vector.root_hash
    if vector.image_size:
        assert found.image_size == vector.image_size
    if vector.image_sha256:
        assert hashlib.sha256(image_of(vector.tar)).hexdigest() == vector.image_sha256


def test_reference_vector_of_600_mib() -> None:
    found = hash_layer(Zeros())
    assert (found.root_hash, found.image_size) == (Zeros.root_hash, Zeros.image_size)


@pytest.mark.parametrize(
    ("tar", "size", "digest"),
    [
        (END, 28672, "a623b87bf0f4115924e5e1fd33e274770e2a0287bc660b8cd383029bff89ac4a"),
        (plain(), 36864, "13d562715fe49bd640b2691f346b0bbc96459cc5bbd101aa5157d44dc369d686"),
    ],
)
def test_smaller_reservation(tar: bytes, size: int, digest: str) -> None:
    image = image_of(tar, reserved=16 << 30)
    assert (len(image), hashlib.sha256(image).hexdigest()) == (size, digest)


def refused(tar: bytes, words: str, kind: type[LayerRejected] = LayerRejected) -> None:
    with pytest.raises(kind, match=words):
        hash_layer(io.BytesIO(tar))


LINK, FIFO, DIRECTORY, SYMLINK = b"1", b"6", b"5", b"2"


@pytest.mark.parametrize(
    ("entries", "words"),
    [
        ([file("f", b"1"), file("f", b"2")], "/f: cannot overwrite a file that has content"),
        ([special(SYMLINK, "s", linkname="t" * 60), file("s")], "/s: cannot overwrite"),
        ([directory("d/"), file("d")], "/d: cannot replace a directory with a file"),
        ([file("d"), directory("d/")], "/d: cannot replace a file with a directory"),
        ([file("./")], "/: cannot replace a directory with a file"),
        ([special(LINK, "l", linkname="gone")], "/l: hard link to /gone: file not found"),
        ([directory("d/"), special(LINK, "l", linkname="d")], "/l: hard link to /d, which is a directory"),
        ([file("a"), file("b"), special(LINK, "b", linkname="a")], "/b: cannot replace what is there"),
        ([file("f"), file("f/below")], "/f/below: path not found"),
        ([file("f"), file("f/below/deep")], "/f/below: path not found, /f is a file|path not found"),
        ([file("n" * 256)], "a name of 256 bytes, at most 255"),
        ([file("/".join(["d"] * 2100))], "a path of 4199 bytes, at most 4096"),
        ([file("x/.wh..wh..opq"), file("f"), file("f/.wh..wh..opq")], "path not found|in a file"),
        ([file("d/x"), file(".wh.")], "cannot replace a directory with a file"),
        ([file("f", pax_headers={"SCHILY.xattr.user.a": "v" * 5000})], "attribute b'user.a' does not fit"),
    ],
)
def test_what_the_reference_refuses(entries: list[Entry], words: str) -> None:
    refused(make_tar(PAX, entries), words)


def test_unpredictable_order_of_attributes() -> None:
    refused(attribute_block(13), "13 extended attributes in the attribute block", LayerUnpredictable)


def test_unpredictable_extent_index() -> None:
    size = (MAX_FILE + 1).to_bytes(12, "big")
    head = header_block(b"huge", b"", at124=b"\x80" + size[1:])
    refused(head, "/huge: .* the converter writes a broken image", LayerUnpredictable)


@pytest.mark.parametrize(
    ("tar", "words"),
    [
        (b"", "an empty file, not a tar archive"),
        (b"hello", "ends within a header"),
        (b"x" * 512, "checksum"),
        (plain()[:512] + bytes(512) + plain()[512:], "a single zero block"),
        (plain()[:700], "ends within a header"),
        (plain()[:1027], "ends within a file's data"),
        (header_block(b"f", b"", at124=b"99999999999"), "field size is"),
        (header_block(b"f", b"", at124=b"\xff" * 12), "a file of -1 bytes"),
        (header_block(b"f", b"", at124=b"\x80\xff" + b"\xff" * 10), "over 63 bits"),
        (header_block(b"f", b"x" * 2048, kind=b"x"), "PAX record"),
        (header_block(b"f", b"99 path=x\n", kind=b"x"), "PAX record's length"),
        (header_block(b"f", b"12 path=a\0b\n", kind=b"x"), "PAX record b'path' is malformed"),
        (header_block(b"f", b"11 mtime=x\n", kind=b"x") + header_block(b"g", b""), "mtime is b'x'"),
        (header_block(b"f", b"", kind=b"x", at124=b"00007777777"), "a header of 2097151 bytes"),
        (header_block(b"f", b"7 a=bc\n", kind=b"x") * 17, "headers of headers in a row"),
        # No data follows a link, whatever its size says: what does follow is read as a header.
        (header_block(b"l", b"y" * 512, kind=b"2"), "checksum"),
    ],
)
def test_malformed_archive(tar: bytes, words: str) -> None:
    refused(tar, words)


def test_a_time_in_year_one_is_no_time() -> None:
    records = {"mtime": "-62135596800"}
    tar = make_tar(PAX, [file("f", pax_headers=records)])
    assert layer_root_hash(io.BytesIO(tar)) == layer_root_hash(io.BytesIO(make_tar(PAX, [file("f")])))


@pytest.mark.parametrize("form", [USTAR, PAX, GNU])
def test_dialects_give_one_hash(form: int) -> None:
    entries = [directory("d/"), file("d/f", b"data"), special(SYMLINK, "d/s", linkname="f")]
    found = layer_root_hash(io.BytesIO(make_tar(form, entries)))
    assert found == layer_root_hash(io.BytesIO(make_tar(USTAR, entries)))


def sparse_tars() -> list[bytes]:
    """`f`, 20,000 bytes with "abc" at 8192 and "z" at the end: old GNU, PAX 0.0, 0.1, 1.0."""
    data = b"abc" + b"z"
    entry = b"%011o\0%011o\0"
    old = {"at386": entry % (8192, 3), "at410": entry % (19999, 1), "at483": b"%011o\0" % 20000}
    tars = [header_block(b"f", data, kind=b"S", **old) + END]
    common = {"GNU.sparse.numblocks": "2", "GNU.sparse.size": "20000", "GNU.sparse.name": "f"}
    tars.append(make_tar(PAX, [file("g", data, pax_headers=common | {"GNU.sparse.map": "8192,3,19999,1"})]))
    records = b"".join(
        record(key, value)
        for key, value in [
            (b"GNU.sparse.size", b"20000"),
            (b"GNU.sparse.numblocks", b"2"),
            (b"GNU.sparse.offset", b"8192"),
            (b"GNU.sparse.numbytes", b"3"),
            (b"GNU.sparse.offset", b"19999"),
            (b"GNU.sparse.numbytes", b"1"),
        ]
    )
    head = header_block(b"x", records, kind=b"x", magic=b"ustar\x0000")
    tars.append(head + header_block(b"f", data, magic=b"ustar\x0000") + END)
    one = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": "20000"}
    mapped = b"2\n8192\n3\n19999\n1\n".ljust(512, b"\0") + data
    tars.append(make_tar(PAX, [file("x", mapped, pax_headers=one | {"GNU.sparse.name": "f"})]))
    return tars


def record(key: bytes, value: bytes) -> bytes:
    length = len(key) + len(value) + 3
    while len(b"%d %s=%s\n" % (length, key, value)) != length:
        length += 1
    return b"%d %s=%s\n" % (length, key, value)


@pytest.mark.parametrize("tar", sparse_tars(), ids=["old GNU", "PAX 0.1", "PAX 0.0", "PAX 1.0"])
def test_sparse_file_has_the_hash_of_a_dense_one(tar: bytes) -> None:
    content = (bytes(8192) + b"abc").ljust(19999, b"\0") + b"z"
    dense = layer_root_hash(io.BytesIO(make_tar(PAX, [file("f", content)])))
    assert layer_root_hash(io.BytesIO(tar)) == dense


@pytest.mark.parametrize(
    ("pieces", "words"),
    [("8192,3,100,1", "overlap"), ("8192,3,19999,2", "ends at 20001"), ("0,1", "wanted 4"), ("0,9,x,1", "x")],
)
def test_sparse_map_that_lies(pieces: str, words: str) -> None:
    records = {"GNU.sparse.numblocks": "2", "GNU.sparse.size": "20000", "GNU.sparse.map": pieces}
    refused(make_tar(PAX, [file("f", b"abcz", pax_headers=records)]), words)


def test_implicit_parents_are_told() -> None:
    found = hash_layer(io.BytesIO(make_tar(USTAR, [directory("a/"), file("a/b/c/d"), file("e/f")])))
    assert found.implicit_parents == ("/a/b", "/a/b/c", "/e")
    assert found.implicit_count == 3
