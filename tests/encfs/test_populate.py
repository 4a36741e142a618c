"""Every kind of entry, and the names debugfs stumbles over, arrive in a file system as they were."""

from __future__ import annotations

import os
import stat
import struct
import subprocess
from pathlib import Path

import pytest

from encfs.content import changed, digest, scan
from encfs.errors import FileSystemError, UsageError
from encfs.populate import populate

ACCESS = "system.posix_acl_access"


def acl(uid: int) -> bytes:
    """An access ACL that also lets `uid` read and write: version 2, entries of tag, permissions, id."""
    none = 0xFFFFFFFF
    rows = ((1, 6, none), (2, 6, uid), (4, 4, none), (16, 6, none), (32, 4, none))
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *row) for row in rows)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    top = tmp_path / "tree"
    top.mkdir()
    odd = ['quo"te', "line\nend", "<12>", "#", "-f", " ", "back\\slash", "x" * 255]
    for name in odd:
        (top / name).write_text(name)
        (top / f"d{name}"[:255]).mkdir(exist_ok=True)
    (top / "dline\nend" / "in\nner").write_text("deep")
    (top / "dline\nend" / "plain").write_text("deep")
    Path(os.fsdecode(os.fsencode(top) + b"/\xff\xfe")).write_text("no utf-8")
    os.symlink('to "line\nend"', top / "soft")
    os.symlink("y" * 3000, top / "long")
    many = top / "many"
    many.mkdir()
    for number in range(300):
        os.link(top / "#", many / f"{number:0200}")
    with (top / "sparse").open("wb") as file:
        file.seek(5 << 20)
        file.write(b"end")
    (top / "late").write_text("")
    os.utime(top / "late", ns=(0, 4_300_000_000_123_456_789))
    os.utime(top / "#", ns=(0, -1_000_000_001))
    return top


def make(image: Path, size: int = 64 << 20) -> Path:
    with image.open("wb") as file:
        file.truncate(size)
    subprocess.run(
        ["/usr/sbin/mke2fs", "-q", "-F", "-t", "ext4", "-b", "4096", image], check=True, timeout=30
    )
    return image


def seen(top: Path) -> dict[str, tuple[object, ...]]:
    found: dict[str, tuple[object, ...]] = {}
    for entry in scan(top):
        status, name = entry.status, os.fsdecode(entry.path)
        if name == "lost+found":
            continue
        links = status.st_nlink if stat.S_ISREG(status.st_mode) else 0
        regular = stat.S_ISREG(status.st_mode)
        content = (top / name).read_bytes() if regular else None
        numbers = (status.st_mode, status.st_uid, status.st_gid, status.st_rdev, status.st_mtime_ns)
        found[name] = (*numbers, links, entry.target, entry.xattrs, content)
    return found


@pytest.mark.root
async def test_everything_arrives(tree: Path, tmp_path: Path) -> None:
    os.mkfifo(tree / "pipe", 0o622)
    os.mknod(tree / "char", stat.S_IFCHR | 0o640, os.makedev(300, 700_000))
    os.mknod(tree / "block", stat.S_IFBLK | 0o600, os.makedev(7, 1))
    os.setxattr(tree / "<12>", ACCESS, acl(1234))
    os.setxattr(tree / "many", "system.posix_acl_default", acl(77))
    os.setxattr(tree / "#", "user.any", bytes(range(256)))
    os.setxattr(tree / "soft", "trusted.link", b"on the link", follow_symlinks=False)
    os.setxattr(tree, "user.top", b"1")
    os.chown(tree / "late", 70_000, 4_000_000_000, follow_symlinks=False)
    os.setxattr(tree / "late", "security.capability", bytes.fromhex("01000002000400" + 26 * "0"))
    tree.chmod(0o2751)
    image, mnt = make(tmp_path / "fs"), tmp_path / "mnt"
    await populate(image, tree, scan(tree))
    subprocess.run(["/usr/sbin/e2fsck", "-fn", image], check=True, timeout=30, capture_output=True)
    mnt.mkdir()
    subprocess.run(["mount", "-o", "loop,ro", image, mnt], check=True, timeout=30)
    try:
        wanted, found = seen(tree), seen(mnt)
        sparse = (mnt / "sparse").stat().st_blocks
    finally:
        subprocess.run(["umount", mnt], check=True, timeout=30)
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        assert found[name] == value, name
    assert sparse * 512 < 100_000


async def test_too_little_room_is_an_error(tree: Path, tmp_path: Path) -> None:
    """debugfs itself ends with 0 here."""
    (tree / "large").write_bytes(os.urandom(4 << 20))
    image = make(tmp_path / "fs", 3 << 20)
    with pytest.raises(FileSystemError, match="debugfs: "):
        await populate(image, tree, scan(tree))


async def test_a_folder_that_changes_meanwhile_is_refused(tree: Path, tmp_path: Path) -> None:
    """The volume key belongs to the content that was digested."""
    entries = scan(tree)
    (tree / "#").write_text("other")
    with pytest.raises(UsageError, match="changed while it was read"):
        await populate(make(tmp_path / "fs"), tree, entries)


def test_digest_sees_content_only(tmp_path: Path) -> None:
    digests: list[bytes] = []
    for name in ("one", "two"):
        top = tmp_path / name
        top.mkdir()
        with (top / "file").open("wb") as file:
            if name == "one":
                file.write(bytes(1 << 20))  # written zeros in one, a hole in the other
            file.seek(1 << 20)
            file.write(b"end")
        for path in (top / "file", top):
            os.utime(path, ns=(len(digests), 10**18))
        digests.append(digest(top, scan(top))[0])
    assert digests[0] == digests[1]
    (tmp_path / "two" / "file").chmod(0o600)
    assert digest(tmp_path / "two", scan(tmp_path / "two"))[0] != digests[0]


def test_changed_names_what_changed(tree: Path) -> None:
    entries = scan(tree)
    assert changed(tree, entries) is None
    os.utime(tree / "many", ns=(5, 5))
    assert changed(tree, entries) == "many"
