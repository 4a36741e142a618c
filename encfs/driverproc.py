"""Starts a driver process, hands it its order, waits for it to be ready, and ends it.

Kind: adapter
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import subprocess
import sys
from pathlib import Path

import trio

from encfs.errors import DriverFailed, EncfsError, ExitCode
from encfs.health import Pulse
from encfs.keys import Secret
from encfs.volume import BlobOrder, DriverOrder, SegmentGeometry, VerityOrder, build_frame

log = logging.getLogger(__name__)

_START_SECONDS = 30
_MAX_LINE = 4096
# What a driver needs of our environment.
_KEEP = ("PATH", "HOME", "LANG", "LC_ALL", "TZ", "LD_LIBRARY_PATH")
_EXTRA = {"PYTHONUNBUFFERED": "1"}


class DriverProcess:
    """A running driver: its process, its pulse, and the directory where `data` is."""

    def __init__(self, process: trio.Process, pulse: Pulse, directory: Path) -> None:
        self.process = process
        self.pulse = pulse
        self.directory = directory

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def data(self) -> Path:
        """The plaintext block device, a file on FUSE."""
        return self.directory / "data"

    async def wait(self) -> int:
        """Exit code; 0 means that everything accepted is in the image."""
        return await self.process.wait()

    def kill(self) -> None:
        """SIGKILL, also for a stopped process."""
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(signal.SIGKILL)


async def start_driver(
    image: int | BlobOrder,
    name: str,
    segment: SegmentGeometry,
    volume_key: Secret,
    directory: Path,
    *,
    read_only: bool,
    for_tools: bool,
    verity: VerityOrder | None,
    nursery: trio.Nursery,
) -> DriverProcess:
    """Start a driver that serves `directory/data`, and wait until it does.

    Args:
        image: descriptor of the open image, inherited, so both look at the same file; or a blob.
        name: of the image, for messages.
        segment: geometry from the checked header.
        volume_key: secret; travels over the pipe that is the driver's standard input.
        directory: empty directory to mount FUSE at.
        read_only: serve reads only.
        for_tools: see `DriverOrder`.
        verity: hash tree to verify the image with.
        nursery: runs the task that passes the driver's log lines on to ours.

    Raises:
        DriverFailed: it ended or said nothing within 30 s.
        EncfsError: what the driver reported, with its exit code.
    """
    pulse = Pulse.create()
    fd, blob = (image, None) if isinstance(image, int) else (None, image)
    order = DriverOrder(fd, pulse.fd, str(directory), name, segment, read_only, for_tools, blob, verity)
    environment = {key: os.environ[key] for key in _KEEP if key in os.environ} | _EXTRA
    process = await trio.lowlevel.open_process(
        [sys.executable, "-P", "-s", "-m", "encfs.driver"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        pass_fds=(pulse.fd,) if fd is None else (fd, pulse.fd),
        env=environment,
        cwd="/",
        start_new_session=True,
    )
    driver = DriverProcess(process, pulse, directory)
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stderr is not None
    nursery.start_soon(_relay_log, process.stderr)
    try:
        with trio.fail_after(_START_SECONDS):
            await process.stdin.send_all(build_frame(order, volume_key))  # stays open: its end is ours
            line = await _first_line(process.stdout)
        if line != "ready":
            raise _failure(line, await driver.wait() if not line else None)
    except trio.TooSlowError:
        driver.kill()
        raise DriverFailed(f"driver of {name}: not ready after {_START_SECONDS} s") from None
    except trio.BrokenResourceError:
        raise DriverFailed(f"driver of {name}: ended before it read its order") from None
    except BaseException:
        driver.kill()
        raise
    return driver


async def _relay_log(stream: trio.abc.ReceiveStream) -> None:
    """Log the driver's lines as our own; a line is `LEVEL text`. Ends with the driver."""
    buffer = b""
    while part := await stream.receive_some(_MAX_LINE):
        *lines, buffer = (buffer + part).split(b"\n")
        for line in lines:
            level, _, text = line.decode(errors="replace").partition(" ")
            log.log(logging.getLevelNamesMapping().get(level, logging.INFO), "driver: %s", text)
        buffer = buffer[-_MAX_LINE:]


async def _first_line(stream: trio.abc.ReceiveStream) -> str:
    data = b""
    while b"\n" not in data and len(data) < _MAX_LINE:
        part = await stream.receive_some(_MAX_LINE)
        if not part:
            break
        data += part
    return data.partition(b"\n")[0].decode(errors="replace")


def _failure(line: str, code: int | None) -> EncfsError:
    word, _, rest = line.partition(" ")
    number, _, message = rest.partition(" ")
    if word == "failed" and number.isdigit():
        error = EncfsError(message)
        error.exit_code = ExitCode(int(number))
        return error
    return DriverFailed(
        f"driver: ended with exit code {code} before it was ready", hint="see its log lines above"
    )
