"""Looks at mounted volumes from outside, and takes them down by force when the code under test does not.

Nothing here asks anything of a mounted file system, which may be stuck, and nothing imports what is under
test.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from fakes import load
from fakes.commands import Commands

_STEP_TIMEOUT = 15.0


@dataclass(frozen=True, slots=True)
class State:
    """What `encfs mount` says of a volume in its state file."""

    folder: Path
    mount_point: Path
    supervisor_pid: int
    driver_pid: int
    loop: int

    @property
    def device(self) -> Path:
        """Where the driver's FUSE file system is mounted."""
        return self.folder / "device"


def states(run_directory: Path) -> list[State]:
    """Every volume mounted with that run directory."""
    found = []
    for path in run_directory.glob("*/state.json"):
        words = json.loads(path.read_text())
        numbers = [words[name] for name in ("supervisor_pid", "driver_pid", "loop")]
        found.append(State(path.parent, Path(words["mount_point"]), *numbers))
    return found


def state_of(run_directory: Path) -> State:
    """The one volume mounted with that run directory."""
    (state,) = states(run_directory)
    return state


def tear_down(run_directory: Path, folder: Path) -> None:
    """Removes every volume below two folders, stuck or not: from the driver's connection outwards.

    Args:
        run_directory: of the commands that mounted them.
        folder: holds the mount points.
    """
    for state in states(run_directory):
        _force("umount", "-f", "-l", str(state.device))  # ends the FUSE connection: whoever waits gets EIO
        for pid in (state.supervisor_pid, state.driver_pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if (loop_file(state.loop) or "").startswith(str(state.device)):
            _force("losetup", "-d", f"/dev/loop{state.loop}")
    for point in sorted(mounts_below(folder) + mounts_below(run_directory), reverse=True):
        _force("umount", "-f", "-l", str(point))


def run_or_tear_down(commands: Commands, *words: str | Path, timeout: float) -> None:
    """Runs a command that touches a volume; if it hangs, the volume goes first, so that the command can end.

    A process that waits for a stuck file system cannot be killed: `subprocess.run` would wait for ever too.
    """
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(
            [str(word) for word in words],
            cwd=commands.folder,
            env=commands.child_environment(),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )
        try:
            code = process.wait(timeout)
        except subprocess.TimeoutExpired:
            process.kill()
            tear_down(commands.folder / "run", commands.folder)
            process.wait(_STEP_TIMEOUT)
            raise AssertionError(f"{words[:4]}: hung for {timeout:.0f} s, and was torn down") from None
        output.seek(0)
        assert code == 0, f"{words[:4]}: ended with {code}: {output.read().decode(errors='replace')}"


class Clients:
    """Processes that use a volume in the background (`fakes.load`); they print what they achieve."""

    def __init__(self) -> None:
        self._started: list[subprocess.Popen[str]] = []

    def start(self, *words: str | Path, group: Sequence[str] = ()) -> subprocess.Popen[str]:
        """Starts one; returns when it printed its first line, so that it is known to be under way.

        `group`: words that put it into a cgroup.
        """
        command = [*group, sys.executable, load.__file__, *map(str, words)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        self._started.append(process)
        assert process.stdout is not None
        first = process.stdout.readline().strip()
        assert first in ("0", "read"), f"{words}: {first}"
        return process

    def end(self) -> None:
        """Ends all, after the volume is gone: before, one that hangs could not end."""
        for process in self._started:
            process.kill()
            process.communicate(timeout=_STEP_TIMEOUT)


def wait_until(done: Callable[[], bool], seconds: float, what: str) -> None:
    """Waits for something the code under test does by itself."""
    deadline = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < deadline, f"after {seconds:.0f} s still not so: {what}"
        time.sleep(0.02)


def _force(*command: str) -> None:
    environment = {"PATH": os.environ.get("PATH", "") + ":/usr/sbin:/sbin"}
    with contextlib.suppress(subprocess.TimeoutExpired):
        subprocess.run(command, env=environment, capture_output=True, timeout=_STEP_TIMEOUT, check=False)


def mounts_below(folder: Path) -> list[Path]:
    """Mount points inside a folder, in this mount namespace."""
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    points = [Path(line.split(" ")[4].encode().decode("unicode_escape")) for line in lines]
    return [point for point in points if folder in point.parents]


def loop_file(number: int) -> str | None:
    """Path of the file behind a loop device; None when it is free."""
    try:
        return Path(f"/sys/block/loop{number}/loop/backing_file").read_text().strip()
    except OSError:
        return None


def is_running(pid: int) -> bool:
    """Whether a process exists and is not just waiting to be reaped."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def checksum(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def tree_checksums(folder: Path) -> dict[str, str]:
    """Relative path -> SHA-256 of every regular file below a folder."""
    files = (path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
    return {str(path.relative_to(folder)): checksum(path) for path in files}


def make_tree(folder: Path, sizes: Mapping[str, int]) -> dict[str, str]:
    """Fills a folder with random files of these sizes in bytes; returns their checksums."""
    for name, size in sizes.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(os.urandom(size))
    return tree_checksums(folder)
