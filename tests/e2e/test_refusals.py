"""Each refusal: one clear error, a hint, an exit code of its own, and nothing mounted or running after it."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from fakes.commands import Commands

from encfs.errors import ExitCode

pytestmark = [pytest.mark.fuse, pytest.mark.root]

HEADER_COPY = 16 << 10  # bytes between the two header copies cryptsetup writes by default


def damage(image: Path, offset: int, data: bytes = b"\xff" * 64) -> None:
    with image.open("r+b") as file:
        file.seek(offset)
        file.write(data)


@dataclass
class Case:
    name: str
    prepare: Callable[[Commands, Path], None]
    code: ExitCode
    message: str


def wrong_key(commands: Commands, image: Path) -> None:
    (commands.folder / "key.bin").write_bytes(os.urandom(32))


def short_key(commands: Commands, image: Path) -> None:
    (commands.folder / "key.bin").write_bytes(b"short")


def no_key(commands: Commands, image: Path) -> None:
    (commands.folder / "key.bin").unlink()


def not_luks(commands: Commands, image: Path) -> None:
    image.write_bytes(os.urandom(32 << 20))


def empty(commands: Commands, image: Path) -> None:
    image.write_bytes(b"")


def truncated_header(commands: Commands, image: Path) -> None:
    os.truncate(image, 20_000)


def truncated_segment(commands: Commands, image: Path) -> None:
    os.truncate(image, 8 << 20)


def both_damaged(commands: Commands, image: Path) -> None:
    damage(image, 4096)
    damage(image, HEADER_COPY + 4096)


def no_image(commands: Commands, image: Path) -> None:
    image.unlink()


def no_mount_point(commands: Commands, image: Path) -> None:
    (commands.folder / "mnt").rmdir()


def file_as_mount_point(commands: Commands, image: Path) -> None:
    (commands.folder / "mnt").rmdir()
    (commands.folder / "mnt").write_text("file")


def no_file_system(commands: Commands, image: Path) -> None:
    words = ("encfs", "expose", image, commands.folder / "mnt", "--key-file", "key.bin")
    with commands.serving(*words, ready="ready"), (commands.folder / "mnt" / "data").open("r+b") as data:
        data.write(b"\0" * 65536)


CASES = [
    Case("wrong key", wrong_key, ExitCode.WRONG_KEY, "you offered"),
    Case("short key file", short_key, ExitCode.KEY_FILE, "key file"),
    Case("no key file", no_key, ExitCode.KEY_FILE, "No such file"),
    Case("not LUKS2", not_luks, ExitCode.NOT_LUKS2, "no LUKS"),
    Case("empty image", empty, ExitCode.TRUNCATED_IMAGE, "image"),
    Case("header cut", truncated_header, ExitCode.TRUNCATED_IMAGE, "image"),
    Case("segment cut", truncated_segment, ExitCode.TRUNCATED_IMAGE, "image"),
    Case("both headers damaged", both_damaged, ExitCode.MALFORMED_HEADER, "header"),
    Case("no image", no_image, ExitCode.IMAGE_MISSING, "No such file"),
    Case("no mount point", no_mount_point, ExitCode.MOUNT_POINT_MISSING, "no such directory"),
    Case("mount point is a file", file_as_mount_point, ExitCode.MOUNT_POINT_MISSING, "not a directory"),
    Case("no file system inside", no_file_system, ExitCode.FILE_SYSTEM, "mounting ext4 failed"),
]


@pytest.fixture
def image(commands: Commands) -> Path:
    path = commands.folder / "data.img"
    commands.run("encfs", "create", path, "--size", "32M", "--key-file", "key.bin", check=True)
    return path


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_refusal(commands: Commands, image: Path, case: Case) -> None:
    case.prepare(commands, image)
    result = commands.run("encfs", "mount", image, commands.folder / "mnt", "--key-file", "key.bin")
    assert result.code == case.code, result
    assert result.out == ""
    errors = [line for line in result.err.splitlines() if line.startswith("encfs: error: ")]
    assert len(errors) == 1, result.err
    assert case.message in errors[0]
    assert "encfs: hint: " in result.err
    assert list((commands.folder / "run").iterdir()) == [], "run directory is not empty"
    assert not drivers_of(commands.folder), "a driver still runs"


def drivers_of(folder: Path) -> list[str]:
    """Driver processes that have a file below `folder` open."""
    found = []
    for process in Path("/proc").iterdir():
        try:
            if process.name.isdigit() and b"encfs.driver" in (process / "cmdline").read_bytes():
                targets = [os.readlink(link) for link in (process / "fd").iterdir()]
                found += [process.name for target in targets if target.startswith(str(folder))]
        except OSError:
            continue
    return found


def test_first_header_damaged_second_is_used_with_a_warning(commands: Commands, image: Path) -> None:
    damage(image, 4096 + 100)
    mnt = commands.folder / "mnt"
    result = commands.run("encfs", "mount", image, mnt, "--key-file", "key.bin")
    assert result.code == 0, result
    assert "warning" in result.err
    assert "the primary header copy is damaged" in result.err
    commands.run("encfs", "unmount", mnt, check=True)


def test_mount_point_in_use(commands: Commands, image: Path) -> None:
    mnt = commands.folder / "mnt"
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", mnt], check=True, timeout=10)
    try:
        result = commands.run("encfs", "mount", image, mnt, "--key-file", "key.bin")
        assert (result.code, "mounted there already" in result.err) == (ExitCode.MOUNT_POINT_BUSY, True)
    finally:
        subprocess.run(["umount", mnt], check=True, timeout=10)


def test_no_dev_fuse(commands: Commands, image: Path) -> None:
    """In a mount namespace whose /dev has no fuse."""
    mnt = commands.folder / "mnt"
    words = f"mount -t tmpfs tmpfs /dev && exec encfs mount {image} {mnt} --key-file key.bin"
    result = commands.run("unshare", "--mount", "sh", "-c", words)
    assert (result.code, "/dev/fuse" in result.err, "hint" in result.err) == (ExitCode.NO_FUSE, True, True)


def test_create_leaves_nothing_when_it_fails(commands: Commands, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    (source / "large").write_bytes(os.urandom(30 << 20))
    before = sorted(p.name for p in tmp_path.iterdir() if p.name != "run")
    words = ("encfs", "create", "x.img", "--key-file", "key.bin", "--from", source, "--size", "24M")
    result = commands.run(*words)
    assert (result.code, "Could not allocate block" in result.err) == (ExitCode.FILE_SYSTEM, True), result
    assert sorted(p.name for p in tmp_path.iterdir() if p.name != "run") == before


@pytest.mark.parametrize("size", ["", "12", "x", "1T1", "-5M", "999999999T", "1e9"])
def test_create_refuses_odd_sizes(commands: Commands, size: str) -> None:
    result = commands.run("encfs", "create", "x.img", "--key-file", "key.bin", f"--size={size}")
    assert (result.code, "size" in result.err) == (ExitCode.USAGE, True)
    assert not (commands.folder / "x.img").exists()


def test_create_never_replaces_an_image_by_accident(commands: Commands, image: Path) -> None:
    before = image.read_bytes()
    result = commands.run("encfs", "create", image, "--size", "32M", "--key-file", "key.bin")
    assert (result.code, "exists already" in result.err) == (ExitCode.IMAGE, True)
    assert image.read_bytes() == before
