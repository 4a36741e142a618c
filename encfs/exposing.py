"""The plaintext device of a volume for as long as a block of code runs, and e2fsprogs on it.

Needs FUSE, but neither a loop device nor a mount: what `create`, `check` and `extract` stand on.

Kind: composition
"""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import trio

from encfs import rundir
from encfs.errors import FileSystemError
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
        try:
            async with trio.open_nursery() as nursery:
                try:
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
    if session.failure is not None:
        raise session.failure


async def run_tool(*command: str, script: bytes = b"") -> tuple[int, str]:
    """Run a program of e2fsprogs, found in the system folders too; its exit code and all it printed.

    Args:
        command: program and arguments.
        script: what it reads from standard input.

    Raises:
        FileSystemError: the program is not installed.
    """
    environment = os.environ | {"PATH": os.environ.get("PATH", "") + ":/usr/sbin:/sbin", "LC_ALL": "C"}
    try:
        result = await trio.run_process(
            list(command),
            stdin=script,
            capture_stdout=True,
            stderr=subprocess.STDOUT,
            check=False,
            env=environment,
        )
    except FileNotFoundError as exc:
        raise FileSystemError(f"{command[0]}: not found", hint="install e2fsprogs") from exc
    return result.returncode, result.stdout[-_MAX_OUTPUT:].decode(errors="replace")
