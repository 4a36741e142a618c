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
    """What `state.json` holds."""

    image: str
    mount_point: str
    read_only: bool
    supervisor_pid: int
    driver_pid: int
    loop: int | None


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


def is_alive(pid: int) -> bool:
    """Whether a process with that number runs (a zombie does not)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
