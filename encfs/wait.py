"""`encfs wait`: until volumes can be used, from an init container or in front of an application.

A mount point is ready when the link there (or the folder itself) leads to a mounted file system whose top
folder can be listed. That is looked at from the caller's own mount namespace: a mount that is not propagated
into this container is not there for the application either, and the message says so.

Kind: composition
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

import trio

from encfs import mount
from encfs.errors import NotMounted

_POLL_SECONDS = 0.05


async def wait_for(paths: Sequence[Path], timeout: float, on_ready: Callable[[Path], None]) -> None:
    """Return when all are ready; `on_ready` is told one by one.

    Args:
        paths: mount points.
        timeout: seconds for all of them.
        on_ready: called once for each.

    Raises:
        NotMounted: the time is up; says which are missing, and what is known of them.
    """
    missing = dict.fromkeys(paths, "")
    with trio.move_on_after(timeout):
        async with trio.open_nursery() as nursery:
            for path in list(missing):
                nursery.start_soon(_wait_for_one, path, missing, on_ready)
    if missing:
        raise NotMounted(
            "; ".join(f"mount point {path}: {why} after {timeout:g} s" for path, why in missing.items()),
            hint="the agent's log and its result file say why; a container that waits for mounts of another"
            " one needs mountPropagation: HostToContainer",
        )


async def _wait_for_one(path: Path, missing: dict[Path, str], on_ready: Callable[[Path], None]) -> None:
    while True:
        # A stuck file system must not keep us from ending in time.
        missing[path] = why = await trio.to_thread.run_sync(obstacle, path, abandon_on_cancel=True)
        if not why:
            del missing[path]
            on_ready(path)
            return
        await trio.sleep(_POLL_SECONDS)


def obstacle(path: Path) -> str:
    """Why a mount point is not ready, empty when it is; blocks as long as the file system does."""
    if not os.path.lexists(path):
        return "not there"
    target = Path(os.path.realpath(path))
    if not mount.is_mounted(target):
        return f"leads to {target}, where nothing is mounted" if path.is_symlink() else "not mounted"
    try:
        with os.scandir(target) as entries:
            next(entries, None)
    except OSError as exc:
        return f"mounted, but not readable ({exc.strerror})"
    return ""
