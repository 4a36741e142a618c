"""`encfs extract --in-memory`: by a user who may nothing, not even open /dev/fuse."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from fakes.commands import Commands

from encfs.errors import ExitCode

pytestmark = [pytest.mark.fuse, pytest.mark.root]  # create needs FUSE; root takes everything else away

# No capability is left to gain (bounding set), setuid programs give nothing, and no device can be opened.
BARE = (
    "mount -t tmpfs -o nodev none /dev/shm && mount --bind /dev/null /dev/fuse && "
    "exec setpriv --bounding-set -all,+dac_read_search --inh-caps -all,+dac_read_search "
    "--ambient-caps -all,+dac_read_search --no-new-privs --reuid 65534 --regid 65534 --clear-groups "
    "encfs extract data.img out --key-file key.bin "
)


def extract(commands: Commands, *more: str) -> tuple[int, str]:
    (commands.folder / "out").mkdir(exist_ok=True)
    for parent in [commands.folder, *commands.folder.parents][:4]:
        parent.chmod(parent.stat().st_mode | 0o011)
    for name in (".", "out", "data.img", "key.bin"):
        os.chown(commands.folder / name, 65534, 65534)
    done = commands.run("unshare", "--mount", "sh", "-c", BARE + " ".join(more))
    return done.code, done.err


@pytest.mark.parametrize("more", [(), ("--integrity", "hmac-sha256")], ids=["plain", "with tags"])
def test_files_are_the_same(commands: Commands, sample: Path, more: tuple[str, ...]) -> None:
    words = ("encfs", "create", "data.img", "--from", sample, "--key-file", "key.bin", *more)
    commands.run(*words, check=True)
    code, text = extract(commands)
    assert code != 0, "there is a way to FUSE after all, and nothing is proved"
    code, text = extract(commands, "--in-memory")
    assert code == 0, text
    out = commands.folder / "out"
    names = {str(path.relative_to(sample)) for path in sample.rglob("*")}
    assert names == {str(p.relative_to(out)) for p in out.rglob("*")} - {"lost+found"}
    for name in names:
        if (sample / name).is_file():
            assert (sample / name).read_bytes() == (out / name).read_bytes(), name


def test_a_damaged_image_with_tags_is_an_error(commands: Commands) -> None:
    words = ("encfs", "create", "data.img", "--size", "32M", "--key-file", "key.bin")
    commands.run(*words, "--integrity", "hmac-sha256", check=True)
    with (commands.folder / "data.img").open("r+b") as file:
        file.seek(28 << 20)
        file.write(os.urandom(64 << 10))
    code, text = extract(commands, "--in-memory")
    assert code not in (0, ExitCode.INTERNAL), text
    assert "hint" in text
