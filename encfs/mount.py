"""Loop devices and mounts: the system calls, and nothing of their order (that is `session`).

The only module that mounts. Each function is one step and blocks; none keeps state.

Kind: adapter
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import mmap
import os
import re
import stat
import struct
import subprocess
from dataclasses import dataclass
from pathlib import Path

from encfs.errors import (
    FileSystemError,
    LoopUnavailable,
    MountError,
    MountPointBusy,
    MountPointMissing,
    ReadOnlyDevice,
)

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mount.argtypes = [ctypes.c_char_p, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_ulong, ctypes.c_char_p]
_libc.umount2.argtypes = [ctypes.c_char_p, ctypes.c_int]

# <sys/mount.h>
_MS_RDONLY, _MS_NOSUID, _MS_NODEV = 1, 2, 4
_MNT_FORCE, _MNT_DETACH, _UMOUNT_NOFOLLOW = 1, 2, 8

# <linux/loop.h>
_LOOP_CLR_FD = 0x4C01
_LOOP_CONFIGURE = 0x4C0A
_LOOP_CTL_GET_FREE = 0x4C82
_LO_FLAGS_READ_ONLY, _LO_FLAGS_AUTOCLEAR, _LO_FLAGS_DIRECT_IO = 1, 4, 16
_LOOP_MAJOR = 7
# struct loop_config: fd, block_size, struct loop_info64, 8 reserved u64.
_LOOP_CONFIG = struct.Struct("=II QQQQQ IIII 64s64s32s QQ 64x")
# <linux/fs.h>
_BLKRASET = 0x1262
# The largest FUSE request, 256 pages. By its own default a loop device sends 1280 KiB at once, which FUSE
# cuts into 1024 and 256: twice the requests.
_LOOP_REQUEST_KIB = 1024
# Large enough that sequential reads reach the driver as requests of the largest size, two ahead.
_READ_AHEAD_SECTORS = (4 << 20) // 512
_LOOP_TRIES = 16
UNSTORED_HINT = (
    "its log says why; only what fsync confirmed is stored for certain: look with encfs check, or mount it"
)
# <linux/ext4.h>: _IOR('X', 125, u32) and its flags.
_EXT4_IOC_SHUTDOWN = 0x8004587D
_EXT4_SHUTDOWN_FLUSH, _EXT4_SHUTDOWN_AT_ONCE = 0, 2
# What ext4 shows when it takes no writes: mounted so, or after an error (words of its own since Linux 6.15).
_NO_WRITES = frozenset({"ro", "emergency_ro", "shutdown"})
_OCTAL = re.compile(r"\\([0-7]{3})")


@dataclass(frozen=True, slots=True)
class Loop:
    """An attached loop device; `fd` keeps it attached until the file system on it is mounted."""

    number: int
    path: str
    fd: int


def check_mount_point(path: Path) -> None:
    """Refuse a mount point that is missing, not a directory, or in use.

    Raises:
        MountPointMissing: it does not exist or is not a directory.
        MountPointBusy: something is mounted there.
    """
    if is_mounted(path):
        raise MountPointBusy(
            f"mount point {path}: something is mounted there already",
            hint="unmount it first (encfs unmount), or choose another directory",
        )
    if not path.is_dir():
        what = "not a directory" if path.exists() else "no such directory"
        raise MountPointMissing(f"mount point {path}: {what}", hint=f"create it first: mkdir -p {path}")


def attach_loop(data: Path, *, sector_size: int, read_only: bool) -> Loop:
    """Attach the FUSE file `data` to a free loop device: direct I/O, cleared by itself after the last use.

    Args:
        data: path of the file; opened here, kept open by the kernel.
        sector_size: logical sector size of the block device in bytes.
        read_only: attach it read-only.

    Raises:
        LoopUnavailable: no loop device, or the kernel refused.
    """
    flags = _LO_FLAGS_AUTOCLEAR | _LO_FLAGS_DIRECT_IO | (_LO_FLAGS_READ_ONLY if read_only else 0)
    name = os.fsencode(data.parent.name)[:63]
    mode = os.O_RDONLY if read_only else os.O_RDWR
    backing = os.open(data, mode | os.O_CLOEXEC)
    try:
        # fmt: off
        config = _LOOP_CONFIG.pack(
            backing, sector_size, 0, 0, 0, 0, 0, 0, 0, 0, flags, name, b"", b"", 0, 0
        )
        # fmt: on
        for _ in range(_LOOP_TRIES):
            number = _free_loop()
            fd = _open_loop(number, mode)
            try:
                fcntl.ioctl(fd, _LOOP_CONFIGURE, config)
                fcntl.ioctl(fd, _BLKRASET, _READ_AHEAD_SECTORS)
            except OSError as exc:
                os.close(fd)
                if exc.errno == errno.EBUSY:  # somebody else took it between the two calls
                    continue
                raise LoopUnavailable(f"loop device {number}: attaching failed: {exc.strerror}") from exc
            _limit_requests(number)
            return Loop(number, f"/dev/loop{number}", fd)
    finally:
        os.close(backing)
    raise LoopUnavailable(f"loop device: all {_LOOP_TRIES} tries lost to other processes")


def _limit_requests(number: int) -> None:
    """Keep the loop device's requests at what FUSE takes in one; where /sys is read-only, it is slower."""
    with contextlib.suppress(OSError):
        Path(f"/sys/block/loop{number}/queue/max_sectors_kb").write_text(str(_LOOP_REQUEST_KIB))


def _free_loop() -> int:
    try:
        control = os.open("/dev/loop-control", os.O_RDWR | os.O_CLOEXEC)
    except OSError as exc:
        raise LoopUnavailable(
            f"/dev/loop-control: {exc.strerror}",
            hint="run as root with access to loop devices; mount --via fuse2fs and extract need neither",
        ) from exc
    try:
        return fcntl.ioctl(control, _LOOP_CTL_GET_FREE)
    except OSError as exc:
        raise LoopUnavailable(f"/dev/loop-control: no free device: {exc.strerror}") from exc
    finally:
        os.close(control)


def _open_loop(number: int, mode: int) -> int:
    path = f"/dev/loop{number}"
    try:
        if not os.path.exists(path):  # a container's /dev has no udev to make new nodes
            os.mknod(path, stat.S_IFBLK | 0o600, os.makedev(_LOOP_MAJOR, number))
        return os.open(path, mode | os.O_CLOEXEC)
    except OSError as exc:
        raise LoopUnavailable(
            f"{path}: {exc.strerror}", hint="let the container have all loop devices; see docs/privileges.md"
        ) from exc


def loop_backing_file(number: int) -> str | None:
    """Path of the file behind a loop device, None when nothing is attached."""
    try:
        return Path(f"/sys/block/loop{number}/loop/backing_file").read_text().strip()
    except OSError:
        return None


def detach_loop(loop: Loop) -> None:
    """Detach at once if unused, or as soon as the last user is gone."""
    try:
        fcntl.ioctl(loop.fd, _LOOP_CLR_FD)
    except OSError as exc:
        if exc.errno != errno.ENXIO:  # not attached any more
            raise LoopUnavailable(f"{loop.path}: detaching failed: {exc.strerror}") from exc


def mount_file_system(device: str, mount_point: Path, *, fs_type: str, read_only: bool) -> None:
    """Mount the file system on `device`. Read-only means that not even its journal is replayed.

    Raises:
        FileSystemError: the kernel refused; the reason is what it said.
    """
    flags = _MS_NOSUID | _MS_NODEV | (_MS_RDONLY if read_only else 0)
    options = ""
    if fs_type == "ext4":
        options = "noload" if read_only else "errors=remount-ro"
    result = _libc.mount(
        os.fsencode(device), os.fsencode(mount_point), fs_type.encode(), flags, options.encode()
    )
    if result != 0:
        code = ctypes.get_errno()
        raise FileSystemError(
            f"volume on {device}: mounting {fs_type} failed: {os.strerror(code)}",
            hint="the key is right, so the volume holds no such file system, a damaged one (check it with "
            "`encfs expose` and `e2fsck -n DIR/data`), or one with blocks smaller than the image's sectors",
        )


def unmount(path: Path, *, force: bool = False, lazy: bool = False) -> None:
    """Unmount; for FUSE, `force` also ends the connection, so that everyone waiting gets an error.

    Raises:
        MountPointBusy: files are open there.
        MountError: any other refusal.
    """
    flags = _UMOUNT_NOFOLLOW | (_MNT_FORCE if force else 0) | (_MNT_DETACH if lazy else 0)
    if _libc.umount2(os.fsencode(path), flags) == 0:
        return
    code = ctypes.get_errno()
    if code == errno.EPERM and _fusermount(path, lazy=lazy):
        return
    if code == errno.EBUSY or (code == errno.EPERM and _is_busy(path)):
        raise MountPointBusy(
            f"mount point {path}: in use by {_describe_users(path)}", hint="stop them, then try again"
        )
    raise MountError(f"mount point {path}: unmounting failed: {os.strerror(code)}")


def _fusermount(path: Path, *, lazy: bool) -> bool:
    """Unmount a FUSE mount of an ordinary user, with the helper that is allowed to."""
    words = ["fusermount3", "-u", *(["-z"] if lazy else []), str(path)]
    try:
        done = subprocess.run(words, capture_output=True, timeout=60, check=False)
    except (FileNotFoundError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0


def _is_busy(path: Path) -> bool:
    return is_mounted(path) and "we cannot see" not in _describe_users(path)


def sync_file_system(path: Path) -> None:
    """Write everything the file system mounted at `path` still holds in memory.

    Raises:
        ReadOnlyDevice: the file system has been shut down since a write was refused; syncing again is no use.
        MountError: the kernel reported that something could not be written.
    """
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        if _libc.syncfs(fd) != 0:
            if ctypes.get_errno() == errno.EROFS:
                raise ReadOnlyDevice(
                    f"mount point {path}: what was written last is not stored: the volume became read-only",
                    hint=UNSTORED_HINT,
                )
            raise MountError(
                f"mount point {path}: writing back failed: {os.strerror(ctypes.get_errno())}",
                hint="only what fsync confirmed is stored for certain; unmount again to leave it at that",
            )
    finally:
        os.close(fd)


def shut_down_file_system(path: Path, *, flush: bool) -> None:
    """End an ext4 mounted at `path`: from here on, whoever has files open there gets EIO.

    Args:
        path: where it is mounted; stays mounted.
        flush: store everything first, and let nobody write in between; else at once, for a dead device.

    Raises:
        MountError: the kernel refused, or something could not be stored.
    """
    flags = struct.pack("=I", _EXT4_SHUTDOWN_FLUSH if flush else _EXT4_SHUTDOWN_AT_ONCE)
    try:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            _check_is_volume(fd, path)
            if flush and _libc.syncfs(fd) != 0:  # the ioctl itself would not say that it failed
                raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
            fcntl.ioctl(fd, _EXT4_IOC_SHUTDOWN, flags)
        finally:
            os.close(fd)
    except OSError as exc:
        raise MountError(f"mount point {path}: shutting down failed: {exc.strerror}") from exc


def _check_is_volume(fd: int, path: Path) -> None:
    """Refuse what is not the top of a file system on a loop device: it could be the machine's own."""
    device = os.fstat(fd).st_dev
    if os.major(device) != _LOOP_MAJOR or device == os.stat(path.parent).st_dev:
        raise MountError(f"mount point {path}: no volume is mounted there any more")


def is_mounted(path: Path) -> bool:
    """Whether something is mounted exactly at `path`, without touching it (it may be wedged)."""
    return os.path.abspath(path) in mount_points()


def mount_points() -> list[str]:
    """Every mount point of our mount namespace."""
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    # Spaces and the like are escaped as \\040: mountinfo, field 5 (proc(5)).
    return [_unescaped(line.split(" ")[4]) for line in lines]


@dataclass(frozen=True, slots=True)
class Mounted:
    """One mount of our namespace: where, of what type, from what; `read_only` also after an error."""

    point: str
    kind: str
    source: str
    read_only: bool


def mounts_at(path: Path) -> list[Mounted]:
    """What is mounted exactly at `path`, the uppermost last."""
    wanted, found = os.path.abspath(path), []
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        before, _, after = line.partition(" - ")
        point = _unescaped(before.split(" ")[4])
        if point == wanted:
            kind, source, options = after.split(" ")[:3]
            found.append(
                Mounted(point, kind, _unescaped(source), not _NO_WRITES.isdisjoint(options.split(",")))
            )
    return found


def _unescaped(text: str) -> str:
    return _OCTAL.sub(lambda match: chr(int(match[1], 8)), text)


def can_read_device(path: str) -> bool:
    """Whether a block device still delivers its first bytes; blocks as long as the device does."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECT | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        with mmap.mmap(-1, mmap.PAGESIZE) as page:
            return os.preadv(fd, [page], 0) == mmap.PAGESIZE
    except OSError:
        return False
    finally:
        os.close(fd)


def open_abort(directory: Path) -> int | None:
    """Open the switch that ends the FUSE connection at `directory`; None without a mounted fusectl.

    Opened early and kept: at the moment it is needed, opening a file may be too much to ask.
    """
    number = os.minor(directory.stat().st_dev)
    try:
        return os.open(f"/sys/fs/fuse/connections/{number}/abort", os.O_WRONLY | os.O_CLOEXEC)
    except OSError:
        return None


def abort_connection(directory: Path, switch: int | None) -> None:
    """End a FUSE connection: every request, present and future, fails. The only cure for a wedged driver."""
    if switch is not None:
        os.write(switch, b"1")
    else:
        unmount(directory, force=True, lazy=True)


def _describe_users(path: Path) -> str:
    """Names and pids of processes that keep `path` busy, as far as we may see them."""
    users = []
    wanted = path.stat().st_dev
    for process in Path("/proc").iterdir():
        if process.name.isdigit() and _uses(process, wanted):
            name = (process / "comm").read_text().strip() if (process / "comm").exists() else "?"
            users.append(f"{name} (pid {process.name})")
    if not users:
        return "the kernel or a process we cannot see (a nested mount?)"
    return ", ".join(users[:5]) + (f" and {len(users) - 5} more" if len(users) > 5 else "")


def _uses(process: Path, device: int) -> bool:
    links = [process / "cwd", process / "root"]
    try:
        links += list((process / "fd").iterdir())
    except OSError:
        return False
    for link in links:
        try:
            if link.stat().st_dev == device:
                return True
        except OSError:
            continue
    return False
