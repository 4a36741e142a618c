"""Every changed block of a volume is found and named by file; a volume protected too little is not opened."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
from fakes.commands import Commands

from encfs.errors import ExitCode
from encfs.integrity.layout import parse_superblock

pytestmark = [pytest.mark.fuse]
KEY = ("--key-file", "key.bin")
DATA = 16 << 20


@pytest.fixture(params=["--integrity", "--verity"])
def image(request: pytest.FixtureRequest, commands: Commands, sample: Path) -> tuple[Path, tuple[str, ...]]:
    """A volume that can tell, and what opens it."""
    mode = ("--integrity", "hmac-sha256") if request.param == "--integrity" else ("--verity",)
    made = commands.run("encfs", "create", "x.img", "--from", sample, *KEY, *mode, "--json", check=True)
    root = json.loads(made.out)["root_hash"]
    return commands.folder / "x.img", (*KEY, *(("--root-hash", root) if root else ()))


def damage(image: Path, commands: Commands, unlock: tuple[str, ...], name: str) -> None:
    """Flip a bit in the first block of a file."""
    mnt = str(commands.folder / "mnt")
    with commands.serving("encfs", "expose", str(image), mnt, *unlock, "--read-only", ready="ready"):
        words = ["/usr/sbin/debugfs", "-R", f"blocks {name}", f"{mnt}/data"]
        said = subprocess.run(words, capture_output=True, text=True, timeout=20, check=True).stdout
    block = int(said.split()[0])
    with image.open("r+b") as file:
        file.seek(DATA)
        at = DATA + block * 4096
        if "--root-hash" not in unlock:
            segment = image.stat().st_size - DATA
            layout = parse_superblock(file.read(512), segment_size=segment, block_size=4096)
            at = DATA + layout.data_offset(block)
        file.seek(at + 100)
        old = file.read(1)
        file.seek(at + 100)
        file.write(bytes([old[0] ^ 1]))


def test_an_unchanged_volume_is_whole(commands: Commands, image: tuple[Path, tuple[str, ...]]) -> None:
    path, unlock = image
    result = commands.run("encfs", "check", path, *unlock, "--deep", "--state", "state.json", check=True)
    assert "every block verified" in result.out
    assert not (commands.folder / "state.json").exists()


def test_damaged_files_are_named(commands: Commands, image: tuple[Path, tuple[str, ...]]) -> None:
    path, unlock = image
    for name in ("/sub/binary", "/sub/entry-7"):
        damage(path, commands, unlock, name)
    result = commands.run("encfs", "check", path, *unlock, "--deep", "--json")
    found = next(finding for finding in json.loads(result.out) if finding["name"] == "data")
    assert result.code == ExitCode.TAMPERED
    assert "2 of " in found["detail"], found
    assert "/sub/binary, /sub/entry-7" in found["detail"], found


def test_goes_on_from_its_state(commands: Commands, image: tuple[Path, tuple[str, ...]]) -> None:
    """What an interrupted check had found is not forgotten, and not read again."""
    path, unlock = image
    uuid = json.loads(commands.run("encfs", "info", path, "--json", check=True).out)["uuid"]
    root = unlock[-1] if "--root-hash" in unlock else ""
    state = commands.folder / "state.json"
    state.write_text(json.dumps({"volume": f"{uuid} {root}", "done": 4 << 20, "bad": [4096]}))
    words = ("encfs", "check", path, *unlock, "--deep", "--state", state, "--json")
    assert "1 of " in json.loads(commands.run(*words).out)[-1]["detail"]
    state.write_text(json.dumps({"volume": "another", "done": 4 << 20, "bad": [4096]}))
    assert "every block verified" in json.loads(commands.run(*words).out)[-1]["detail"]
    state.write_text("{")
    refused = commands.run(*words)
    assert (refused.code, "not one of ours" in refused.err) == (ExitCode.USAGE, True)


def test_a_plain_volume_cannot_be_verified(commands: Commands) -> None:
    commands.run("encfs", "create", "plain.img", "--size", "32M", *KEY, check=True)
    result = commands.run("encfs", "check", "plain.img", *KEY, "--deep")
    assert (result.code, "nothing to be verified against" in result.err) == (ExitCode.USAGE, True), result


def test_too_little_protection_is_refused_before_a_key_is_asked_for(
    commands: Commands, image: tuple[Path, tuple[str, ...]]
) -> None:
    """The key file does not even exist."""
    path, unlock = image
    commands.run("encfs", "create", "plain.img", "--size", "32M", *KEY, check=True)
    no_key = ("--key-file", "missing.bin")
    for level in ("integrity", "verity"):
        result = commands.run("encfs", "mount", "plain.img", "mnt", *no_key, "--require", level)
        assert (result.code, "encryption only" in result.err) == (ExitCode.PROTECTION_TOO_WEAK, True)
    weak = commands.run("encfs", "check", path, *no_key, "--require", "verity")
    assert weak.code == ExitCode.PROTECTION_TOO_WEAK, "without its root hash, no image is verified"
    level = "verity" if "--root-hash" in unlock else "integrity"
    commands.run("encfs", "check", path, *unlock, "--require", level, check=True)
    unknown = commands.run("encfs", "check", path, *unlock, "--require", "paranoia")
    assert (unknown.code, "wanted one of" in unknown.err) == (ExitCode.USAGE, True)
