"""The plaintext device of a volume for as long as a block of code runs, and e2fsprogs on it.

Needs FUSE, but neither a loop device nor a mount: what `create`, `check` and `extract` stand on.

Kind: composition
"""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import trio

from encfs import rundir
from encfs.errors import FileSystemError, Interrupted
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
    with tempfile.TemporaryDirectory(prefix="expose-", dir=rundir.run_root()) as directory:
        session = Session(volume, Path(directory), deadline=_DEADLINE)
        interrupted: list[str] = []
        try:
            async with trio.open_nursery() as nursery:
                try:
                    await nursery.start(_obey_signals, interrupted, nursery.cancel_scope)
                    await session.start(nursery)
                    assert session.driver is not None
                    yield session.driver.data
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
    path = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
    variables = os.environ | {"PATH": path, "LC_ALL": "C"} | dict(environment or {})
    try:
        result = await trio.run_process(
            list(command),
            stdin=script,
            capture_stdout=True,
            stderr=subprocess.STDOUT,
            check=False,
            env=variables,
        )
    except FileNotFoundError as exc:
        raise FileSystemError(f"{command[0]}: not found", hint="install e2fsprogs") from exc
    return result.returncode, result.stdout[-_MAX_OUTPUT:].decode(errors="replace")
