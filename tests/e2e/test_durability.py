"""What fsync promised is there after the driver was killed; what unmount promised, after a remount."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from fakes import load
from fakes.commands import Commands
from fakes.volumes import Clients, is_running, mounts_below, run_or_tear_down, state_of, tear_down, wait_until

pytestmark = [pytest.mark.fuse, pytest.mark.root]

PROGRAM = (sys.executable, load.__file__)
GIBIBYTE = 1 << 30


@pytest.fixture
def clients() -> Iterator[Clients]:
    started = Clients()
    yield started
    started.end()


@pytest.fixture
def mnt(commands: Commands, clients: Clients) -> Iterator[Path]:
    """The mount point; whatever a failed test leaves there is torn down by force, and then clients end."""
    yield commands.folder / "mnt"
    tear_down(commands.folder / "run", commands.folder)


def mount(commands: Commands, image: Path, mnt: Path) -> None:
    commands.run("encfs", "mount", image, mnt, "--key-file", "key.bin", check=True)


def check_file_system(commands: Commands, image: Path) -> None:
    """e2fsck finds nothing to do: the journal was replayed, and nothing is out of order."""
    plain = commands.folder / "plain"
    plain.mkdir()
    words = (image, plain, "--key-file", "key.bin", "--read-only")
    with commands.serving("encfs", "expose", *words, ready="ready"):
        result = commands.run("e2fsck", "-fn", plain / "data")
    assert result.code == 0, result.out
    assert "recover" not in result.out


@pytest.mark.parametrize("stored_before", [1, 60])
def test_fsynced_files_survive_a_killed_driver(
    commands: Commands, clients: Clients, mnt: Path, stored_before: int
) -> None:
    image = commands.folder / "data.img"
    commands.run("encfs", "create", image, "--size", "256M", "--key-file", "key.bin", check=True)
    mount(commands, image, mnt)
    state = state_of(commands.folder / "run")
    writer = clients.start("store", mnt / "store")
    assert writer.stdout is not None
    said = ["0", *(writer.stdout.readline().strip() for _ in range(stored_before - 1))]
    os.kill(state.driver_pid, signal.SIGKILL)
    rest, _ = writer.communicate(timeout=60)
    wait_until(lambda: not is_running(state.supervisor_pid), 20, "the supervisor has ended")
    assert mounts_below(commands.folder) == []
    *numbers, error = [*said, *rest.split()]
    assert error in ("EIO", "EROFS")
    assert numbers == [str(number) for number in range(max(stored_before, len(numbers)))]

    mount(commands, image, mnt)  # replays the journal
    run_or_tear_down(commands, *PROGRAM, "verify", mnt / "store", str(len(numbers)), timeout=60)
    run_or_tear_down(commands, "encfs", "unmount", mnt, timeout=60)
    check_file_system(commands, image)


def test_a_gibibyte_compares_equal_after_a_remount(commands: Commands, mnt: Path) -> None:
    image = commands.folder / "data.img"
    commands.run("encfs", "create", image, "--size", "1200M", "--key-file", "key.bin", check=True)
    words = (mnt / "large", str(GIBIBYTE), os.urandom(32).hex())
    mount(commands, image, mnt)
    run_or_tear_down(commands, *PROGRAM, "write", *words, timeout=120)
    run_or_tear_down(commands, "encfs", "unmount", mnt, timeout=120)
    mount(commands, image, mnt)
    run_or_tear_down(commands, *PROGRAM, "check", *words, timeout=120)
    run_or_tear_down(commands, "encfs", "unmount", mnt, timeout=120)
    check_file_system(commands, image)
