"""All state of one mounted volume: set up in order, watched, torn down in reverse.

    NEW -> DRIVING -> MOUNTED -> CLOSED
      \\________\\_________\\-> FAILED

NEW      image open and locked, key proved by the header's digest
DRIVING  the driver serves `data`; from here on it is watched
MOUNTED  the file system is mounted at the mount point: the last step, so nobody sees half of it
CLOSED   unmounted, driver ended with 0: everything is in the image
FAILED   the driver died or was cut off; whoever had files open got EIO

A watchdog reads the driver's pulse. A driver that is stuck past the deadline is cut off by ending its FUSE
connection, which is the only thing that helps once kernel and driver wait for each other.

Kind: composition
"""

from __future__ import annotations

import contextlib
import logging
import os
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING

import trio

from encfs import mount
from encfs.anchoring import Anchoring
from encfs.blobs import BlobAccess, blob_order
from encfs.block.file import FileDevice
from encfs.driverproc import DriverProcess, start_driver
from encfs.errors import DriverFailed, EncfsError, MountError, MountPointBusy, ReadOnlyDevice, StoreError
from encfs.filesystem import FileSystem
from encfs.health import LEASES, Watchdog
from encfs.keys import Secret
from encfs.volume import BlobOrder, SegmentGeometry, VerityOrder

if TYPE_CHECKING:
    from encfs.block.blob import BlobDevice

log = logging.getLogger(__name__)

_LOOK_SECONDS = 1.0
# What a driver knows of its lease is in its pulse after so long.
_TOLD_SECONDS = 1.0
# Of the deadline: so much may one request to a store take, so that a slow store is an error, not a cut-off.
_STORE_SHARE = 0.6


class Phase(StrEnum):
    NEW = "new"
    DRIVING = "driving"
    MOUNTED = "mounted"
    CLOSED = "closed"
    FAILED = "failed"


_NEXT = {
    Phase.NEW: {Phase.DRIVING, Phase.FAILED},
    Phase.DRIVING: {Phase.MOUNTED, Phase.CLOSED, Phase.FAILED},
    Phase.MOUNTED: {Phase.CLOSED, Phase.FAILED},
    Phase.CLOSED: set(),
    Phase.FAILED: set(),
}


@dataclass(frozen=True, slots=True)
class Volume:
    """An unlocked image: what a session needs to serve it; `for_tools` as in `DriverOrder`.

    `access` says how the driver reaches the blob that `source` is, `verity` by which hash tree it verifies,
    `anchoring` anchors it when it is unmounted.
    """

    source: FileDevice | BlobDevice
    name: str
    segment: SegmentGeometry
    volume_key: Secret
    read_only: bool
    for_tools: bool = False
    access: BlobAccess | None = None
    verity: VerityOrder | None = None
    anchoring: Anchoring | None = None

    def image(self, deadline: float) -> int | BlobOrder:
        """What a driver opens: the inherited descriptor, or a blob.

        Args:
            deadline: seconds after which the driver is cut off; its store has to give up before.
        """
        if isinstance(self.source, FileDevice):
            return self.source.fd
        assert self.access is not None
        return blob_order(self.access, self.source, deadline=deadline * _STORE_SHARE)


class Session:
    """One volume from driver to mount point. Use as an async context manager; leaving it tears down.

    Args:
        volume: the unlocked image; closed with the session.
        device_directory: empty directory where FUSE is mounted.
        deadline: seconds after which a driver that answers nothing is cut off.
    """

    def __init__(self, volume: Volume, device_directory: Path, *, deadline: float) -> None:
        self.phase = Phase.NEW
        self.volume = volume
        self.device_directory = device_directory
        self.driver: DriverProcess | None = None
        self.file_system: FileSystem | None = None
        self.failure: EncfsError | None = None
        self.ended = trio.Event()
        self.serving = False  # set-up is done: a signal now means unmount
        self._deadline = deadline
        self._abort: int | None = None
        self._watchdog: Watchdog | None = None
        self._stopping = trio.Lock()

    def _enter(self, phase: Phase) -> None:
        assert phase in _NEXT[self.phase], f"{self.phase} -> {phase}"
        self.phase = phase

    async def start(self, nursery: trio.Nursery) -> None:
        """Start the driver and the watch. Afterwards `data` can be opened."""
        volume = self.volume
        self.driver = await start_driver(
            volume.image(self._deadline),
            volume.name,
            volume.segment,
            volume.volume_key,
            self.device_directory,
            read_only=volume.read_only,
            for_tools=volume.for_tools,
            verity=volume.verity,
            nursery=nursery,
        )
        self._enter(Phase.DRIVING)
        self._abort = mount.open_abort(self.device_directory)
        self._watchdog = Watchdog(self.driver.pulse, self._deadline, self._end_connection)
        self._watchdog.start()
        nursery.start_soon(self._watch)

    async def mount(self, file_system: FileSystem, mount_point: Path) -> None:
        """Mount the file system on `data` at `mount_point`: the last step of the set-up."""
        assert self.driver is not None
        await file_system.mount(self.driver.data, mount_point)
        self.file_system = file_system
        self._enter(Phase.MOUNTED)

    async def unmount(self) -> None:
        """Store everything and unmount; returns when it is in the image.

        Raises:
            MountPointBusy: files are open; the volume stays mounted and goes on working.
            MountError: something could not be stored; it stays mounted, and the next call leaves it at that.
            StoreError: unmounted, but not everything could be stored.
        """
        lost: ReadOnlyDevice | None = None
        if self.file_system is not None:
            try:
                await self._unmount_file_system(self.file_system)
            except ReadOnlyDevice as exc:
                lost = exc
            self.file_system = None
        await self._stop_driver()
        if lost is not None:
            self.failure = lost
            raise lost

    async def _unmount_file_system(self, file_system: FileSystem) -> None:
        try:
            await file_system.unmount()
        except MountPointBusy:
            raise
        except MountError:
            if not await self._has_lost_its_lease():
                raise
            await file_system.unmount()

    async def _has_lost_its_lease(self) -> bool:
        """Whether nothing can be stored any more, for good."""
        assert self.driver is not None
        await trio.sleep(_TOLD_SECONDS)
        return LEASES[self.driver.pulse.read().lease] == "lost"

    async def _stop_driver(self) -> None:
        async with self._stopping:  # the watch may ask for the end while an unmount waits for it
            if self.driver is not None and self.phase not in (Phase.CLOSED, Phase.FAILED):
                await self._end_driver(self.driver)

    async def _end_driver(self, driver: DriverProcess) -> None:
        if mount.is_mounted(self.device_directory):
            await trio.to_thread.run_sync(lambda: mount.unmount(self.device_directory))
        code = await driver.wait()
        self._tell_cut_off()
        if code != 0:
            self._fail(DriverFailed(f"driver of {self.volume.name}: ended with exit code {code}"))
            raise StoreError(
                f"image {self.volume.name}: the driver could not store everything (exit code {code})",
                hint="its log says which writes failed; keep the image and check it with e2fsck",
            )
        if self.volume.anchoring is not None:
            await self.volume.anchoring.end(self.volume.source)
        self._enter(Phase.CLOSED)
        self.ended.set()

    async def _watch(self) -> None:
        """Notice a driver that was cut off, a dead one, and a mount that somebody else removed."""
        assert self.driver is not None
        while not self._tell_cut_off() and self.phase not in (Phase.CLOSED, Phase.FAILED):
            code = self.driver.process.poll()
            if code == 0 and self.file_system is None:  # unmounted, by us or by somebody else
                self.ended.set()
                return
            if code is not None:
                async with self._stopping:  # an unmount under way says itself how it ended
                    pass
                self._fail(DriverFailed(f"driver of {self.volume.name}: died with exit code {code}"))
            elif self.file_system is not None and self.file_system.is_gone():
                log.info("%s: unmounted by somebody else", self.volume.name)
                self.ended.set()
                return
            with trio.move_on_after(_LOOK_SECONDS):
                await self.driver.wait()

    def _tell_cut_off(self) -> bool:
        """Whether the watchdog has ended the FUSE connection; then this session has failed."""
        if self._watchdog is None or not self._watchdog.fired:
            return False
        self._fail(
            DriverFailed(
                f"driver of {self.volume.name}: answered nothing for {self._deadline:g} s and was cut off",
                hint="everyone got EIO, writes not fsynced may be lost; mount again to replay the journal",
            )
        )
        return True

    def _fail(self, error: EncfsError) -> None:
        if self.phase in (Phase.CLOSED, Phase.FAILED):
            return
        log.error("%s", error)
        self.failure = error
        self._enter(Phase.FAILED)
        self.ended.set()

    def give_up(self, reason: str) -> None:
        """End the FUSE connection, so that nobody waits any longer: what is not stored by now is lost."""
        if self.phase in (Phase.CLOSED, Phase.FAILED):
            return
        mount.abort_connection(self.device_directory, self._abort)
        self._fail(StoreError(f"image {self.volume.name}: {reason}"))

    async def let_go(self) -> None:
        """End the driver although the loop device is still in use, after its file system was shut down.

        Raises:
            StoreError: the driver could not store everything.
        """
        assert self.driver is not None
        self.file_system = None
        if self._abort is not None or mount.is_mounted(self.device_directory):
            await trio.to_thread.run_sync(mount.abort_connection, self.device_directory, self._abort)
        if mount.is_mounted(self.device_directory):
            await trio.to_thread.run_sync(self._unmount_device_lazily)
        await self._stop_driver()

    async def clean_up(self) -> None:
        """Leave nothing behind, whatever happened before. Idempotent; raises nothing it can avoid."""
        with trio.CancelScope(shield=True):
            if self.phase not in (Phase.CLOSED, Phase.FAILED):
                try:
                    await self.unmount()
                except EncfsError as exc:
                    log.error("%s", exc)
                    self._fail(exc)
            if self.phase is not Phase.CLOSED:
                await self._force_away()
            await self.volume.source.aclose()
            if self._watchdog is not None:
                self._watchdog.stop()
            if self.driver is not None:
                self.driver.pulse.close()
            if self._abort is not None:
                os.close(self._abort)

    async def _force_away(self) -> None:
        if self.file_system is not None:
            await self.file_system.force_away()
        if mount.is_mounted(self.device_directory):
            for step in (self._end_connection, self._unmount_device_lazily):
                with contextlib.suppress(EncfsError, OSError):
                    await trio.to_thread.run_sync(step)
        if self.driver is not None:
            self.driver.kill()
            await self.driver.wait()

    def _end_connection(self) -> None:
        mount.abort_connection(self.device_directory, self._abort)

    def _unmount_device_lazily(self) -> None:
        mount.unmount(self.device_directory, lazy=True)
