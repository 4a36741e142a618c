"""Making images: everything arrives, reproducible ones are the same bytes, and nothing half-made is left."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import stat
import subprocess
import time
from collections.abc import Callable
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
@pytest.mark.parametrize("mode", ["--reproducible", "--quiet"])
def test_everything_is_in_it(commands: Commands, sample: Path, twin: Path, mode: str) -> None:
    commands.run("encfs", "create", "x.img", "--from", sample, "--key-file", "key.bin", mode, check=True)
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
    process = half_way(commands, sample)
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=30)
    assert (process.returncode, b"interrupted" in said) == (ExitCode.INTERRUPTED, True), said
    assert left(commands) == []


def test_a_killed_create_leaves_nothing_for_long(commands: Commands, sample: Path) -> None:
    """SIGKILL: its driver ends by itself, and the next create of the same name takes the rest away."""
    process = half_way(commands, sample)
    drivers = [pid for pid in children(process.pid) if b"encfs.driver" in command_line(pid)]
    process.kill()
    process.communicate(timeout=30)
    assert len(drivers) == 1
    wait_for(lambda: b"encfs.driver" not in command_line(drivers[0]))
    assert any(name.startswith(".x.img.partial-") for name in left(commands))
    commands.run("encfs", "create", "x.img", "--size", "32M", "--key-file", "key.bin", check=True)
    assert left(commands) == ["x.img"]


def test_a_running_create_is_left_alone(commands: Commands, sample: Path) -> None:
    """Two at once for one name: both end, and neither takes the other's partial file away."""
    process = half_way(commands, sample)
    words = ("encfs", "create", "x.img", "--size", "32M", "--key-file", "key.bin")
    commands.run(*words, "--force", check=True)
    _, said = process.communicate(timeout=60)
    assert (process.returncode, b"exists" in said) == (ExitCode.IMAGE, True), said
    assert left(commands) == ["x.img"]
    commands.run("encfs", "check", "x.img", "--key-file", "key.bin", check=True)


@pytest.mark.root
def test_a_full_disk_is_an_error(commands: Commands, sample: Path) -> None:
    """The kernel writes cached pages after debugfs has ended: their loss must not go unnoticed."""
    (sample / "large").write_bytes(os.urandom(14 << 20))
    small = commands.folder / "small"
    small.mkdir()
    commands.run("mount", "-t", "tmpfs", "-o", "size=18M", "tmpfs", small, check=True)
    words = ("encfs", "create", small / "x.img", "--from", sample, "--key-file", "key.bin")
    try:
        (small / "other").write_bytes(bytes(1 << 20))
        made = commands.run(*words)
        (small / "other").write_bytes(bytes(8 << 20))
        early = commands.run(*words)
        names = [path.name for path in small.iterdir()]
    finally:
        commands.run("umount", small, check=True)
    assert (made.code, "No space left on device" in made.err) == (ExitCode.FILE_SYSTEM, True), made
    assert (early.code, "free on that disk, wanted about" in early.err) == (ExitCode.IMAGE, True), early
    assert names == ["other"]


def test_holes_take_no_room(commands: Commands, sample: Path) -> None:
    """The size found for an image counts what files fill, in either mode."""
    os.truncate(sample / "sparse", 1 << 30)
    for mode in ("--reproducible", "--quiet"):
        words = ("encfs", "create", f"x{mode}.img", "--from", sample, "--key-file", "key.bin", mode, "--json")
        assert json.loads(commands.run(*words, check=True).out)["size"] < 64 << 20


@pytest.mark.parametrize(("mode", "shown"), [((), True), (("--quiet",), False), (("--json",), False)])
def test_progress_is_shown_on_a_terminal(
    commands: Commands, sample: Path, mode: tuple[str, ...], shown: bool
) -> None:
    (sample / "large").write_bytes(os.urandom(32 << 20))
    ours, theirs = os.openpty()
    words = ["encfs", "create", "x.img", "--from", str(sample), "--key-file", "key.bin", *mode]
    with open(theirs, "wb", buffering=0) as terminal, open(ours, "rb", buffering=0) as screen:
        done = subprocess.run(
            words, cwd=commands.folder, env=commands.child_environment(), stderr=terminal, timeout=60
        )
        os.set_blocking(ours, False)
        said = screen.read(1 << 16) or b""
    assert done.returncode == 0
    assert (re.search(rb"creating x.img: +\d+%, .*B of .*B", said) is not None) == shown, said
    assert b"\n" not in said


def half_way(commands: Commands, sample: Path) -> subprocess.Popen[bytes]:
    """A create of `x.img` that has mounted its driver and is not done."""
    with (sample / "large").open("wb") as file:
        for _ in range(250):
            file.write(os.urandom(1 << 20))
    words = ["encfs", "create", "x.img", "--from", str(sample), "--key-file", "key.bin"]
    process = subprocess.Popen(
        words, cwd=commands.folder, env=commands.child_environment(), stderr=subprocess.PIPE
    )
    wait_for(lambda: str(commands.folder) in Path("/proc/self/mounts").read_text())
    assert process.poll() is None, "it ended before it could be disturbed"
    return process


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def children(pid: int) -> list[int]:
    """Processes whose parent is `pid`, whichever of its threads started them."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            if int(path.read_text().rpartition(")")[2].split()[1]) == pid:
                found.append(int(path.parent.name))
    return found


def command_line(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def left(commands: Commands) -> list[str]:
    """Names of images, whole or partial, and of what is in the run directory."""
    return sorted(
        path.name
        for path in (*commands.folder.iterdir(), *(commands.folder / "run").iterdir())
        if "x.img" in path.name or path.parent.name == "run"
    )
