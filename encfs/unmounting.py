"""`encfs unmount`: ask the supervisor, or do its work where it is dead.

Kind: composition
"""

from __future__ import annotations

import shutil
from pathlib import Path

import trio

from encfs import mount, rundir, supervisor
from encfs.errors import EncfsError, ExitCode, NotMounted

_EXIT_SECONDS = 10


async def unmount(mount_point: Path) -> None:
    """Unmount the volume at `mount_point`; returns when everything is in the image.

    Raises:
        NotMounted: nothing of ours is there.
        MountPointBusy: files are open there.
        EncfsError: what could not be stored, with the supervisor's exit code.
    """
    folder = rundir.folder_of(mount_point)
    state = rundir.read_state(folder)
    if state is None:
        log = rundir.log_of(mount_point)
        if log.exists():
            raise NotMounted(
                f"mount point {mount_point}: the volume that was mounted there failed",
                hint=f"its log is {log}",
            )
        raise NotMounted(f"mount point {mount_point}: no volume of ours is mounted there", hint=_others())
    if rundir.is_alive(state.supervisor_pid):
        reply = await supervisor.ask(folder, "unmount")
        if reply is not None and not reply.get("ok"):
            raise _as_error(reply)
        if reply is not None:
            await _gone(state.supervisor_pid)
            return
    try:
        await trio.to_thread.run_sync(lambda: supervisor.unmount_orphan(folder / "device", state))
    finally:
        if not mount.is_mounted(mount_point):
            shutil.rmtree(folder, ignore_errors=True)


async def _gone(pid: int) -> None:
    """Wait until the supervisor let go of the image."""
    with trio.move_on_after(_EXIT_SECONDS):
        while rundir.is_alive(pid):
            await trio.sleep(0.01)


def _as_error(reply: dict[str, object]) -> EncfsError:
    error = EncfsError(
        str(reply.get("error", "the supervisor gave no reason")), hint=str(reply.get("hint", ""))
    )
    code = reply.get("exit_code")
    error.exit_code = ExitCode(code) if isinstance(code, int) and code in list(ExitCode) else ExitCode.MOUNT
    return error


def _others() -> str:
    mounted = [state.mount_point for state in rundir.all_states()]
    return "mounted now: " + ", ".join(mounted) if mounted else "no volume is mounted now"
