"""What does not grow with the image: memory and time of info, check and mount of a sparse 1 TiB image."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from fakes.commands import Commands

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


def test_the_measure_sees_memory(commands: Commands) -> None:
    """The same measure on a command that does take memory."""
    assert peak(commands, "python3", "-c", "x = bytearray(200 << 20)") > LIMIT_KIB
