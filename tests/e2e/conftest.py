"""Fixtures of the end-to-end tests: a folder with a key and commands, and a check that nothing is left."""

from __future__ import annotations

import os
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from fakes.commands import Commands


@pytest.fixture
def commands(tmp_path: Path) -> Iterator[Commands]:
    """Commands in a folder that holds `key.bin` and an empty folder `mnt`; leaves nothing mounted."""
    key = tmp_path / "key.bin"
    key.write_bytes(os.urandom(32))
    key.chmod(0o600)
    (tmp_path / "mnt").mkdir()
    yield Commands(tmp_path)
    left = leftovers(tmp_path)
    for path in left:
        subprocess.run(["umount", "-f", "-l", path], check=False, timeout=20)
    assert not left, f"left mounted: {left}"
    loops = subprocess.run(
        ["losetup", "-l", "-n", "-O", "BACK-FILE"], capture_output=True, text=True, timeout=20
    )
    assert str(tmp_path) not in loops.stdout, f"left attached: {loops.stdout}"


@pytest.fixture(scope="module")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """`sidecar local` as a process; its environment, without asking for the software processor."""
    folder = tmp_path_factory.mktemp("cloud")
    commands = Commands(folder, {"SIDECAR_SNP_DIRECTORY": str(folder / "snp")})
    words = ("sidecar", "local", "--directory", folder / "state", "--no-throttle")
    with commands.serving(*words, ready="sidecar local: ready"):
        lines = (folder / "state" / "env").read_text().splitlines()
        found = dict(shlex.split(line)[1].split("=", 1) for line in lines)
        del found["SIDECAR_SNP"]
        yield found


def leftovers(folder: Path) -> list[str]:
    """Mount points below `folder`, the deepest first."""
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    points = [line.split(" ")[4] for line in lines]
    return sorted((p for p in points if p.startswith(str(folder))), reverse=True)


@pytest.fixture
def sample(tmp_path: Path) -> Path:
    """A small tree with what file systems trip over: modes, links, a sparse file, odd names, many entries."""
    top = tmp_path / "sample"
    (top / "sub" / "deep").mkdir(parents=True)
    (top / "text").write_text("attested\n")
    (top / "sub" / "binary").write_bytes(os.urandom(300_001))
    (top / "sub" / "deep" / "empty").touch()
    (top / "name with spaces äöü").write_text("x" * 5000)
    os.link(top / "text", top / "hard")
    os.symlink("sub/binary", top / "soft")
    with (top / "sparse").open("wb") as file:
        file.seek(3 << 20)
        file.write(b"end")
    for number in range(200):
        (top / "sub" / f"entry-{number}").write_text(str(number))
    (top / "text").chmod(0o640)
    (top / "sub").chmod(0o2750)
    os.utime(top / "sub" / "binary", ns=(1_600_000_000_123_456_789, 1_600_000_001_987_654_321))
    return top
