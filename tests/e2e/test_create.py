"""Reproducible images: the same folder and key give the same bytes, wherever and whenever."""

from __future__ import annotations

import os
import shutil
import signal
import stat
import subprocess
import time
from pathlib import Path

import pytest
from fakes.commands import Commands

from encfs.errors import ExitCode

pytestmark = [pytest.mark.fuse]


def make(commands: Commands, source: Path, name: str, *more: str) -> bytes:
    words = ("encfs", "create", name, "--from", source, "--key-file", "key.bin", "--reproducible")
    commands.run(*words, *more, check=True)
    return (commands.folder / name).read_bytes()


@pytest.fixture
def twin(commands: Commands, sample: Path) -> Path:
    """The same content elsewhere: other path, order, inode numbers, access and change times."""
    os.setxattr(sample / "text", "user.origin", b"a\0b")
    os.mkfifo(sample / "pipe")
    os.chown(sample / "sub" / "binary", 70_000, 80_000)
    copy = commands.folder / "elsewhere" / "copy"
    copy.parent.mkdir()
    commands.run("cp", "-a", sample, copy, check=True)
    for path in sorted(copy.rglob("entry-*"), reverse=True):
        moved = path.with_name("moved")
        shutil.copy2(path, moved)
        path.unlink()
        moved.rename(path)
    os.utime(copy / "sub", ns=(1, (sample / "sub").stat().st_mtime_ns))
    return copy


def test_same_content_same_image(commands: Commands, sample: Path, twin: Path) -> None:
    first = make(commands, sample, "first.img")
    second = make(commands, twin, "second.img")
    assert first == second
    commands.run("encfs", "check", "second.img", "--key-file", "key.bin", check=True)
    out = commands.folder / "out"
    commands.run("encfs", "extract", "first.img", out, "--key-file", "key.bin", check=True)
    assert (out / "sub" / "binary").read_bytes() == (sample / "sub" / "binary").read_bytes()
    assert (out / "sparse").read_bytes() == (sample / "sparse").read_bytes()
    assert os.readlink(out / "soft") == "sub/binary"


@pytest.mark.root
def test_everything_is_in_it(commands: Commands, sample: Path, twin: Path) -> None:
    make(commands, sample, "x.img")
    mnt = commands.folder / "mnt"
    commands.run("encfs", "mount", "x.img", mnt, "--key-file", "key.bin", "--read-only", check=True)
    names = sorted(str(path.relative_to(sample)) for path in sample.rglob("*"))
    seen = sorted(str(p.relative_to(mnt)) for p in mnt.rglob("*") if p.name != "lost+found")
    states = {}
    for top in (sample, mnt):
        found = [(top / name).lstat() for name in names]
        links = [status.st_nlink for status in found if not stat.S_ISDIR(status.st_mode)]
        states[top] = [(s.st_mode, s.st_uid, s.st_gid, s.st_mtime_ns) for s in found], links
    attribute, blocks = os.getxattr(mnt / "text", "user.origin"), (mnt / "sparse").stat().st_blocks
    same_inode = os.path.samefile(mnt / "text", mnt / "hard")
    commands.run("encfs", "unmount", mnt, check=True)
    assert seen == names
    assert states[mnt] == states[sample]
    assert attribute == b"a\0b"
    assert blocks * 512 < 100_000
    assert same_inode


def test_other_content_or_key_shares_nothing(commands: Commands, sample: Path) -> None:
    """Not even the sectors that hold the same plaintext: the volume key is another one."""
    first = make(commands, sample, "first.img", "--size", "32M")
    (sample / "text").write_text("attesteD\n")
    second = make(commands, sample, "second.img", "--size", "32M")
    sectors = [(first[at : at + 4096], second[at : at + 4096]) for at in range(16 << 20, len(first), 4096)]
    zero = bytes(4096)
    assert not [1 for one, other in sectors if one == other != zero]


def test_times_are_clamped(commands: Commands, sample: Path) -> None:
    commands.environment["SOURCE_DATE_EPOCH"] = "1500000000"
    first = make(commands, sample, "first.img")
    os.utime(sample / "text", (1_700_000_000, 1_700_000_000))
    assert make(commands, sample, "second.img") == first
    os.utime(sample / "text", (1_400_000_000, 1_400_000_000))
    assert make(commands, sample, "third.img") != first


def test_refusals(commands: Commands, sample: Path) -> None:
    base = ("encfs", "create", "x.img", "--reproducible")
    alone = commands.run(*base, "--key-file", "key.bin", "--size", "32M")
    assert (alone.code, "--from" in alone.err) == (ExitCode.USAGE, True)
    (commands.folder / "typed").write_bytes(b"correct horse battery staple 32!")
    typed = commands.run(*base, "--key-file", "typed", "--from", sample)
    assert (typed.code, "typed passphrase" in typed.err) == (ExitCode.USAGE, True)
    assert not (commands.folder / "x.img").exists()


def test_an_interrupted_create_leaves_nothing(commands: Commands, sample: Path) -> None:
    """SIGTERM in the middle: no image, no partial file, no FUSE mount, no driver."""
    (sample / "large").write_bytes(os.urandom(150 << 20))
    words = ["encfs", "create", "x.img", "--from", str(sample), "--key-file", "key.bin"]
    process = subprocess.Popen(
        words, cwd=commands.folder, env=commands.child_environment(), stderr=subprocess.PIPE
    )
    deadline = time.monotonic() + 20
    while not any(
        str(commands.folder) in line for line in Path("/proc/self/mounts").read_text().splitlines()
    ):
        assert time.monotonic() < deadline
        assert process.poll() is None, "it ended before it could be interrupted"
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=30)
    assert (process.returncode, b"interrupted" in said) == (ExitCode.INTERRUPTED, True), said
    assert not [path.name for path in commands.folder.iterdir() if "x.img" in path.name]
    assert list((commands.folder / "run").iterdir()) == []
