"""Odd archives, one by one, with the root hash that the reference tool gives each; none where it refuses.

The hashes (their first half) are those of hcsshim's ConvertAndComputeRootDigest, of August 2026.
"""

from __future__ import annotations

import io

import pytest
from fakes.layer_tars import END, header_block

from sidecar.errors import LayerRejected
from sidecar.policy.layers import layer_root_hash

FILE = header_block(b"f", b"data")


def records(*pairs: tuple[bytes, bytes], kind: bytes = b"x") -> bytes:
    """A header of PAX records."""
    data = b""
    for key, value in pairs:
        length = len(key) + len(value) + 3
        while len(record := b"%d %s=%s\n" % (length, key, value)) != length:
            length += 1
        data += record
    return header_block(b"hdr", data, kind=kind, magic=b"ustar\x0000")


# What it is, the first half of the hash, the archive.
CASES = [
    ("global header: path", "613db4ce7d422ccd", records((b"path", b"zz"), kind=b"g") + FILE + END),
    (
        "global header: attribute",
        "b3dd7f233e14b56d",
        records((b"SCHILY.xattr.user.a", b"1"), kind=b"g") + FILE + END,
    ),
    (
        "records, then a global header",
        "e39520a14d2a2159",
        records((b"path", b"zz")) + records((b"comment", b"1"), kind=b"g") + FILE + END,
    ),
    (
        "long name, then a global header",
        "e39520a14d2a2159",
        header_block(b"L", b"longname\0", kind=b"L") + records((b"comment", b"1"), kind=b"g") + FILE + END,
    ),
    (
        "long name before a path record",
        "8aa5c1ec25e7fd7d",
        header_block(b"L", b"longname\0", kind=b"L") + records((b"path", b"zz")) + FILE + END,
    ),
    (
        "path record before a long name",
        "8aa5c1ec25e7fd7d",
        records((b"path", b"zz")) + header_block(b"L", b"longname\0", kind=b"L") + FILE + END,
    ),
    (
        "the last records count",
        "091e87d16661efcf",
        records((b"path", b"zz"), (b"uid", b"7")) + records((b"gid", b"8")) + FILE + END,
    ),
    ("empty long name", "bc2c62e74ce05770", header_block(b"L", b"\0", kind=b"L") + FILE + END),
    (
        "long link",
        "9ef5a171e937d39d",
        header_block(b"K", b"t" * 70 + b"\0", kind=b"K") + header_block(b"s", b"", kind=b"2") + END,
    ),
    ("V7 folder", "7026259855913519", header_block(b"d/", b"", kind=b"\0", magic=bytes(8)) + END),
    (
        "V7 folder by its long name",
        "5107209adbbc72b4",
        header_block(b"L", b"dd/\0", kind=b"L") + header_block(b"d", b"", kind=b"\0") + END,
    ),
    ("file with a slash at its end", "916ffc86caf63d8a", header_block(b"d/", b"xx") + END),
    ("the same by a record", "a2d613302b454832", records((b"path", b"q/")) + FILE + END),
    (
        "folder with a size",
        "f08a472f9f55943d",
        header_block(b"d/", b"", kind=b"5", at124=b"00000001000\0") + FILE + END,
    ),
    (
        "link with a size",
        "d653fda9f7d661ac",
        records((b"size", b"4")) + header_block(b"s", b"", kind=b"2", at157=b"target") + FILE + END,
    ),
    (
        "size by a record",
        "bc2c62e74ce05770",
        records((b"size", b"4")) + header_block(b"f", b"data", at124=b"00000000000\0") + END,
    ),
    (
        "hard link to a symbolic one",
        "6e4bb36360e6b979",
        header_block(b"s", b"", kind=b"2", at157=b"x") + header_block(b"h", b"", kind=b"1", at157=b"s") + END,
    ),
    (
        "hard link called like a whiteout",
        "d57711490d30f4af",
        FILE + header_block(b".wh.h", b"", kind=b"1", at157=b"f") + END,
    ),
    (
        "hard link with dots",
        "6c82d115e487d651",
        header_block(b"a/f", b"1") + header_block(b"h", b"", kind=b"1", at157=b"../../a/./f") + END,
    ),
    (
        "hard link to itself",
        "",
        header_block(b"f", b"") + header_block(b"f", b"", kind=b"1", at157=b"f") + END,
    ),
    ("hard link to the root", "", header_block(b"h", b"", kind=b"1", at157=b"/") + END),
    (
        "hard link twice",
        "b14f4ff3e73d0983",
        FILE
        + header_block(b"h", b"", kind=b"1", at157=b"f")
        + header_block(b"h", b"", kind=b"1", at157=b"f")
        + END,
    ),
    (
        "hard link over a hard link",
        "aaa85e5c13e301c9",
        FILE
        + header_block(b"h", b"", kind=b"1", at157=b"f")
        + header_block(b"e", b"")
        + header_block(b"h", b"", kind=b"1", at157=b"e")
        + END,
    ),
    ("whiteout of nothing", "", header_block(b".wh.", b"") + END),
    ("whiteout of a dot", "", header_block(b"a/.wh..", b"") + END),
    ("whiteout of two dots", "", header_block(b"a/.wh...", b"") + END),
    ("whiteout with a slash", "d28b639fe0526af6", header_block(b"a/.wh.b/", b"") + END),
    ("opaque root", "2f61ff408e59f136", header_block(b".wh..wh..opq", b"") + END),
    ("opaque with a slash", "36d20908d0901b1a", header_block(b"a/.wh..wh..opq/", b"") + END),
    ("opaque with dots", "771dedb0d6d403de", header_block(b"a/./b/../.wh..wh..opq", b"") + END),
    ("opaque twice", "771dedb0d6d403de", header_block(b"a/.wh..wh..opq", b"") * 2 + END),
    (
        "opaque with an attribute block",
        "0c2b2e0b4d7dd255",
        records((b"SCHILY.xattr.user.big", b"v" * 200), (b"SCHILY.xattr.user.s", b"1"))
        + header_block(b"d/", b"", kind=b"5")
        + header_block(b"d/.wh..wh..opq", b"")
        + END,
    ),
    (
        "opaque with an ACL",
        "92d8c401ff5008c7",
        records((b"SCHILY.xattr.system.posix_acl_access", b"v" * 20), (b"SCHILY.xattr.user.s", b"1"))
        + header_block(b"d/", b"", kind=b"5")
        + header_block(b"d/.wh..wh..opq", b"")
        + END,
    ),
    (
        "folder again, attributes lost",
        "64398435f6a5c5b1",
        records((b"SCHILY.xattr.user.big", b"v" * 200), (b"SCHILY.xattr.user.s", b"1"))
        + header_block(b"d/", b"", kind=b"5")
        + header_block(b"d/", b"", kind=b"5")
        + END,
    ),
    (
        "folder again, attribute block rewritten",
        "b54b131eb867c07d",
        records((b"SCHILY.xattr.user.big", b"v" * 200), (b"SCHILY.xattr.user.s", b"1"))
        + header_block(b"d/", b"", kind=b"5")
        + FILE
        + records((b"SCHILY.xattr.user.big2", b"w" * 300))
        + header_block(b"d/", b"", kind=b"5")
        + END,
    ),
    ("ACL", "f1ce1a053cec0cc9", records((b"SCHILY.xattr.system.posix_acl_default", b"v" * 28)) + FILE + END),
    ("attribute without a name", "fd7d1c85424319e7", records((b"SCHILY.xattr.", b"1")) + FILE + END),
    ("attribute without a value", "c60620fa37da1f49", records((b"SCHILY.xattr.user.a", b"")) + FILE + END),
    (
        "attribute with a long name",
        "187215f9263f7a34",
        records((b"SCHILY.xattr.user." + b"n" * 245, b"1")) + FILE + END,
    ),
    ("time before 1970", "b561eaa0e49c8db8", records((b"mtime", b"-3.25")) + FILE + END),
    (
        "parents copy a time before 1970",
        "99ecabc8db98daac",
        records((b"mtime", b"-3.25"), (b"atime", b"-1"))
        + header_block(b"./", b"", kind=b"5")
        + header_block(b"a/b", b"")
        + END,
    ),
    (
        "parents copy a time of long ago",
        "460bf9582613dc63",
        records((b"mtime", b"-99999999999"))
        + header_block(b"./", b"", kind=b"5")
        + header_block(b"a/b", b"")
        + END,
    ),
    (
        "parents copy a time after 2038",
        "639bb160d680d317",
        records((b"mtime", b"4102444800.5"))
        + header_block(b"./", b"", kind=b"5")
        + header_block(b"a/b", b"")
        + END,
    ),
    ("time after all", "6a5f5fdde49a631e", records((b"mtime", b"99999999999")) + FILE + END),
    ("time of year one", "bc2c62e74ce05770", records((b"mtime", b"-62135596800")) + FILE + END),
    (
        "large device numbers",
        "98e68e6a92348acd",
        header_block(b"c", b"", kind=b"3", at329=b"7777777\0", at337=b"7777777\0") + END,
    ),
    ("type 7", "180a8b37539071a9", header_block(b"c", b"data", kind=b"7") + END),
    ("type Z", "180a8b37539071a9", header_block(b"c", b"data", kind=b"Z") + END),
    ("type A with a slash", "180a8b37539071a9", header_block(b"c/", b"data", kind=b"A") + END),
    ("file without a name", "", header_block(b"", b"") + END),
    ("folder without a name", "17d89df15d7b83dc", header_block(b"", b"", kind=b"5") + END),
    ("file called like the root", "", header_block(b"..", b"") + END),
    ("file in place of lost+found", "", header_block(b"lost+found", b"") + END),
    (
        "lost+found given",
        "17d0531aaf3ff1ab",
        header_block(b"lost+found/", b"", kind=b"5") + header_block(b"lost+found/x", b"") + END,
    ),
    (
        "symbolic link over a file",
        "237b13a1694e190b",
        header_block(b"f", b"") + header_block(b"f", b"", kind=b"2", at157=b"x") + END,
    ),
    (
        "file over a symbolic link",
        "bc2c62e74ce05770",
        header_block(b"f", b"", kind=b"2", at157=b"x") + FILE + END,
    ),
    (
        "device over a FIFO",
        "af56821941268914",
        header_block(b"f", b"", kind=b"6") + header_block(b"f", b"", kind=b"3") + END,
    ),
    ("symbolic link to nothing", "d5ad5d94f4050e88", header_block(b"s", b"", kind=b"2") + END),
    ("target of 59 bytes", "99d4a9ddee09c6a3", header_block(b"s", b"", kind=b"2", at157=b"x" * 59) + END),
    ("target of 60 bytes", "462b3003b1d05763", header_block(b"s", b"", kind=b"2", at157=b"x" * 60) + END),
    (
        "symbolic link with a mode",
        "15821a20594fa2c4",
        header_block(b"s", b"", kind=b"2", at157=b"x", at100=b"0004000\0") + END,
    ),
    ("mode with a type", "214b376b29bf7aa3", header_block(b"f", b"", at100=b"0140644\0") + END),
    (
        "owner over 32 bits",
        "ad5d6e93250183f8",
        header_block(b"f", b"", at108=b"\x80\0\0\x01\0\0\0\x05") + END,
    ),
    ("negative owner", "4dfd13d3f2844546", header_block(b"f", b"", at108=b"\xff" * 8) + END),
    ("no zero blocks", "bc2c62e74ce05770", FILE[:-512] + FILE[-512:]),
    ("ends in the padding", "bc2c62e74ce05770", header_block(b"f", b"data")[:600]),
    ("one zero block", "bc2c62e74ce05770", FILE + bytes(512)),
    ("something behind the end", "bc2c62e74ce05770", FILE + END + b"junk" * 200),
    ("entry behind a zero block", "", FILE + bytes(512) + FILE),
]


@pytest.mark.parametrize(("root_hash", "tar"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_as_the_reference(root_hash: str, tar: bytes) -> None:
    if root_hash:
        assert layer_root_hash(io.BytesIO(tar))[:16] == root_hash
        return
    with pytest.raises(LayerRejected):
        layer_root_hash(io.BytesIO(tar))
