"""Who makes a file system out of the plaintext device: the kernel on a loop device, or fuse2fs.

The kernel's ext4 is the default: journal, page cache, speed. fuse2fs is for containers that have `/dev/fuse`
and nothing else: no root, no loop device. It keeps no journal, so a crash while it is mounted read-write can
damage the file system; that is said when it is asked for.

Kind: composition
"""

from __future__ import annotations

import contextlib
import logging
import os
import subprocess
from pathlib import Path
from typing import Protocol

import trio

from encfs import mount
from encfs.errors import FileSystemError, MountError, MountPointBusy, ReadOnlyDevice

log = logging.getLogger(__name__)

_RELEASE_SECONDS = 60
_START_SECONDS = 30
_POLL_SECONDS = 0.02
_MAX_OUTPUT = 4096


class FileSystem(Protocol):
    """One file system on one plaintext device, mounted at most once."""

    async def mount(self, data: Path, mount_point: Path) -> None:
        """Mount it; returns when it can be used.

        Raises:
            MountError: why it cannot be mounted; nothing is left behind.
        """
        ...

    async def unmount(self) -> None:
        """Store everything and unmount; returns when nothing uses the device any more.

        Raises:
            MountPointBusy: files are open; it stays mounted.
            MountError: something could not be stored; it stays mounted, and the next call leaves it at that.
            ReadOnlyDevice: unmounted, but not everything is stored.
        """
        ...

    def is_gone(self) -> bool:
        """Whether somebody else unmounted it."""
        ...

    async def force_away(self) -> None:
        """Unmount although it is in use or its device is dead; raises nothing."""
        ...

    @property
    def loop(self) -> int | None:
        """Number of its loop device, if it has one."""
        ...


class KernelFileSystem:
    """ext4 of the kernel on a loop device with direct I/O.

    Args:
        sector_size: of the volume, bytes: the loop device's logical sectors.
        read_only: mount read-only, replaying no journal.
        fs_type: as the kernel calls it.
    """

    def __init__(self, *, sector_size: int, read_only: bool, fs_type: str = "ext4") -> None:
        self._sector_size = sector_size
        self._read_only = read_only
        self._fs_type = fs_type
        self._loop: mount.Loop | None = None
        self._mount_point: Path | None = None
        self._has_told = False

    @property
    def loop(self) -> int | None:
        return None if self._loop is None else self._loop.number

    async def mount(self, data: Path, mount_point: Path) -> None:
        loop = await trio.to_thread.run_sync(
            lambda: mount.attach_loop(data, sector_size=self._sector_size, read_only=self._read_only)
        )
        try:
            await trio.to_thread.run_sync(
                lambda: mount.mount_file_system(
                    loop.path, mount_point, fs_type=self._fs_type, read_only=self._read_only
                )
            )
        except BaseException:
            mount.detach_loop(loop)
            raise
        finally:
            # From here the mount keeps the loop device; without our descriptor it clears itself at the end.
            os.close(loop.fd)
        self._loop, self._mount_point = loop, mount_point

    async def unmount(self) -> None:
        mount_point, loop = self._mount_point, self._loop
        if mount_point is None or loop is None:
            return
        lost: ReadOnlyDevice | None = None
        if mount.is_mounted(mount_point):
            try:
                await trio.to_thread.run_sync(mount.sync_file_system, mount_point)
            except ReadOnlyDevice as exc:
                lost = exc  # nothing gets better by staying mounted
            except MountError as exc:
                if not self._has_told:
                    self._has_told = True
                    raise
                lost = ReadOnlyDevice(str(exc), hint=mount.UNSTORED_HINT)
            await trio.to_thread.run_sync(mount.unmount, mount_point)
        with trio.move_on_after(_RELEASE_SECONDS):
            while mount.loop_backing_file(loop.number) is not None:
                await trio.sleep(_POLL_SECONDS)
            self._loop = self._mount_point = None
            if lost is not None:
                raise lost
            return
        raise MountPointBusy(
            f"{loop.path}: still in use {_RELEASE_SECONDS} s after unmounting",
            hint="another mount namespace (a container) still has the volume mounted; end it first",
        )

    def is_gone(self) -> bool:
        return self._loop is not None and mount.loop_backing_file(self._loop.number) is None

    async def force_away(self) -> None:
        if (mount_point := self._mount_point) is not None:
            await _quietly(mount_point)


class Fuse2fs:
    """fuse2fs as a child process: needs neither root nor a loop device.

    Args:
        read_only: mount read-only, replaying no journal.
    """

    loop: int | None = None

    def __init__(self, *, read_only: bool) -> None:
        self._read_only = read_only
        self._process: trio.Process | None = None
        self._mount_point: Path | None = None

    async def mount(self, data: Path, mount_point: Path) -> None:
        options = "ro,norecovery" if self._read_only else "rw"
        if not self._read_only:
            log.warning("fuse2fs writes without a journal: a crash while mounted can damage the file system")
        environment = os.environ | {"PATH": os.environ.get("PATH", "") + ":/usr/sbin:/sbin", "LC_ALL": "C"}
        words = ["fuse2fs", str(data), str(mount_point), "-f", "-o", options, "-o", "fakeroot"]
        try:
            process = await trio.lowlevel.open_process(
                words,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                env=environment,
                start_new_session=True,
            )
        except FileNotFoundError as exc:
            raise FileSystemError("fuse2fs: not found", hint="install fuse2fs") from exc
        self._process, self._mount_point = process, mount_point
        with trio.move_on_after(_START_SECONDS):
            while process.poll() is None:
                if mount.is_mounted(mount_point):
                    return
                await trio.sleep(_POLL_SECONDS)
        reason = await _last_words(process)
        await self.force_away()
        raise FileSystemError(
            f"fuse2fs: mounting failed: {reason}",
            hint="the key is right, so the volume holds no ext4 file system, or a damaged one: encfs check",
        )

    async def unmount(self) -> None:
        process, mount_point = self._process, self._mount_point
        if process is None or mount_point is None:
            return
        if mount.is_mounted(mount_point):
            await trio.to_thread.run_sync(mount.unmount, mount_point)
        if (code := await process.wait()) != 0:
            raise FileSystemError(
                f"fuse2fs: ended with exit code {code}", hint="check the image: encfs check"
            )
        self._process = self._mount_point = None

    def is_gone(self) -> bool:
        return self._process is not None and self._process.poll() is not None

    async def force_away(self) -> None:
        if self._mount_point is not None and mount.is_mounted(self._mount_point):
            await _quietly(self._mount_point)
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()
            await self._process.wait()


async def _quietly(mount_point: Path) -> None:
    with contextlib.suppress(Exception):
        await trio.to_thread.run_sync(lambda: mount.unmount(mount_point, lazy=True))


async def _last_words(process: trio.Process) -> str:
    """The last line of what a process said before it ended."""
    if process.poll() is None:
        return f"not mounted after {_START_SECONDS} s"
    assert process.stderr is not None
    data = b""
    with trio.move_on_after(1):
        while len(data) < _MAX_OUTPUT and (part := await process.stderr.receive_some(_MAX_OUTPUT)):
            data += part
    lines = data.decode(errors="replace").strip().splitlines()
    return lines[-1] if lines else f"exit code {process.returncode}"
