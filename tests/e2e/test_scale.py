"""What does not grow with the image, from 64 MiB to a sparse 1 TiB: memory and time of info, check, mount."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from fakes.commands import Commands
from fakes.volumes import state_of

pytestmark = [pytest.mark.fuse, pytest.mark.root]

LIMIT_KIB = 100 << 10


def peak(commands: Commands, *words: str | Path) -> int:
    """Peak resident memory of a command and its largest child process, KiB."""
    script = "import resource,subprocess,sys; subprocess.run(sys.argv[1:], check=True, stdout=-3); "
    script += "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"
    return int(commands.run("python3", "-c", script, *words, timeout=120, check=True).out.split()[-1])


@pytest.fixture
def huge(commands: Commands) -> Path:
    """A sparse image of 1 TiB: an encrypted file system of 64 MiB, and nothing after it."""
    path = commands.folder / "huge.img"
    commands.run("encfs", "create", path, "--size", "64M", "--key-file", "key.bin", check=True)
    os.truncate(path, 1 << 40)
    if path.stat().st_blocks * 512 > 1 << 30:
        pytest.fail("the file system of the temporary folder keeps no sparse files")
    return path


def test_a_tebibyte_costs_no_memory(commands: Commands, huge: Path) -> None:
    assert peak(commands, "encfs", "info", huge) < LIMIT_KIB
    assert peak(commands, "encfs", "check", huge, "--key-file", "key.bin") < LIMIT_KIB
    mnt = commands.folder / "mnt"
    commands.run("encfs", "mount", huge, mnt, "--key-file", "key.bin", timeout=20, check=True)
    (mnt / "file").write_text("kept")
    commands.run("encfs", "unmount", mnt, timeout=20, check=True)


def cost(commands: Commands, image: Path) -> tuple[int, float]:
    """Memory that a mounted volume's driver holds, KiB, and processor seconds of driver and supervisor."""
    mnt = commands.folder / "mnt"
    commands.run("encfs", "mount", image, mnt, "--key-file", "key.bin", timeout=20, check=True)
    state = state_of(commands.folder / "run")
    status = Path(f"/proc/{state.driver_pid}/status").read_text()
    resident = int(status.partition("VmRSS:")[2].split()[0])
    ticks = 0
    for pid in (state.driver_pid, state.supervisor_pid):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    commands.run("encfs", "unmount", mnt, timeout=20, check=True)
    return resident, ticks / os.sysconf("SC_CLK_TCK")


def test_a_mount_costs_the_same_whatever_the_size(commands: Commands, huge: Path) -> None:
    small = commands.folder / "small.img"
    commands.run("encfs", "create", small, "--size", "64M", "--key-file", "key.bin", check=True)
    small_memory, small_time = cost(commands, small)
    huge_memory, huge_time = cost(commands, huge)
    assert abs(huge_memory - small_memory) < 2 << 10
    assert huge_memory < LIMIT_KIB
    assert abs(huge_time - small_time) < 0.15
    assert huge_time < 0.6


def test_the_measure_sees_memory(commands: Commands) -> None:
    """The same measure on a command that does take memory."""
    assert peak(commands, "python3", "-c", "x = bytearray(200 << 20)") > LIMIT_KIB
