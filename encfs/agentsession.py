"""What an agent does with a session that `encfs mount` does not: hold a dead mount, end within a deadline.

Kind: composition
"""

from __future__ import annotations

import logging
from pathlib import Path

import trio

from encfs import mount
from encfs.errors import EncfsError, MountError, MountPointBusy
from encfs.filesystem import KernelFileSystem
from encfs.health import LEASES
from encfs.session import Session

log = logging.getLogger(__name__)

_SHUT_DOWN_SECONDS = 5.0
_BUSY_POLL = 0.2
# Of the time for draining: how long open files are waited for before they are cut off.
_PATIENCE = 0.6


class HeldFileSystem(KernelFileSystem):
    """ext4 of the kernel that stays mounted, answering EIO, when its device is dead."""

    async def force_away(self) -> None:
        """Shut it down; whoever made it unmounts it."""
        if (mount_point := self._mount_point) is None:
            return
        with trio.move_on_after(_SHUT_DOWN_SECONDS):
            try:
                await trio.to_thread.run_sync(
                    lambda: mount.shut_down_file_system(mount_point, flush=False), abandon_on_cancel=True
                )
            except MountError as exc:
                log.warning("%s", exc)


def is_settled(session: Session) -> bool:
    """Whether a new life would lose nothing and could write: all is stored, and the lease is not lost."""
    if session.driver is None:
        return False
    reading = session.driver.pulse.read()
    return not reading.dirty and LEASES[reading.lease] != "lost"


async def drain(session: Session, shown: Path, by: float) -> None:
    """Store everything and unmount before `by`; files that are still open then are cut off.

    Open files are waited for during a part of the time. Then everything is stored and nobody may write any
    more, and the volume is unmounted although it is in use. At the deadline itself the connection is ended.

    Args:
        session: mounted.
        shown: where.
        by: of `trio.current_time`.

    Raises:
        EncfsError: not everything could be stored. At the deadline, `session.failure` says it instead.
    """
    patient_until = trio.current_time() + _PATIENCE * max(0.0, by - trio.current_time())
    error: EncfsError | None = None
    with trio.CancelScope(shield=True):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_enforce, session, by, nursery.cancel_scope)
            try:
                if not await _unmount(session, patient_until):
                    await _detach(session, shown)
            except EncfsError as exc:
                error = exc
            nursery.cancel_scope.cancel()
    if error is not None:
        raise error


async def _unmount(session: Session, until: float) -> bool:
    """Unmount as soon as nobody has files open; False when that does not come true in time."""
    said = False
    with trio.move_on_at(until):
        while True:
            try:
                await session.unmount()
                return True
            except MountPointBusy as exc:
                if not said:
                    log.warning("%s; waiting for it", exc)
                    said = True
            await trio.sleep(_BUSY_POLL)
    return False


async def _detach(session: Session, shown: Path) -> None:
    if mount.is_mounted(shown):
        await trio.to_thread.run_sync(lambda: mount.shut_down_file_system(shown, flush=True))
        await trio.to_thread.run_sync(lambda: mount.unmount(shown, lazy=True))
    await session.let_go()
    log.warning("everything is stored; files were still open, their users get EIO from now on")


async def _enforce(session: Session, by: float, scope: trio.CancelScope) -> None:
    """End the draining: system calls by ending the connection, everything else by cancelling it."""
    await trio.sleep_until(by)
    session.give_up("not everything could be stored before the deadline of the end")
    scope.cancel()
