"""The run directory: one folder a mounted volume, found by its mount point.

    RUN/<id>/state.json     what is mounted, by whom (0600, no secret)
    RUN/<id>/control        Unix socket of the supervisor
    RUN/<id>/device/data    the plaintext block device (FUSE)
    RUN/<id>.log            what supervisor and driver log in the background; stays after a failure

RUN is `$ENCFS_RUN_DIR`, else `/run/encfs` for root, else `$XDG_RUNTIME_DIR/encfs`. `id` is a hash of the
mount point's real path, so every command finds the folder without a search.

Kind: adapter
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

from encfs.errors import MountError

_MAX_STATE = 64 << 10


@dataclass(frozen=True, slots=True)
class State:
    """What `state.json` holds; `..._started` as from `started_at`, 0 when not known."""

    image: str
    mount_point: str
    read_only: bool
    supervisor_pid: int
    driver_pid: int
    loop: int | None
    supervisor_started: int = 0
    driver_started: int = 0

    def supervisor_lives(self) -> bool:
        """Whether the process that served the volume still runs."""
        return is_alive(self.supervisor_pid, self.supervisor_started)

    def driver_lives(self) -> bool:
        """Whether its driver still runs."""
        return is_alive(self.driver_pid, self.driver_started)


def run_root() -> Path:
    """The run directory, made if missing, mode 0700."""
    if configured := os.environ.get("ENCFS_RUN_DIR"):
        path = Path(configured)
    elif os.geteuid() == 0:
        path = Path("/run/encfs")
    else:
        path = Path(os.environ.get("XDG_RUNTIME_DIR") or tempfile.gettempdir()) / f"encfs-{os.geteuid()}"
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as exc:
        raise MountError(
            f"run directory {path}: {exc.strerror}", hint="set ENCFS_RUN_DIR to another one"
        ) from exc
    owner = path.stat().st_uid
    if owner != os.geteuid():
        raise MountError(f"run directory {path}: belongs to user {owner}, wanted {os.geteuid()}")
    return path


def folder_of(mount_point: Path) -> Path:
    """The folder of the volume at `mount_point`; need not exist."""
    digest = hashlib.sha256(os.fsencode(os.path.realpath(mount_point))).hexdigest()
    return run_root() / digest[:16]


def log_of(mount_point: Path) -> Path:
    """The log of the volume at `mount_point`; need not exist."""
    return folder_of(mount_point).with_suffix(".log")


def write_state(folder: Path, state: State) -> None:
    """Write `state.json` in one step."""
    partial = folder / "state.json.partial"
    partial.write_text(json.dumps(asdict(state), indent=1))
    partial.replace(folder / "state.json")


def read_state(folder: Path) -> State | None:
    """The volume's state, None when there is none or it is damaged."""
    try:
        with (folder / "state.json").open("rb") as file:
            return State(**json.loads(file.read(_MAX_STATE)))
    except (OSError, ValueError, TypeError):
        return None


def all_states() -> list[State]:
    """States of every volume this user has mounted, dead ones included."""
    found = (read_state(folder) for folder in sorted(run_root().iterdir()) if folder.is_dir())
    return [state for state in found if state is not None]


def is_alive(pid: int, started: int = 0) -> bool:
    """Whether a process with that number runs (a zombie does not).

    Args:
        pid: its number, which a later process may have again.
        started: from `started_at` while it ran, so that a later process is not taken for it; 0 to accept any.
    """
    fields = _stat(pid)
    return bool(fields) and fields[0] != "Z" and (not started or int(fields[19]) == started)


def started_at(pid: int) -> int:
    """When a process started, in clock ticks since the machine did; 0 when it does not run."""
    fields = _stat(pid)
    return int(fields[19]) if fields else 0


def _stat(pid: int) -> list[str]:
    """Fields of proc_pid_stat(5) from the third on, after the name in parentheses."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []
