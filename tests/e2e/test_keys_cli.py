"""`encfs key`, `extract`, `check` and `info` as users run them, with cryptsetup as second opinion."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest
from fakes.commands import Commands

from encfs.errors import ExitCode

pytestmark = [pytest.mark.fuse]


@pytest.fixture
def image(commands: Commands) -> Path:
    path = commands.folder / "data.img"
    words = ("encfs", "create", path, "--size", "32M", "--key-file", "key.bin", "--kid", "records")
    commands.run(*words, check=True)
    key = commands.folder / "new.bin"
    key.write_bytes(os.urandom(32))
    key.chmod(0o600)
    return path


def opens(commands: Commands, image: Path, key: str) -> bool:
    """Whether cryptsetup opens the image with a key file."""
    words = ("cryptsetup", "open", "--test-passphrase", "--key-file", key, image)
    return commands.run(*words).code == 0


def test_add_then_remove(commands: Commands, image: Path) -> None:
    words = ("encfs", "key", "add", image, "--key-file", "key.bin", "--new-key-file", "new.bin")
    assert "keyslot 1 added" in commands.run(*words, check=True).out
    assert opens(commands, image, "key.bin")
    assert opens(commands, image, "new.bin")
    commands.run("encfs", "key", "remove", image, "--key-file", "new.bin", "--remove", "0", check=True)
    assert not opens(commands, image, "key.bin")
    assert opens(commands, image, "new.bin")
    commands.run(
        "encfs", "check", image, "--key-file", "new.bin", "--require-authenticated-header", check=True
    )


def test_rotate(commands: Commands, image: Path) -> None:
    words = ("encfs", "key", "rotate", image, "--key-file", "key.bin", "--new-key-file", "new.bin")
    commands.run(*words, "--new-kid", "records-2", check=True)
    assert (opens(commands, image, "key.bin"), opens(commands, image, "new.bin")) == (False, True)
    refused = commands.run("encfs", "check", image, "--key-file", "key.bin")
    assert refused.code == ExitCode.WRONG_KEY
    assert "records-2" in refused.err, "the refusal names the key the image was made with"


def test_last_key_stays(commands: Commands, image: Path) -> None:
    words = ("encfs", "key", "remove", image, "--key-file", "key.bin", "--remove", "0")
    refused = commands.run(*words)
    assert refused.code != 0
    assert "--force" in refused.err
    assert opens(commands, image, "key.bin")


def test_header_changed_by_another_tool(commands: Commands, image: Path) -> None:
    """cryptsetup adds a key: our MAC no longer fits, which is said, and `authenticate` signs anew."""
    words = ("cryptsetup", "luksAddKey", "--batch-mode", "--key-file", "key.bin", image, "new.bin")
    commands.run(*words, check=True)
    refused = commands.run("encfs", "check", image, "--key-file", "key.bin")
    assert (refused.code, "encfs: hint" in refused.err) == (ExitCode.HEADER_NOT_AUTHENTIC, True)
    commands.run("encfs", "key", "authenticate", image, "--key-file", "new.bin", check=True)
    for key in ("key.bin", "new.bin"):
        commands.run("encfs", "check", image, "--key-file", key, check=True)


def test_editing_a_mounted_image_is_refused(commands: Commands, image: Path) -> None:
    mnt = commands.folder / "mnt"
    with commands.serving("encfs", "expose", image, mnt, "--key-file", "key.bin", ready="ready"):
        words = ("encfs", "key", "add", image, "--key-file", "key.bin", "--new-key-file", "new.bin")
        assert commands.run(*words).code == ExitCode.IMAGE_BUSY


def test_detached_header(commands: Commands) -> None:
    folder = commands.folder
    for name, size in (("head.img", 16 << 20), ("body.img", 32 << 20)):
        with (folder / name).open("wb") as file:
            file.truncate(size)
    words = ("cryptsetup", "luksFormat", "--batch-mode", "--type", "luks2", "--key-size", "512")
    more = ("--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000", "--sector-size", "4096")
    commands.run(*words, *more, "--header", "head.img", "--key-file", "key.bin", "body.img", check=True)
    options = ("--header", "head.img", "--key-file", "key.bin")
    with commands.serving("encfs", "expose", "body.img", "mnt", *options, ready="ready"):
        commands.run("mkfs.ext4", "-q", "-F", "-b", "4096", "mnt/data", check=True)
    checked = commands.run("encfs", "check", "body.img", *options, check=True)
    assert "file system" in checked.out
    commands.run("encfs", "info", "body.img", "--header", "head.img", check=True)
    assert commands.run("encfs", "check", "body.img", "--key-file", "key.bin").code == ExitCode.NOT_LUKS2


def test_extract(commands: Commands, sample: Path) -> None:
    words = ("encfs", "create", "x.img", "--from", sample, "--key-file", "key.bin")
    commands.run(*words, check=True)
    out = commands.folder / "out"
    commands.run("encfs", "extract", "x.img", out, "--key-file", "key.bin", check=True)
    difference = subprocess.run(
        ["diff", "-r", "--no-dereference", sample, out], capture_output=True, text=True
    )
    assert difference.stdout == "Only in " + str(out) + ": lost+found\n"
    again = commands.run("encfs", "extract", "x.img", out, "--key-file", "key.bin")
    assert (again.code, "not empty" in again.err) == (ExitCode.USAGE, True)


def test_info_and_check_speak_json(commands: Commands, image: Path) -> None:
    info = json.loads(commands.run("encfs", "info", image, "--json", check=True).out)
    assert "aes-xts-plain64" in json.dumps(info)
    findings = json.loads(
        commands.run("encfs", "check", image, "--key-file", "key.bin", "--json", check=True).out
    )
    assert all(finding["ok"] for finding in findings)
    assert {finding["name"] for finding in findings} >= {
        "header",
        "keyslot",
        "key",
        "header MAC",
        "file system",
    }


def test_check_finds_a_broken_file_system(commands: Commands, image: Path) -> None:
    with image.open("r+b") as file:
        file.seek(16 << 20)
        file.write(os.urandom(64 << 10))
    broken = commands.run("encfs", "check", image, "--key-file", "key.bin")
    assert (broken.code, "BAD  file system" in broken.out) == (ExitCode.FILE_SYSTEM, True)


def test_costly_keyslots_are_refused_with_the_limit_named(commands: Commands) -> None:
    with (commands.folder / "x.img").open("wb") as file:
        file.truncate(32 << 20)
    words = ("cryptsetup", "luksFormat", "--batch-mode", "--type", "luks2", "--key-file", "key.bin", "x.img")
    commands.run(*words, "--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "200000", check=True)
    refused = commands.run(
        "encfs", "check", "x.img", "--key-file", "key.bin", "--kdf-limit", "pbkdf2_iterations=1000"
    )
    assert refused.code != 0
    assert "pbkdf2_iterations" in refused.err
