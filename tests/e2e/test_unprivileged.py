"""An ordinary user with /dev/fuse and nothing else: no root, no loop device, no mount(2)."""

from __future__ import annotations

import os
import shlex
from pathlib import Path

import pytest
from fakes.commands import Commands, Result, is_mounted

from encfs.errors import ExitCode

pytestmark = [pytest.mark.fuse, pytest.mark.root]  # root makes the user's world, and leaves it

USER = 65534
# A mount namespace of its own, where /dev/fuse may be opened by anyone.
WORLD = "mknod {fuse} c 10 229 && chmod 666 {fuse} && mount --bind {fuse} /dev/fuse && "
# CAP_DAC_READ_SEARCH only lets the user read a Python that lies in somebody's home; it gives no way to mount.
AS_USER = (
    f"exec setpriv --reuid {USER} --regid {USER} --clear-groups "
    "--inh-caps +dac_read_search --ambient-caps +dac_read_search sh -c {script}"
)


@pytest.fixture
def user(commands: Commands, sample: Path) -> Commands:
    """A folder that belongs to the user, in folders that anyone may enter."""
    for parent in [commands.folder, *commands.folder.parents][:4]:
        parent.chmod(parent.stat().st_mode | 0o011)
    for path in [commands.folder, *commands.folder.rglob("*")]:
        os.chown(path, USER, USER, follow_symlinks=False)
    return commands


def run(commands: Commands, script: str, *, check: bool = True) -> Result:
    """Run a shell script as the user in a mount namespace of its own."""
    fuse = commands.folder / "fuse"
    fuse.unlink(missing_ok=True)
    words = WORLD.format(fuse=fuse) + AS_USER.format(script=shlex.quote(script))
    return commands.run("unshare", "--mount", "sh", "-c", words, check=check)


def test_create_check_and_extract(user: Commands) -> None:
    script = """set -e
    id -u
    encfs create data.img --from sample --key-file key.bin
    encfs check data.img --key-file key.bin
    encfs extract data.img out --key-file key.bin
    diff -r --no-dereference sample out | grep -v lost+found || true
    """
    done = run(user, script)
    assert done.out.splitlines()[0] == str(USER)
    assert "ok   file system" in done.out
    assert "Only in" not in done.out
    assert "differ" not in done.out


def test_mount_read_only_through_fuse2fs(user: Commands) -> None:
    script = """set -e
    encfs create data.img --from sample --key-file key.bin
    encfs mount data.img mnt --key-file key.bin --via fuse2fs --read-only
    cat mnt/text
    cmp sample/sub/binary mnt/sub/binary
    if touch mnt/new; then exit 77; fi
    encfs unmount mnt
    ls -A mnt
    """
    done = run(user, script)
    assert done.out.splitlines()[1:] == ["attested"]


def test_mount_read_write_through_fuse2fs(user: Commands) -> None:
    script = """set -e
    encfs create data.img --size 32M --key-file key.bin
    encfs mount data.img mnt --key-file key.bin --via fuse2fs
    echo kept >mnt/file
    encfs unmount mnt
    encfs mount data.img mnt --key-file key.bin --via fuse2fs --read-only
    cat mnt/file
    encfs unmount mnt
    encfs check data.img --key-file key.bin
    """
    done = run(user, script)
    assert "kept" in done.out.splitlines()
    assert "without a journal" in done.err
    assert "ok   file system" in done.out


def test_the_kernel_way_says_what_is_missing(user: Commands) -> None:
    script = (
        "encfs create data.img --size 32M --key-file key.bin && encfs mount data.img mnt --key-file key.bin"
    )
    done = run(user, script, check=False)
    assert done.code == ExitCode.NO_LOOP
    assert "--via fuse2fs" in done.err
    assert not is_mounted(user.folder / "mnt")


def test_fuse2fs_refuses_what_is_no_file_system(commands: Commands) -> None:
    commands.run("encfs", "create", "x.img", "--size", "32M", "--key-file", "key.bin", check=True)
    mnt = commands.folder / "mnt"
    served = ("encfs", "expose", "x.img", mnt, "--key-file", "key.bin")
    with commands.serving(*served, ready="ready"), (mnt / "data").open("r+b") as data:
        data.write(b"\0" * 65536)
    words = ("encfs", "mount", "x.img", mnt, "--key-file", "key.bin", "--via", "fuse2fs", "--read-only")
    done = commands.run(*words)
    assert (done.code, "fuse2fs: mounting failed" in done.err) == (ExitCode.FILE_SYSTEM, True)
    assert not is_mounted(mnt)
