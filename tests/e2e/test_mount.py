"""The volume path for real: create, mount, read, write, unmount, on a kernel's ext4 over our FUSE file."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import time
from pathlib import Path

import pytest
from fakes.commands import Commands, is_mounted

pytestmark = [pytest.mark.fuse, pytest.mark.root]

# The command that made images for the predecessor.
PREDECESSOR = [
    *("cryptsetup", "luksFormat", "--batch-mode", "--type", "luks2", "--cipher", "aes-xts-plain64"),
    *("--key-size", "512", "--sector-size", "4096", "--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000"),
]


def listing(top: Path) -> dict[str, tuple[object, ...]]:
    """Every entry below `top` with type, mode, owner, links, size or target, time and content."""
    found: dict[str, tuple[object, ...]] = {}
    for path in sorted(top.rglob("*")):
        if path.name == "lost+found":
            continue
        status = path.lstat()
        content: object = None
        if stat.S_ISREG(status.st_mode):
            content = path.read_bytes()
        elif stat.S_ISLNK(status.st_mode):
            content = os.readlink(path)
        links = status.st_nlink if not path.is_dir() else None
        key = str(path.relative_to(top))
        found[key] = (status.st_mode, status.st_uid, status.st_gid, links, int(status.st_mtime), content)
    return found


def create(commands: Commands, *more: str | Path, size: str = "64M") -> Path:
    image = commands.folder / "data.img"
    commands.run("encfs", "create", image, "--size", size, "--key-file", "key.bin", *more, check=True)
    return image


def test_a_folder_becomes_a_volume_and_comes_back(commands: Commands, sample: Path) -> None:
    image = create(commands, "--from", sample)
    raw = image.read_bytes()
    assert b"attested\n" not in raw
    assert stat.S_IMODE(image.stat().st_mode) == 0o600
    mnt = commands.folder / "mnt"
    commands.run("encfs", "mount", image, mnt, "--key-file", "key.bin", check=True)
    assert listing(mnt) == listing(sample)
    assert (mnt / "sparse").stat().st_blocks * 512 < 100_000
    commands.run("encfs", "unmount", mnt, check=True)
    assert not is_mounted(mnt)


def test_writes_are_there_after_unmount_and_remount(commands: Commands) -> None:
    image, mnt = create(commands), commands.folder / "mnt"
    data = os.urandom(20 << 20)
    for expected in (None, data):
        commands.run("encfs", "mount", image, mnt, "--key-file", "key.bin", check=True)
        if expected is None:
            (mnt / "file").write_bytes(data)
        else:
            assert (mnt / "file").read_bytes() == expected
        commands.run("encfs", "unmount", mnt, check=True)
    with commands.serving(
        *("encfs", "expose", image, "mnt", "--key-file", "key.bin", "--read-only"), ready="ready"
    ):
        commands.run("e2fsck", "-fn", mnt / "data", check=True)


def test_an_image_of_the_predecessor_mounts(commands: Commands, sample: Path) -> None:
    """Made by cryptsetup with the predecessor's parameters, filled through our FUSE file, mounted by us."""
    image, mnt = commands.folder / "old.img", commands.folder / "mnt"
    with image.open("wb") as file:
        file.truncate(64 << 20)
    commands.run(*PREDECESSOR, image, "--key-file", "key.bin", check=True)
    with commands.serving("encfs", "expose", image, mnt, "--key-file", "key.bin", ready="ready"):
        commands.run("mkfs.ext4", "-q", "-F", "-b", "4096", "-d", sample, mnt / "data", check=True)
    commands.run("encfs", "mount", image, mnt, "--key-file", "key.bin", "--read-only", check=True)
    assert listing(mnt) == listing(sample)
    commands.run("encfs", "unmount", mnt, check=True)


def test_read_only_refuses_writes_and_changes_nothing(commands: Commands, sample: Path) -> None:
    image, mnt = create(commands, "--from", sample), commands.folder / "mnt"
    # A journal that wants replay: kill the driver in the middle of writes.
    commands.run("encfs", "mount", image, mnt, "--key-file", "key.bin", check=True)
    (mnt / "late").write_bytes(b"x" * 100_000)
    os.sync()
    kill_driver(commands)
    before = image.read_bytes()
    commands.run("encfs", "mount", image, mnt, "--key-file", "key.bin", "--read-only", check=True)
    with pytest.raises(OSError, match="Read-only file system"):
        (mnt / "new").write_text("no")
    assert (mnt / "text").read_text() == "attested\n"
    commands.run("encfs", "unmount", mnt, check=True)
    assert image.read_bytes() == before, "a read-only mount changed the image"


def kill_driver(commands: Commands) -> None:
    """SIGKILL the driver of the only mount, and wait until its supervisor has cleaned up."""
    import json

    (state_file,) = (commands.folder / "run").glob("*/state.json")
    state = json.loads(state_file.read_text())
    os.kill(state["driver_pid"], signal.SIGKILL)
    deadline = time.monotonic() + 20
    while Path(f"/proc/{state['supervisor_pid']}").exists():
        assert time.monotonic() < deadline, "supervisor still there 20 s after its driver died"
        time.sleep(0.05)
    assert not is_mounted(commands.folder / "mnt")


def test_busy_mount_says_who_and_stays(commands: Commands) -> None:
    image, mnt = create(commands), commands.folder / "mnt"
    commands.run("encfs", "mount", image, mnt, "--key-file", "key.bin", check=True)
    (mnt / "file").write_text("1")
    with subprocess.Popen(["sleep", "60"], cwd=mnt) as user:
        result = commands.run("encfs", "unmount", mnt)
        assert result.code == 20
        assert f"sleep (pid {user.pid})" in result.err
        assert (mnt / "file").read_text() == "1"
        user.kill()
        user.wait()
    commands.run("encfs", "unmount", mnt, check=True)


def test_second_mount_of_one_image_is_refused(commands: Commands) -> None:
    image, mnt = create(commands), commands.folder / "mnt"
    other = commands.folder / "other"
    other.mkdir()
    commands.run("encfs", "mount", image, mnt, "--key-file", "key.bin", check=True)
    result = commands.run("encfs", "mount", image, other, "--key-file", "key.bin")
    assert (result.code, "in use" in result.err) == (15, True)
    commands.run("encfs", "unmount", mnt, check=True)
    commands.run("encfs", "mount", image, other, "--key-file", "key.bin", check=True)
    commands.run("encfs", "unmount", other, check=True)


def test_foreground_unmounts_on_sigterm(commands: Commands) -> None:
    image, mnt = create(commands), commands.folder / "mnt"
    words = ("encfs", "mount", image, mnt, "--key-file", "key.bin", "--foreground")
    with commands.serving(*words, ready="ready") as process:
        (mnt / "file").write_text("kept")
    assert process.returncode == 0
    assert not is_mounted(mnt)
    commands.run("encfs", "mount", image, mnt, "--key-file", "key.bin", check=True)
    assert (mnt / "file").read_text() == "kept"
    commands.run("encfs", "unmount", mnt, check=True)


def test_killed_supervisor_leaves_a_volume_that_unmounts_whole(commands: Commands) -> None:
    import json

    image, mnt = create(commands), commands.folder / "mnt"
    commands.run("encfs", "mount", image, mnt, "--key-file", "key.bin", check=True)
    (state_file,) = (commands.folder / "run").glob("*/state.json")
    os.kill(json.loads(state_file.read_text())["supervisor_pid"], signal.SIGKILL)
    (mnt / "file").write_text("after the supervisor died")
    commands.run("encfs", "unmount", mnt, check=True)
    commands.run("encfs", "mount", image, mnt, "--key-file", "key.bin", check=True)
    assert (mnt / "file").read_text() == "after the supervisor died"
    commands.run("encfs", "unmount", mnt, check=True)


def test_unmounted_by_hand_ends_the_supervisor(commands: Commands) -> None:
    image, mnt = create(commands), commands.folder / "mnt"
    words = ("encfs", "mount", image, mnt, "--key-file", "key.bin", "--foreground")
    with commands.serving(*words, ready="ready") as process:
        commands.run("umount", mnt, check=True)
        assert process.wait(20) == 0
    result = commands.run("encfs", "unmount", mnt)
    assert (result.code, "no volume of ours" in result.err) == (25, True)


def test_driver_stays_within_its_memory(commands: Commands) -> None:
    """64 MiB besides the cache asked for, and a local image has none: the limit of the design."""
    import json

    image, mnt = create(commands, size="256M"), commands.folder / "mnt"
    commands.run("encfs", "mount", image, mnt, "--key-file", "key.bin", check=True)
    for number in range(4):
        (mnt / f"file-{number}").write_bytes(os.urandom(40 << 20))
        os.sync()
    (state_file,) = (commands.folder / "run").glob("*/state.json")
    status = Path(f"/proc/{json.loads(state_file.read_text())['driver_pid']}/status").read_text()
    peak = int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1])
    commands.run("encfs", "unmount", mnt, check=True)
    assert peak < 64 << 10, f"the driver took {peak} KiB"


def test_what_failed_in_the_background_is_in_a_log(commands: Commands) -> None:
    image, mnt = create(commands), commands.folder / "mnt"
    commands.run("encfs", "mount", image, mnt, "--key-file", "key.bin", check=True)
    (log,) = (commands.folder / "run").glob("*.log")
    assert stat.S_IMODE(log.stat().st_mode) == 0o600
    kill_driver(commands)
    assert "died with exit code -9" in log.read_text()
    failed = commands.run("encfs", "unmount", mnt)
    assert (failed.code, str(log) in failed.err) == (25, True)
    commands.run("encfs", "mount", image, mnt, "--key-file", "key.bin", check=True)
    commands.run("encfs", "unmount", mnt, check=True)
    assert not log.exists()


def test_an_idle_volume_sleeps(commands: Commands) -> None:
    """Driver and supervisor together take less than 0.5 % of one core, also right after a request."""
    import json

    image, mnt = create(commands), commands.folder / "mnt"
    commands.run("encfs", "mount", image, mnt, "--key-file", "key.bin", check=True)
    (state_file,) = (commands.folder / "run").glob("*/state.json")
    state = json.loads(state_file.read_text())

    def used() -> int:
        """Processor time of all their threads, nanoseconds."""
        pids = (state["driver_pid"], state["supervisor_pid"])
        threads = [path for pid in pids for path in Path(f"/proc/{pid}/task").iterdir()]
        return sum(int((thread / "schedstat").read_text().split()[0]) for thread in threads)

    (mnt / "file").write_text("something to do")
    os.sync()
    before, seconds = used(), 5
    time.sleep(seconds)
    share = (used() - before) / 1e9 / seconds
    commands.run("encfs", "unmount", mnt, check=True)
    assert share < 0.005, f"{share:.2%} of one core"


def test_a_driver_leaves_no_core_dump(commands: Commands) -> None:
    """Its memory holds the volume key: no core file, and not to be read by processes of the same user."""
    import json

    image, mnt = create(commands), commands.folder / "mnt"
    commands.run("encfs", "mount", image, mnt, "--key-file", "key.bin", check=True)
    (state_file,) = (commands.folder / "run").glob("*/state.json")
    pid = json.loads(state_file.read_text())["driver_pid"]
    limits = Path(f"/proc/{pid}/limits").read_text().splitlines()
    (core,) = (line for line in limits if line.startswith("Max core file size"))
    environment = Path(f"/proc/{pid}/environ").read_bytes() + Path(f"/proc/{pid}/cmdline").read_bytes()
    commands.run("encfs", "unmount", mnt, check=True)
    assert core.split()[4:6] == ["0", "0"]
    key = (commands.folder / "key.bin").read_bytes()
    assert key not in environment
    assert key.hex().encode() not in environment


def test_owners_attributes_and_special_files_come_along(commands: Commands, sample: Path) -> None:
    """What `create --from` keeps besides content: owners, xattrs, ACLs, devices, pipes, times."""
    entries = [
        "01000700ffffffff",
        "02000600e8030000",
        "04000500ffffffff",
        "10000700ffffffff",
        "20000500ffffffff",
    ]
    acl = bytes.fromhex("02000000" + "".join(entries))  # linux/posix_acl_xattr.h: u::rwx, u:1000:rw-, ...
    os.setxattr(sample / "text", "user.origin", b"a\0b")
    os.setxattr(sample / "text", "user.large", b"v" * 300)
    os.setxattr(sample / "text", "system.posix_acl_access", acl)
    os.setxattr(sample / "sub", "user.directory", b"yes")
    os.mkfifo(sample / "pipe")
    os.mknod(sample / "device", stat.S_IFCHR | 0o600, os.makedev(1, 3))
    os.chown(sample / "sub" / "binary", 70_000, 80_000)
    os.chown(sample, 1234, 2345)
    sample.chmod(0o751)
    os.setxattr(sample, "user.root", b"top")
    os.utime(sample / "sub", (1_500_000_000, 1_500_000_000))
    image, mnt = create(commands, "--from", sample), commands.folder / "mnt"
    commands.run("encfs", "mount", image, mnt, "--key-file", "key.bin", "--read-only", check=True)
    seen = listing(mnt)
    attributes = {
        path: {name: os.getxattr(mnt / path, name) for name in os.listxattr(mnt / path)}
        for path in ("text", "sub", ".")
    }
    top, device = mnt.stat(), (mnt / "device").stat()
    commands.run("encfs", "unmount", mnt, check=True)
    assert seen == listing(sample)
    wanted = {
        path: {name: os.getxattr(sample / path, name) for name in os.listxattr(sample / path)}
        for path in attributes
    }
    assert attributes == wanted
    assert (top.st_uid, top.st_gid, stat.S_IMODE(top.st_mode)) == (1234, 2345, 0o751)
    assert int(top.st_mtime) == int(sample.stat().st_mtime)
    assert device.st_rdev == os.makedev(1, 3)
