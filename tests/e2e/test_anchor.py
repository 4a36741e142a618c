"""An older volume than the last one mounted is refused, whole or in part; a crash is accepted once."""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from fakes.commands import Commands
from fakes.volumes import tear_down

from encfs import rundir
from encfs.errors import ExitCode
from encfs.integrity.layout import parse_superblock

pytestmark = [pytest.mark.fuse, pytest.mark.root]
KEY = ("--key-file", "key.bin")
ANCHORED = (*KEY, "--anchor", "anchor.txt")
DATA = 16 << 20


@pytest.fixture
def image(commands: Commands) -> Iterator[Path]:
    words = ("encfs", "create", "x.img", "--size", "48M", *KEY, "--integrity", "hmac-sha256")
    commands.run(*words, check=True)
    yield commands.folder / "x.img"
    tear_down(commands.folder / "run", commands.folder)


def write(commands: Commands, image: Path, text: str, *more: str) -> None:
    """Mount, write a file, unmount."""
    mnt = commands.folder / "mnt"
    commands.run("encfs", "mount", image, mnt, *ANCHORED, *more, check=True)
    (mnt / "file").write_text(text)
    commands.run("encfs", "unmount", mnt, check=True)


def refused(commands: Commands, image: Path) -> bool:
    for mode in ((), ("--read-only",)):
        result = commands.run("encfs", "mount", image, "mnt", *ANCHORED, *mode)
        if result.code != ExitCode.ROLLED_BACK:
            assert result.code == 0, result
            commands.run("encfs", "unmount", "mnt", check=True)
            return False
        assert "hint: " in result.err
    return True


def test_an_older_image_is_refused_until_it_is_accepted(commands: Commands, image: Path) -> None:
    first = commands.run("encfs", "mount", image, "mnt", *ANCHORED, check=True)
    assert first.code == 0
    commands.run("encfs", "unmount", "mnt", check=True)
    shutil.copy(image, commands.folder / "old.img")
    write(commands, image, "new")
    write(commands, image, "newer")
    last = (commands.folder / "anchor.txt").read_text()
    shutil.copy(image, commands.folder / "new.img")
    shutil.copy(commands.folder / "old.img", image)
    assert refused(commands, image)
    assert (commands.folder / "anchor.txt").read_text() == last
    write(commands, image, "restored on purpose", "--accept-rollback")
    assert not refused(commands, image)
    shutil.copy(commands.folder / "new.img", image)
    assert refused(commands, image), "what was given up is older now"


def test_a_single_sector_put_back_with_its_tag_is_refused(commands: Commands, image: Path) -> None:
    """What integrity alone does not notice."""
    write(commands, image, "a" * 4096)
    before = image.read_bytes()
    write(commands, image, "b" * 4096)
    after = bytearray(image.read_bytes())
    layout = parse_superblock(before[DATA : DATA + 512], segment_size=len(before) - DATA, block_size=4096)
    places = [(block, DATA + layout.data_offset(block)) for block in range(layout.blocks)]
    changed = [block for block, at in places if before[at : at + 4096] != after[at : at + 4096]]
    assert changed
    for place, size in ((layout.data_offset, 4096), (layout.tag_offset, 32)):
        at = DATA + place(changed[-1])
        after[at : at + size] = before[at : at + size]
    image.write_bytes(after)
    commands.run("encfs", "check", image, *KEY, "--deep", "--quiet")
    assert refused(commands, image)


def test_a_crash_is_accepted_once(commands: Commands, image: Path) -> None:
    write(commands, image, "before")
    closed = image.read_bytes()
    commands.run("encfs", "mount", image, "mnt", *ANCHORED, check=True)
    with (commands.folder / "mnt" / "fsynced").open("w") as file:
        file.write("kept")
        file.flush()
        os.fsync(file.fileno())
    kill_both(commands)
    crashed = image.read_bytes()
    image.write_bytes(closed)
    assert refused(commands, image), "the image of before the crashed mount"
    image.write_bytes(crashed)
    commands.run("encfs", "mount", image, "mnt", *ANCHORED, check=True)
    assert (commands.folder / "mnt" / "fsynced").read_text() == "kept"
    commands.run("encfs", "unmount", "mnt", check=True)
    image.write_bytes(crashed)
    assert refused(commands, image), "accepted once already"


def test_what_cannot_be_anchored_is_refused(commands: Commands, image: Path) -> None:
    assert commands.run("encfs", "mount", image, "mnt", *KEY, "--accept-rollback").code == ExitCode.USAGE
    assert commands.run("encfs", "mount", image, "mnt", *KEY, "--anchor", "vault").code == ExitCode.USAGE
    (commands.folder / "bad.txt").write_text("nonsense")
    damaged = commands.run("encfs", "mount", image, "mnt", *KEY, "--anchor", "bad.txt")
    assert (damaged.code, "not one of ours" in damaged.err) == (ExitCode.USAGE, True)
    weak = commands.run("encfs", "mount", image, "mnt", *KEY, "--require", "rollback")
    assert weak.code == ExitCode.PROTECTION_TOO_WEAK
    write(commands, image, "anchored", "--require", "rollback")


def kill_both(commands: Commands) -> None:
    state = rundir.read_state(next(p for p in (commands.folder / "run").iterdir() if p.is_dir()))
    assert state is not None
    for pid in (state.supervisor_pid, state.driver_pid):
        os.kill(pid, signal.SIGKILL)
    deadline = time.monotonic() + 20
    while rundir.is_alive(state.driver_pid) and time.monotonic() < deadline:
        time.sleep(0.01)
    tear_down(commands.folder / "run", commands.folder)
