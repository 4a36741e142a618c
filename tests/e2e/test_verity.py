"""Sealed images: mounted with their root hash, and nothing that was changed is ever read."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest
from fakes.commands import Commands
from fakes.volumes import wait_until

from encfs.errors import ExitCode

pytestmark = [pytest.mark.fuse]
KEY = ("--key-file", "key.bin")


@pytest.fixture
def sealed(commands: Commands, sample: Path) -> tuple[Path, str]:
    """An image made with --verity, and its root hash."""
    words = ("encfs", "create", "x.img", "--from", sample, *KEY, "--verity", "--json")
    made = json.loads(commands.run(*words, check=True).out)
    return commands.folder / "x.img", made["root_hash"]


def flip(image: Path, at: int) -> None:
    with image.open("r+b") as file:
        file.seek(at)
        old = file.read(1)
        file.seek(at)
        file.write(bytes([old[0] ^ 0x10]))


def test_veritysetup_and_cryptsetup_take_it(commands: Commands, sealed: tuple[Path, str]) -> None:
    image, root = sealed
    size = json.loads(commands.run("encfs", "seal", image, "--force", "--json", check=True).out)
    assert size["root_hash"] != root, "another salt gives another root hash"
    words = ("veritysetup", "verify", image, image, size["root_hash"], f"--hash-offset={size['data_size']}")
    commands.run(*words, check=True)
    commands.run("cryptsetup", "open", "--test-passphrase", "--key-file", "key.bin", image, check=True)


@pytest.mark.root
def test_mounts_and_reads_the_same(commands: Commands, sealed: tuple[Path, str], sample: Path) -> None:
    image, root = sealed
    mnt = commands.folder / "mnt"
    commands.run("encfs", "mount", image, mnt, *KEY, "--root-hash", root, check=True)
    compared = commands.run("diff", "-r", "--no-dereference", "-x", "lost+found", sample, mnt)
    refused = commands.run("touch", mnt / "new")
    commands.run("encfs", "unmount", mnt, check=True)
    assert compared.code == 0, compared.out
    assert "Read-only file system" in refused.err


@pytest.mark.root
def test_a_changed_block_is_an_error_that_names_it(
    commands: Commands, sealed: tuple[Path, str], sample: Path
) -> None:
    """The file that lies in the block cannot be read; the log names the block; all others can."""
    image, root = sealed
    mnt = commands.folder / "mnt"
    at = block_of(commands, image, "/sub/binary")
    flip(image, at)
    commands.run("encfs", "mount", image, mnt, *KEY, "--root-hash", root, check=True)
    log = next((commands.folder / "run").glob("*.log"))
    try:
        with pytest.raises(OSError, match="Input/output error"):
            (mnt / "sub" / "binary").read_bytes()
        assert (mnt / "name with spaces äöü").read_text() == "x" * 5000
        words = f"block {at // 4096} (bytes {at} to {at + 4096}) does not match the root hash"
        # The driver says it to its supervisor, which writes it down a moment later.
        wait_until(lambda: words in log.read_text(), 10, "the log names the block")
    finally:
        commands.run("encfs", "unmount", mnt, check=True)


def test_a_changed_header_is_refused_before_the_key_is_used(
    commands: Commands, sealed: tuple[Path, str]
) -> None:
    image, root = sealed
    for at in (4096 + 10, 32768 + 5):  # metadata of the first copy, and key material
        flip(image, at)
        result = commands.run("encfs", "check", image, *KEY, "--root-hash", root)
        assert (result.code, "does not match the root hash" in result.err) == (ExitCode.TAMPERED, True), (
            result
        )
        flip(image, at)
    commands.run("encfs", "check", image, *KEY, "--root-hash", root, check=True)


def test_info_says_that_it_is_sealed(commands: Commands, sealed: tuple[Path, str]) -> None:
    image, _ = sealed
    assert "sealed by a hash tree" in commands.run("encfs", "info", image, check=True).out
    found = json.loads(commands.run("encfs", "info", image, "--json", check=True).out)
    assert 0 < found["sealed_size"] < image.stat().st_size


def test_refusals(commands: Commands, sealed: tuple[Path, str]) -> None:
    image, root = sealed
    other = commands.run("encfs", "check", image, *KEY, "--root-hash", "00" * 32)
    assert other.code == ExitCode.TAMPERED
    malformed = commands.run("encfs", "check", image, *KEY, "--root-hash", root[:-1])
    assert (malformed.code, "wanted 64 hex digits" in malformed.err) == (ExitCode.IMAGE, True)
    again = commands.run("encfs", "seal", image)
    assert (again.code, "sealed already" in again.err) == (ExitCode.IMAGE, True)
    writable = commands.run("encfs", "mount", image, "mnt", *KEY)
    assert (writable.code, "which any write would break" in writable.err) == (ExitCode.IMAGE, True), writable
    key = commands.run("encfs", "key", "add", image, *KEY, "--new-key-file", "key.bin")
    assert "which any write would break" in key.err, key
    size = image.stat().st_size
    os.truncate(image, size - 4096)
    cut = commands.run("encfs", "check", image, *KEY, "--root-hash", root)
    assert (cut.code, "cut or extended" in cut.err) == (ExitCode.IMAGE, True), cut
    os.truncate(image, size + 4096)
    longer = commands.run("encfs", "check", image, *KEY, "--root-hash", root)
    assert longer.code == ExitCode.IMAGE, longer


def test_an_image_without_tree_is_refused(commands: Commands) -> None:
    commands.run("encfs", "create", "plain.img", "--size", "32M", *KEY, check=True)
    result = commands.run("encfs", "check", "plain.img", *KEY, "--root-hash", "00" * 32)
    assert result.code == ExitCode.IMAGE, result


def test_reproducible_images_have_one_root_hash(commands: Commands, sample: Path) -> None:
    roots = []
    for name in ("a.img", "b.img"):
        words = ("encfs", "create", name, "--from", sample, *KEY, "--verity", "--reproducible", "--json")
        roots.append(json.loads(commands.run(*words, check=True).out)["root_hash"])
    assert roots[0] == roots[1]


def block_of(commands: Commands, image: Path, name: str) -> int:
    """Byte of the image where the first block of a file lies."""
    device = commands.folder / "mnt"
    with commands.serving("encfs", "expose", str(image), str(device), *KEY, "--read-only", ready="ready"):
        found = subprocess.run(
            ["/usr/sbin/debugfs", "-R", f"blocks {name}", device / "data"],
            capture_output=True,
            text=True,
            timeout=20,
            check=True,
        )
    return (16 << 20) + int(found.stdout.split()[0]) * 4096
