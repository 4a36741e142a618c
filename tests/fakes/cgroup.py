"""A cgroup with a memory limit, under the v1 or the v2 memory controller, whichever the machine mounts."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_V1 = Path("/sys/fs/cgroup/memory")
_V2 = Path("/sys/fs/cgroup")
_EMPTY_SECONDS = 20.0


class NoMemoryController(Exception):
    """This machine lets us make no cgroup with a memory limit; the message says why."""


@dataclass(frozen=True, slots=True)
class MemoryGroup:
    """One group; made by `memory_group`.

    Attributes:
        folder: of the group in the cgroup file system.
        unified: True under v2.
    """

    folder: Path
    unified: bool

    def words(self) -> list[str]:
        """Words that, put before a command, make it and its children members of the group."""
        return ["sh", "-c", 'echo $$ >"$0" && exec "$@"', str(self.folder / "cgroup.procs")]

    def members(self) -> list[int]:
        return [int(line) for line in (self.folder / "cgroup.procs").read_text().split()]

    def peak(self) -> int:
        """Most bytes the group ever held, page cache included."""
        name = "memory.peak" if self.unified else "memory.max_usage_in_bytes"
        return int((self.folder / name).read_text())

    def times_killed(self) -> int:
        """How often the kernel killed a member for want of memory."""
        name = "memory.events" if self.unified else "memory.oom_control"
        words = (line.split() for line in (self.folder / name).read_text().splitlines())
        return {key: int(value) for key, value in words}["oom_kill"]


def _set_limit(group: MemoryGroup, limit: int) -> None:
    name = "memory.max" if group.unified else "memory.limit_in_bytes"
    (group.folder / name).write_text(str(limit))
    if group.unified:  # v1 counts swap apart; nothing to do where there is none
        with contextlib.suppress(OSError):
            (group.folder / "memory.swap.max").write_text("0")


def _parent() -> tuple[Path, bool]:
    """Where groups can be made, and whether that is v2."""
    if (_V1 / "memory.limit_in_bytes").exists():
        return _V1, False
    if "memory" not in _words(_V2 / "cgroup.controllers"):
        raise NoMemoryController(f"no memory controller at {_V1} or {_V2}")
    if "memory" not in _words(_V2 / "cgroup.subtree_control"):
        try:
            (_V2 / "cgroup.subtree_control").write_text("+memory")
        except OSError as exc:
            raise NoMemoryController(f"{_V2}: handing on the memory controller: {exc.strerror}") from exc
    return _V2, True


def _words(path: Path) -> list[str]:
    return path.read_text().split() if path.exists() else []


@contextlib.contextmanager
def memory_group(limit: int) -> Iterator[MemoryGroup]:
    """A group that may hold `limit` bytes; at the end its members are killed and it is removed.

    Raises:
        NoMemoryController: no group can be made here.
    """
    parent, unified = _parent()
    group = MemoryGroup(parent / f"encfs-test-{os.getpid()}", unified)
    try:
        group.folder.mkdir()
    except OSError as exc:
        raise NoMemoryController(f"{group.folder}: {exc.strerror}") from exc
    try:
        _set_limit(group, limit)
        yield group
    finally:
        _empty(group)
        group.folder.rmdir()


def _empty(group: MemoryGroup) -> None:
    deadline = time.monotonic() + _EMPTY_SECONDS
    while (members := group.members()) and time.monotonic() < deadline:
        for pid in members:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.05)
