"""Tar archives of layers, reproducible byte for byte, with the root hashes that the reference tools give."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

USTAR, PAX, GNU = tarfile.USTAR_FORMAT, tarfile.PAX_FORMAT, tarfile.GNU_FORMAT
Entry = tuple[str, dict[str, Any], bytes]


def make_tar(form: int, entries: Iterable[Entry], **options: Any) -> bytes:
    """An archive; each entry is a name, what differs from the defaults, and data."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=form, **options) as archive:
        for name, changes, data in entries:
            info = tarfile.TarInfo(name)
            for key, value in changes.items():
                setattr(info, key, value)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return out.getvalue()


def directory(name: str, mode: int = 0o755, mtime: int = 0, **more: Any) -> Entry:
    return name, {"type": tarfile.DIRTYPE, "mode": mode, "mtime": mtime, **more}, b""


def file(name: str, data: bytes = b"", **more: Any) -> Entry:
    return name, more, data


def special(kind: bytes, name: str, **more: Any) -> Entry:
    return name, {"type": kind, **more}, b""


def xattrs(pairs: Iterable[tuple[str, str]]) -> dict[str, str]:
    """PAX records of extended attributes, in order; bytes are written as surrogates."""
    return {f"SCHILY.xattr.{name}": value for name, value in pairs}


@dataclass(frozen=True)
class Vector:
    """An archive, its SHA-256, the root hash, and where known the image's size and SHA-256."""

    name: str
    tar: bytes
    tar_sha256: str
    root_hash: str
    image_size: int = 0
    image_sha256: str = ""


def plain() -> bytes:
    """A directory and a file."""
    time = 1700000000
    return make_tar(USTAR, [directory("etc/", mtime=time), file("etc/hello.txt", b"hello\n", mtime=time)])


def every_type() -> bytes:
    """All types of entries, times before 1970, attributes in the inode and in the block, whiteouts."""
    t = 1600000000
    capability = bytes([1, 0, 0, 2, 0, 4]).ljust(20, b"\0").decode("utf-8", "surrogateescape")
    big = [("user.big", "v" * 200), ("user.a", "1"), ("trusted.zz", "2" * 60), ("user.c", "w" * 90)]
    times = {"mtime": "1600000005.123456789", "atime": "1600000006.5", "ctime": "-5"}
    cap = xattrs([("user.note", "abc"), ("security.capability", capability)])
    entries = [
        directory("./", mtime=t),
        file("a/b/c.txt", b"x" * 4097, mode=0o600, uid=70000, gid=80000, mtime=t + 1),
        directory("a/", 0o750, t + 2, uid=5, gid=6),
        special(tarfile.SYMTYPE, "a/short", mode=0o777, linkname="b/c.txt", mtime=t + 3),
        special(tarfile.SYMTYPE, "a/long", mode=0o777, linkname="y" * 60, mtime=t + 4),
        special(tarfile.LNKTYPE, "a/hard", linkname="a/b/c.txt"),
        special(tarfile.FIFOTYPE, "a/fifo", mode=0o644),
        special(tarfile.CHRTYPE, "a/chr", mode=0o620, devmajor=5, devminor=300),
        special(tarfile.BLKTYPE, "a/blk", mode=0o660, devmajor=8, devminor=1),
        file("suid", mode=0o4755, pax_headers=times),
        file("cap", b"#!/bin/sh\n", mode=0o755, pax_headers=cap),
        file("xbig", pax_headers=xattrs(big)),
        file("gone/.wh.file", mode=0),
        directory("opq/", mtime=7),
        file("opq/.wh..wh..opq", mode=0),
        file("opq/new", b"n"),
    ]
    return make_tar(PAX, entries)


def many_names() -> bytes:
    """300 files with names up to 204 bytes, and one of over 5 MiB, after 2038."""
    files = [file(f"d/f{i:03d}-" + "n" * (i % 200), bytes([i % 256]) * (37 * i), mtime=i) for i in range(300)]
    big = file("big.bin", b"\xab" * (5 * 1024 * 1024 + 1), mtime=2**33)
    return make_tar(GNU, [directory("d/", mtime=1), *files, big])


def duplicates() -> bytes:
    """Names given twice, through a hard link and without; a path with dots."""
    entries = [
        file("e", mtime=1),
        special(tarfile.LNKTYPE, "e2", linkname="e"),
        file("e", b"second", mtime=2),
        directory("dd/", 0o700, 3),
        file("dd/x", mtime=4),
        file("dd/x", b"12345", mode=0o600, mtime=5),
        directory("dd/", 0o711, 6),
        file("/abs/../abs2/./y", b"y", mtime=8),
    ]
    return make_tar(PAX, entries)


def global_header() -> bytes:
    """A global PAX header, which becomes a file."""
    return make_tar(PAX, [file("f", b"hi", mtime=9)], pax_headers={"comment": "0123456789"})


def many_inodes() -> bytes:
    """33,000 empty files: more than one group of inodes."""
    return make_tar(USTAR, [file(f"n{i:05d}") for i in range(33000)])


def replaced_whiteout() -> bytes:
    """A whiteout, then the file it hides, in a directory that nobody described."""
    return make_tar(GNU, [file("a/.wh.b"), file("a/b", b"zz")])


def attribute_block(count: int) -> bytes:
    """A file with so many attributes, all in the block, whose order is the reference's."""
    prefixes = ("user.", "trusted.", "security.", "system.", "foo.")
    pairs = [(prefixes[i % 5] + "k" * (i % 7) + chr(97 + i % 26) + str(i), "v" * 90) for i in range(count)]
    return make_tar(PAX, [file("f", pax_headers=xattrs(pairs))])


def header_block(
    name: bytes, data: bytes, *, kind: bytes = b"0", magic: bytes = b"ustar  \0", **put: bytes
) -> bytes:
    """A hand-made entry; `put` sets bytes at an offset, as at345=b"..."."""
    header = bytearray(512)
    header[: len(name)] = name
    header[100:108], header[108:116], header[116:124] = b"0000644\0", b"0000000\0", b"0000000\0"
    header[124:136], header[136:148] = b"%011o\0" % len(data), b"00000000000\0"
    header[156:157] = kind
    header[257:265] = magic
    for key, value in put.items():
        place = int(key.removeprefix("at"))
        header[place : place + len(value)] = value
    header[148:156] = b"        "
    header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header) + data + bytes(-len(data) % 512)


END = bytes(1024)


def gnu_times() -> bytes:
    """Access and change time in the fields of a GNU header."""
    return header_block(b"f", b"abc", at345=b"00000000017\0", at357=b"00000000031\0") + END


def raw_name() -> bytes:
    """A name that is not UTF-8."""
    out = io.BytesIO()
    with tarfile.open(
        fileobj=out, mode="w", format=GNU, encoding="utf-8", errors="surrogateescape"
    ) as archive:
        info = tarfile.TarInfo(b"\xff\xfe".decode("utf-8", "surrogateescape"))
        info.size = 1
        archive.addfile(info, io.BytesIO(b"q"))
    return out.getvalue()


def vectors() -> list[Vector]:
    """All but the one of 600 MiB."""
    return [
        Vector(
            "empty",
            END,
            "5f70bf18a086007016e948b04aed3b82103a36bea41755b6cddfaf10ace3c6ef",
            "8b4842f06982817534a75bcf71865213b09dfa8313229c384e5201dadbd75e25",
            57344,
            "ed92c1b95c950cd8cde5265b5bd97104f5b5f235fffe22fe5a0eaa1388860d45",
        ),
        Vector(
            "plain",
            plain(),
            "dc9122f26f1b824c1f1e432dacb74e781b82abad6bfe1aa5145e53ea832d7751",
            "cb54e2a715daad73c2997ce079b986268c8aca85b31fc2514eb55a43b714ff54",
            65536,
            "94f6e4209228bf61079bc11f26c333c677afb5a7284742b0e34a22337ff08fba",
        ),
        Vector(
            "every type",
            every_type(),
            "a7e098b7f7843fde588a8660394d00dcda4687f086daf0256c895b99d1f30ca2",
            "b4e98ef16b5832a6deda590723afa05d7f55e8d8b2dff455cfed90a9456033aa",
            102400,
            "5a90d15befe0980c268e82c81938781deaa3880cc85e1eff232f911d7d7d2be4",
        ),
        Vector(
            "many names",
            many_names(),
            "259c6348f84910473ef5418b7facfdf221bf81068e3b33257f40b7ff00f3ad9c",
            "007c94324f7e32aab5fa5a1dde54ecbc09198fbe57246c15e0b566a9662b3e50",
            7733248,
            "36b296c53685cb9984fcd6df45939c3cf6f8bce911dbc3eabf2459b6c58b9b44",
        ),
        Vector(
            "duplicates",
            duplicates(),
            "ac347fd59d0f11807ea61458b8399a0efdcba3b0978e08d49bc335bf77f68e91",
            "c8f8418b5257f3d25972569b6c4803949b2b7b7a676e95481159496939ebea48",
            81920,
            "c329098f8a5cafd31e0be9b3844cb9b290413942f5418c2c3745f71ef3ae4bfb",
        ),
        Vector(
            "global header",
            global_header(),
            "6996a067c0bf29779b4a5d07ad7764671a92a5def1ad03a41b80ebc11bf19cba",
            "66859235ba99c502c0e3d90541abfa84b35c32ce9732ac2b32cb261f18e25774",
        ),
        Vector(
            "many inodes",
            many_inodes(),
            "2183b319d085c50c30239198d0484ae864678e39a82dc1ab4ecf0f212c752fdf",
            "6230a70b43a497a9851955bcc25d2e6bf5a5219169b3f1bf2104f75537baa6b7",
            134221824,
            "8d16df55fb829d1f0dccaacc8ae2199a153c48da3790ced2762f9c5c6bdf923a",
        ),
        Vector(
            "replaced whiteout",
            replaced_whiteout(),
            "3445c1a40b1f95d9c82cbcb20edeab727e833068f446db3cc3f8ac3f31445aec",
            "27b0e7d222d81979fa1f132c9ed6f9bed4c68a57af963496e0d9af0fb94e8852",
            65536,
        ),
        Vector(
            "times in a GNU header",
            gnu_times(),
            "",
            "5670e864aae75fddc8b3e951c231db69b442f3319fbbe140d8a5b0f04340fddd",
        ),
        Vector(
            "a name that is not UTF-8",
            raw_name(),
            "",
            "3527e2eca92a56aff2aa59df271d6278adc211818d01a9e13112597a10fb85e5",
        ),
        Vector(
            "12 attributes in the block",
            attribute_block(12),
            "e3e08029f2f0b11fa567a85a7cd2bf97d8fd685fa1d003824edc0992de9a6b17",
            "415570fa490ce0e901b6fd0c677ec0a05f5ef7b3562aa2bda9382250faa34fa2",
        ),
        Vector(
            "9 attributes in the block",
            attribute_block(9),
            "82f86d032d6fce944a730ca26632f0c0e8b904c92306095cf76ff0ad864ec573",
            "a783c019dc35aa036dd7790fed8b404a5bdbc437a817f7b5564cc15df0b90d4f",
        ),
    ]


class Zeros(io.RawIOBase):
    """The archive with a file of 600 MiB of zeros, made as it is read."""

    sha256 = "a4e658351990e8364b55ce2795502319eba6a9df901b3f20a2454fd8b6f29eba"
    root_hash = "2a11bc37ba42e2ca9cc0deaf6092737ee42684fb9e513857425ac3e0a44b8358"
    image_size = 629260288
    image_sha256 = "b17e43538bd8fc342090806b82cfa776554a157fd668bbfaef0182f8576a7d44"
    size = 600 << 20

    def __init__(self) -> None:
        info = tarfile.TarInfo("big")
        info.size = self.size
        head = info.tobuf(GNU)
        tail = make_tar(GNU, [file("after", b"z")])
        # tarfile fills the archive up to a whole record of 20 blocks.
        length = len(head) + self.size + 2048
        self._parts = [head, self.size, tail[:1024], -(-length // 10240) * 10240 - length + 1024]
        self._index = 0
        self._done = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")
        while self._index < len(self._parts):
            part = self._parts[self._index]
            size = part if isinstance(part, int) else len(part)
            count = min(len(view), size - self._done)
            if count:
                view[:count] = (
                    bytes(count) if isinstance(part, int) else part[self._done : self._done + count]
                )
                self._done += count
                return count
            self._index, self._done = self._index + 1, 0
        return 0
