"""The plaintext device of a volume for as long as a block of code runs, and e2fsprogs on it.

Needs FUSE, but neither a loop device nor a mount: what `create`, `check` and `extract` stand on.

Each use has a folder `expose-*` in the run directory with a locked file in it. A folder whose lock is free
belongs to a command that was killed: the next use takes its FUSE mount away and removes it.

Kind: composition
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import trio

from encfs import mount, rundir
from encfs.errors import FileSystemError, Interrupted, MountError, StoreError
from encfs.session import Session, Volume

_DEADLINE = 120.0
_MAX_OUTPUT = 1 << 20


@asynccontextmanager
async def exposed(volume: Volume) -> AsyncIterator[Path]:
    """Serve the volume's plaintext as a file; leaving stores everything and ends the driver.

    Yields:
        Path of the file on FUSE.

    Raises:
        DriverFailed: the driver died or was cut off.
        StoreError: not everything could be stored.
    """
    async with serving(replace(volume, for_tools=True)) as session:
        assert session.driver is not None
        with _all_stored(session.driver.data, volume):
            yield session.driver.data


@asynccontextmanager
async def serving(volume: Volume) -> AsyncIterator[Session]:
    """Run the volume's driver; leaving stores everything, unmounts what was mounted, and ends the driver.

    Yields:
        A started session; its directory lies in a folder where `mnt` may be made as a mount point.

    Raises:
        DriverFailed: the driver died or was cut off.
        StoreError: not everything could be stored.
    """
    with _folder() as directory:
        session = Session(volume, directory, deadline=_DEADLINE)
        interrupted: list[str] = []
        try:
            async with trio.open_nursery() as nursery:
                try:
                    await nursery.start(_obey_signals, interrupted, nursery.cancel_scope)
                    await session.start(nursery)
                    yield session
                    await session.unmount()
                finally:
                    await session.clean_up()
                    nursery.cancel_scope.cancel()
        except BaseExceptionGroup as group:
            if len(group.exceptions) == 1:
                raise group.exceptions[0] from None
            raise
    if interrupted:
        raise Interrupted(f"image {volume.name}: interrupted by {interrupted[0]}")
    if session.failure is not None:
        raise session.failure


@contextlib.contextmanager
def _folder() -> Iterator[Path]:
    """An empty folder of ours to mount FUSE at, and none left of commands that were killed."""
    root = rundir.run_root()
    for left in root.glob("expose-*"):
        _remove_if_dead(left)
    folder = Path(tempfile.mkdtemp(prefix="expose-", dir=root))
    # A clean-up that runs between the two calls may take the folder for a dead one; then this fails, once.
    lock = os.open(folder / "owner", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        device = folder / "device"
        device.mkdir()
        yield device
    finally:
        os.close(lock)
        shutil.rmtree(folder, ignore_errors=True)


def _remove_if_dead(folder: Path) -> None:
    with contextlib.suppress(OSError, MountError):
        lock = os.open(folder / "owner", os.O_RDWR | os.O_CLOEXEC)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            for name in ("mnt", "device"):
                if mount.is_mounted(folder / name):
                    mount.unmount(folder / name, lazy=True)
            shutil.rmtree(folder, ignore_errors=True)
        finally:
            os.close(lock)


@contextlib.contextmanager
def _all_stored(data: Path, volume: Volume) -> Iterator[None]:
    """The tools' writes are in the image when the block ends.

    The kernel writes cached pages back later, and the tool that wrote them may have ended by then or not ask;
    a descriptor that was open all the time is told of every failure.

    Raises:
        StoreError: not everything could be written.
    """
    if volume.read_only:
        yield
        return
    fd = os.open(data, os.O_RDWR | os.O_CLOEXEC)
    try:
        yield
        try:
            os.fsync(fd)
        except OSError as exc:
            raise StoreError(f"image {volume.name}: not everything could be written: {exc.strerror}") from exc
    finally:
        os.close(fd)


async def _obey_signals(
    interrupted: list[str],
    scope: trio.CancelScope,
    *,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """SIGTERM and SIGINT stop the work; what was set up is taken down on the way out."""
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        task_status.started()
        async for number in signals:
            interrupted.append(signal.Signals(number).name)
            scope.cancel()


def why_full(reason: str) -> str:
    """The hint for a tool that could not write."""
    if os.strerror(errno.EIO) in reason:
        return "the image could not be written: see the log lines above"
    return "if the content does not fit, give a larger --size, or none to have it computed"


def tool_environment() -> dict[str, str]:
    """Our environment, with the system folders in its path and messages in English."""
    return os.environ | {"PATH": os.environ.get("PATH", "") + ":/usr/sbin:/sbin", "LC_ALL": "C"}


async def run_tool(
    *command: str, script: bytes = b"", environment: Mapping[str, str] | None = None
) -> tuple[int, str]:
    """Run a program of e2fsprogs, found in the system folders too; its exit code and all it printed.

    Args:
        command: program and arguments.
        script: what it reads from standard input.
        environment: variables besides ours.

    Raises:
        FileSystemError: the program is not installed.
    """
    try:
        result = await trio.run_process(
            list(command),
            stdin=script,
            capture_stdout=True,
            stderr=subprocess.STDOUT,
            check=False,
            env=tool_environment() | dict(environment or {}),
        )
    except FileNotFoundError as exc:
        raise FileSystemError(f"{command[0]}: not found", hint="install e2fsprogs") from exc
    return result.returncode, result.stdout[-_MAX_OUTPUT:].decode(errors="replace")
