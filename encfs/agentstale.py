"""What an earlier life of an agent left behind, recognised and cleaned up before a new one begins.

An agent that was killed leaves: the link, the mounted file system, the loop device below it, the driver's
FUSE mount, a run directory, and drivers that go on serving. Where the whole container was replaced, only the
link and the mount are left, dead. All of it goes, and everything that can still be stored is stored first.

Kind: composition
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import trio

from encfs import agentplace, mount, rundir
from encfs.agentplace import Place
from encfs.errors import MountError, MountPointBusy

log = logging.getLogger(__name__)

_STORE_SECONDS = 20.0
_PROBE_SECONDS = 10.0
_POLL = 0.02


async def clear_runs(top: Path) -> None:
    """Take down the volumes of agents that no longer run; `top` holds one run directory for each volume."""
    for folder in sorted(top.iterdir()) if top.is_dir() else ():
        state = rundir.read_state(folder)
        if state is not None and state.supervisor_lives() and state.supervisor_pid != os.getpid():
            continue
        log.info("%s: left by an agent that no longer runs", folder if state is None else state.mount_point)
        await _clear_run(folder, state)


async def _clear_run(folder: Path, state: rundir.State | None) -> None:
    device = folder / "device"
    if state is not None:
        await _store_and_unmount(Path(state.mount_point), device, dead=not state.driver_lives())
    if mount.is_mounted(device):
        await trio.to_thread.run_sync(_unmount_device, device)
    if state is not None:
        await _end_driver(state)
    shutil.rmtree(folder, ignore_errors=True)


async def _store_and_unmount(shown: Path, device: Path, *, dead: bool) -> None:
    """Unmount a file system, its data stored if its driver still serves."""
    if not mount.is_mounted(shown):
        return
    if not dead:
        stored = False
        with trio.move_on_after(_STORE_SECONDS):
            stored = await _attempt(lambda: mount.shut_down_file_system(shown, flush=True))
        if not stored:
            log.error("%s: not everything could be stored", shown)
    if not dead and mount.is_mounted(device):
        # Nothing is written any more. Ending the connection lets the driver end though files may be open.
        await trio.to_thread.run_sync(_unmount_device, device)
    await trio.to_thread.run_sync(agentplace.discard, shown)


async def _attempt(step: Callable[[], None]) -> bool:
    try:
        await trio.to_thread.run_sync(step, abandon_on_cancel=True)
    except MountError as exc:
        log.error("%s", exc)
        return False
    return True


def _unmount_device(device: Path) -> None:
    """End a driver's FUSE connection and its mount; raises nothing."""
    with contextlib.suppress(MountError, OSError):
        mount.unmount(device, force=True, lazy=True)


async def _end_driver(state: rundir.State) -> None:
    """Wait for a driver that was cut off; kill it if it does not end by itself."""
    for number in (None, signal.SIGKILL):
        if number is not None and state.driver_lives() and state.driver_started:
            log.warning("driver %d: did not end by itself", state.driver_pid)
            with contextlib.suppress(ProcessLookupError):
                os.kill(state.driver_pid, number)
        with trio.move_on_after(_STORE_SECONDS):
            while state.driver_lives():
                await trio.sleep(_POLL)


async def clear_place(place: Place) -> None:
    """Remove a stale link and stale mounts at a volume's place.

    Raises:
        MountPointBusy: something that is not ours is there, or that another agent serves.
    """
    for folder in place.folders:
        for device in agentplace.stale_devices(folder):
            await _refuse_if_served(folder, device)
        if mount.is_mounted(folder):
            log.info("%s: a dead mount of an earlier life, removed", folder)
            await trio.to_thread.run_sync(agentplace.discard, folder)
        agentplace.remove_folder(folder)
    agentplace.check_link(place)


async def _refuse_if_served(folder: Path, device: str) -> None:
    with trio.move_on_after(_PROBE_SECONDS):
        if not await trio.to_thread.run_sync(agentplace.is_served, device, abandon_on_cancel=True):
            return
        raise MountPointBusy(
            f"mount point {folder}: another agent serves it",
            hint="give the volumes of each agent a folder of their own",
        )
    raise MountPointBusy(
        f"mount point {folder}: what is mounted there does not answer",
        hint=f"unmount it by force: umount -f -l {folder}",
    )
