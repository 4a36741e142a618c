"""The supervisor of one mounted volume: set up, say ready, serve the control socket, tear down.

Control protocol: a Unix stream socket, one JSON object a line each way. Requests: `{"op": "unmount"}` and
`{"op": "status"}`. The answer to `unmount` comes when the data is stored: `{"ok": true}`, or
`{"ok": false, "error": ..., "hint": ..., "exit_code": ...}`.

Kind: composition
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import trio

from encfs import mount, residency, rundir
from encfs.errors import EncfsError, ExitCode, Interrupted, MountError, MountPointBusy, ReadOnlyDevice
from encfs.filesystem import FileSystem, Fuse2fs, KernelFileSystem
from encfs.session import Phase, Session, Volume

log = logging.getLogger(__name__)

_MAX_LINE = 4096
_ORPHAN_SECONDS = 30
# What a supervisor needs while it serves: a log line, an answer on the control socket, the unmount.
_HEAP = 4 << 20
_OBJECTS = 2 << 20


async def run_mount(
    volume: Volume,
    mount_point: Path,
    *,
    via: Literal["kernel", "fuse2fs"],
    deadline: float,
    on_ready: Callable[[], None],
) -> None:
    """Serve `volume` at `mount_point` until it is unmounted or a signal asks for the end.

    Raises:
        EncfsError: set-up failed (nothing is left behind), or the volume failed while mounted.
    """
    folder = rundir.folder_of(mount_point)
    clear_stale(folder)
    device_directory = folder / "device"
    device_directory.mkdir(mode=0o700, parents=True)
    session = Session(volume, device_directory, deadline=deadline)
    try:
        async with trio.open_nursery() as nursery:
            try:
                with trio.CancelScope() as set_up:
                    await nursery.start(_obey_signals, session, set_up)
                    await session.start(nursery)
                    await session.mount(_file_system(volume, via), mount_point)
                    _write_state(folder, session, mount_point)
                    await nursery.start(_serve_control, session, folder / "control")
                    session.serving = True
                    on_ready()
                if set_up.cancelled_caught:
                    raise Interrupted(f"mount point {mount_point}: interrupted before it was mounted")
                for refused in residency.hold(heap=_HEAP, objects=_OBJECTS):
                    log.info("supervisor: %s", refused)
                await session.ended.wait()
            finally:
                await session.clean_up()
                nursery.cancel_scope.cancel()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    if session.failure is not None:
        raise session.failure


async def run_expose(
    volume: Volume, directory: Path, *, deadline: float, on_ready: Callable[[], None]
) -> None:
    """Serve only the FUSE layer: `directory/data` is the plaintext device, until a signal or an unmount."""
    session = Session(volume, directory, deadline=deadline)
    async with trio.open_nursery() as nursery:
        try:
            with trio.CancelScope() as set_up:
                await nursery.start(_obey_signals, session, set_up)
                await session.start(nursery)
                session.serving = True
                on_ready()
            if set_up.cancelled_caught:
                raise Interrupted(f"directory {directory}: interrupted before it was served")
            await session.ended.wait()
        finally:
            await session.clean_up()
            nursery.cancel_scope.cancel()
    if session.failure is not None:
        raise session.failure


def clear_stale(folder: Path) -> None:
    """Take down what a supervisor that no longer runs left behind, storing what can be stored.

    Raises:
        MountPointBusy: the supervisor runs, or files are open in what it left.
    """
    if not folder.exists():
        return
    state = rundir.read_state(folder)
    if state is not None and rundir.is_alive(state.supervisor_pid):
        raise MountPointBusy(
            f"mount point {state.mount_point}: mounted by process {state.supervisor_pid}",
            hint="unmount it first: encfs unmount " + state.mount_point,
        )
    device = folder / "device"
    if state is not None:
        log.info("mount point %s: its supervisor is gone, unmounting what it left", state.mount_point)
        unmount_orphan(device, state)
    elif mount.is_mounted(device):
        mount.unmount(device, force=True, lazy=True)
    shutil.rmtree(folder, ignore_errors=True)


def unmount_orphan(device: Path, state: rundir.State) -> None:
    """Unmount a volume whose supervisor is dead; its driver may live on and then stores everything.

    Raises:
        MountPointBusy: files are open there.
        MountError: something could not be stored; it stays mounted, and the next call leaves it at that.
        ReadOnlyDevice: unmounted, but not everything is stored.
    """
    mount_point = Path(state.mount_point)
    driver_lives = rundir.is_alive(state.driver_pid)
    lost: ReadOnlyDevice | None = None
    if mount.is_mounted(mount_point):
        if driver_lives:
            lost = _sync_orphan(mount_point, device.parent / "told")
        mount.unmount(mount_point, lazy=not driver_lives)
    if (loop := state.loop) is not None:
        _wait_until(lambda: not (mount.loop_backing_file(loop) or "").startswith(str(device)))
    if mount.is_mounted(device):
        mount.unmount(device, force=not driver_lives, lazy=not driver_lives)
    _wait_until(lambda: not rundir.is_alive(state.driver_pid))
    if lost is not None:
        raise lost


def _sync_orphan(mount_point: Path, told: Path) -> ReadOnlyDevice | None:
    """Store everything; returns what is to be said after unmounting, `told` marks what was said before."""
    try:
        mount.sync_file_system(mount_point)
    except ReadOnlyDevice as exc:
        return exc
    except MountError as exc:
        if not told.exists():
            told.touch()
            raise
        return ReadOnlyDevice(str(exc), hint=mount.UNSTORED_HINT)
    return None


def _wait_until(done: Callable[[], bool]) -> None:
    deadline = time.monotonic() + _ORPHAN_SECONDS
    while not done() and time.monotonic() < deadline:
        time.sleep(0.02)


def _file_system(volume: Volume, via: Literal["kernel", "fuse2fs"]) -> FileSystem:
    if via == "fuse2fs":
        return Fuse2fs(read_only=volume.read_only)
    return KernelFileSystem(sector_size=volume.segment.sector_size, read_only=volume.read_only)


def _write_state(folder: Path, session: Session, mount_point: Path) -> None:
    assert session.driver is not None
    assert session.file_system is not None
    state = rundir.State(
        image=session.volume.name,
        mount_point=str(mount_point),
        read_only=session.volume.read_only,
        supervisor_pid=os.getpid(),
        driver_pid=session.driver.pid,
        loop=session.file_system.loop,
    )
    rundir.write_state(folder, state)


async def _obey_signals(
    session: Session,
    set_up: trio.CancelScope,
    *,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """SIGTERM, SIGINT: give up the set-up, or unmount.

    A mount that is busy, or cannot store everything, is reported and tried again at the next signal.
    """
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        task_status.started()
        async for number in signals:
            if not session.serving:
                set_up.cancel()
                return
            log.info("%s: unmounting", signal.Signals(number).name)
            try:
                await session.unmount()
                return
            except MountError as exc:
                if session.ended.is_set():
                    return
                log.warning("%s; still mounted", exc)
            except EncfsError:
                return  # the session has failed and says so itself


async def _serve_control(
    session: Session, path: Path, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
) -> None:
    listener = trio.socket.socket(trio.socket.AF_UNIX, trio.socket.SOCK_STREAM)
    with listener:
        await listener.bind(str(path))
        path.chmod(0o600)
        listener.listen(8)
        task_status.started()
        async with trio.open_nursery() as nursery:
            while True:
                connection, _ = await listener.accept()
                nursery.start_soon(_answer, session, trio.SocketStream(connection))


async def _answer(session: Session, stream: trio.SocketStream) -> None:
    async with stream:
        try:
            line = await stream.receive_some(_MAX_LINE)
            request = json.loads(line)
            operation = request.get("op") if isinstance(request, dict) else None
        except (ValueError, trio.BrokenResourceError):
            return
        with trio.CancelScope(shield=True):  # the answer to `unmount` must get out before we end
            reply = await _perform(session, operation)
            try:
                await stream.send_all(json.dumps(reply).encode() + b"\n")
            except trio.BrokenResourceError:
                log.info("control: the caller went away before its answer")
            if session.phase in (Phase.CLOSED, Phase.FAILED):
                session.ended.set()


async def _perform(session: Session, operation: object) -> dict[str, object]:
    if operation == "status":
        return {"ok": True, "phase": session.phase.value}
    if operation == "unmount":
        try:
            await session.unmount()
        except EncfsError as exc:
            return {"ok": False, "error": str(exc), "hint": exc.hint, "exit_code": int(exc.exit_code)}
        return {"ok": True}
    return {
        "ok": False,
        "error": f"unknown operation {operation!r}",
        "hint": "",
        "exit_code": int(ExitCode.USAGE),
    }


async def ask(folder: Path, operation: str) -> dict[str, object] | None:
    """Send one request to the supervisor that owns `folder`; None when nobody answers."""
    try:
        stream = await trio.open_unix_socket(str(folder / "control"))
    except OSError:
        return None
    async with stream:
        await stream.send_all(json.dumps({"op": operation}).encode() + b"\n")
        data = b""
        while part := await stream.receive_some(_MAX_LINE):
            data += part
    try:
        reply = json.loads(data)
    except ValueError:
        return None
    return reply if isinstance(reply, dict) else None
