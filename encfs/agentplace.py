"""Where a volume is shown: folders beside the mount point, and the relative link that leads to one of them.

    /mnt/.filesystem-0        the file system of volume 0
    /mnt/.filesystem-0.1      its next one, after the driver of the first has died
    /mnt/data -> .filesystem-0

Strategy: the link is the last thing made and the first thing removed, and it is exchanged by a rename, so
that an application finds a whole volume or nothing. It never leads to a folder without a mount for longer
than it takes to notice: what is written there would be plaintext on the host's disk.

Spec: the predecessor's visible results, `.filesystem-<index>` and a relative link.

Kind: adapter
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
from dataclasses import dataclass
from pathlib import Path

from encfs import mount
from encfs.errors import MountError, MountPointBusy

_OURS = re.compile(r"\.filesystem-[0-9]{1,6}(?:\.1)?")
_MAX_STACKED = 64
_DATA = "/data"


@dataclass(frozen=True, slots=True)
class Place:
    """The place of one volume; `parent` is real, so that it compares with what the kernel lists."""

    parent: Path
    name: str
    index: int

    @classmethod
    def of(cls, mount_point: str, index: int) -> Place:
        """The place of a mount point; makes the folder it is in.

        Raises:
            MountError: that cannot be made.
        """
        path = Path(mount_point)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as exc:
            raise MountError(f"mount point {path}: making {path.parent}: {exc.strerror}") from exc
        return cls(Path(os.path.realpath(path.parent)), path.name, index)

    @property
    def link(self) -> Path:
        """What applications open."""
        return self.parent / self.name

    @property
    def folders(self) -> tuple[Path, Path]:
        """The two folders it takes turns with."""
        first = f".filesystem-{self.index}"
        return self.parent / first, self.parent / f"{first}.1"


def lock_folder(parent: Path) -> int:
    """Claim the folder that mount points are in, for as long as the descriptor is open.

    Folders in it are named by index, so two agents there would take each other's for their own. The lock is
    seen by every container that shares the folder, and goes with the process.

    Raises:
        MountPointBusy: another agent has it.
        MountError: it cannot be opened.
    """
    try:
        fd = os.open(parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as exc:
        raise MountError(f"folder {parent}: {exc.strerror}") from exc
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as exc:
        os.close(fd)
        raise MountPointBusy(
            f"folder {parent}: another agent has its mount points there",
            hint="give the volumes of each agent a folder of their own",
        ) from exc
    return fd


def check_link(place: Place) -> None:
    """Take over what an earlier life left at the mount point: its link, or an empty folder.

    Raises:
        MountPointBusy: something else is there.
    """
    link = place.link
    try:
        if link.is_symlink() and _OURS.fullmatch(os.readlink(link)):
            link.unlink()
        elif link.is_dir() and not link.is_symlink() and not mount.is_mounted(link):
            link.rmdir()
        elif not os.path.lexists(link):
            return
        else:
            raise MountPointBusy(f"mount point {link}: something that is not ours is there", hint=_AWAY)
    except OSError as exc:
        raise MountPointBusy(f"mount point {link}: {exc.strerror}", hint=_AWAY) from exc


_AWAY = "move it away: the agent puts a link there"


def publish(place: Place, folder: Path) -> None:
    """Let the mount point lead to `folder`, in one step.

    Raises:
        MountError: the link cannot be made.
    """
    partial = place.parent / f".{place.name}.partial"
    try:
        partial.unlink(missing_ok=True)
        partial.symlink_to(folder.name)
        partial.replace(place.link)
    except OSError as exc:
        raise MountError(f"mount point {place.link}: making the link failed: {exc.strerror}") from exc


def withdraw(place: Place) -> None:
    """Remove the link, if it is ours: nobody new comes in."""
    with contextlib.suppress(OSError):
        if _OURS.fullmatch(os.readlink(place.link)):
            place.link.unlink()


def make_folder(folder: Path) -> None:
    """Make a folder to mount at.

    Raises:
        MountError: it cannot be made.
        MountPointBusy: something is mounted there.
    """
    try:
        folder.mkdir(mode=0o755, exist_ok=True)
    except OSError as exc:
        raise MountError(f"mount point {folder}: making it failed: {exc.strerror}") from exc
    mount.check_mount_point(folder)


def discard(folder: Path) -> None:
    """Unmount whatever is at a folder of ours, also when files are open there, and remove the folder."""
    for _ in range(_MAX_STACKED):
        if not mount.is_mounted(folder):
            break
        mount.unmount(folder, lazy=True)
    remove_folder(folder)


def remove_folder(folder: Path) -> None:
    """Remove a folder of ours, if nothing is mounted there and nothing in it."""
    with contextlib.suppress(OSError):
        folder.rmdir()


def stale_devices(folder: Path) -> list[str]:
    """Loop devices of mounts that an earlier life left at a folder; touches none of them.

    Raises:
        MountPointBusy: something is mounted there that is not ours.
    """
    devices = []
    for mounted in mount.mounts_at(folder):
        is_loop = re.fullmatch(r"/dev/loop([0-9]+)", mounted.source)
        backing = mount.loop_backing_file(int(is_loop[1])) if is_loop else None
        if mounted.kind != "ext4" or not is_loop or not (backing or _DATA).partition(" ")[0].endswith(_DATA):
            raise MountPointBusy(f"mount point {folder}: {mounted.source} is mounted there, not one of ours")
        devices.append(mounted.source)
    return devices


def is_served(device: str) -> bool:
    """Whether somebody still serves a loop device of ours; blocks as long as the device does."""
    backing = mount.loop_backing_file(int(device.removeprefix("/dev/loop")))
    return backing is not None and mount.can_read_device(device)
