"""One volume of an agent: mounted, kept mounted, drained.

    WAITING -> STARTING -> MOUNTED -> DRAINING -> CLOSED
                  \\          |  ^         \\-> FAILED   not everything could be stored
                   \\         v  |
                    \\-> FAILED  BROKEN                 dead driver; a new life is tried after a pause

A *life* is one session: image opened, driver, mount, link. When a driver dies, its file system is shut down
and stays mounted: applications get EIO from it, and nothing they write can end up in an ordinary folder. The
next life is mounted in the volume's other folder, the link is exchanged, and only then the dead one goes.

Kind: composition
"""

from __future__ import annotations

import logging
import os
import shutil
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import trio

from encfs import agentplace, mount, rundir
from encfs.agentlog import current_volume
from encfs.agentplace import Place
from encfs.agentsession import HeldFileSystem, drain, is_settled
from encfs.anchoring import AnchorStore, FileAnchor
from encfs.azure import VaultAnchor
from encfs.blobs import BlobAccess
from encfs.errors import EncfsError, ImageBusy, MountError, first_error
from encfs.keys import Secret
from encfs.opening import UnlockOptions, check_before_key, open_volume
from encfs.session import Phase, Session, Volume
from encfs.settings import VolumeSettings

log = logging.getLogger(__name__)

_FIRST_PAUSE, _LONGEST_PAUSE = 0.2, 30.0
_LEASE_POLL = 2.0
_WRITING_POLL = 1.0

Passphrase = Callable[[], Awaitable[Secret]]


class State(StrEnum):
    WAITING = "waiting"
    STARTING = "starting"
    MOUNTED = "mounted"
    BROKEN = "broken"
    DRAINING = "draining"
    CLOSED = "closed"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Limits:
    """Seconds after which a silent driver is cut off, and how long another's lease is waited for."""

    deadline: float
    lease_wait: float


class AgentVolume:
    """One volume.

    Args:
        settings: which.
        folder: run directory of the volume.
        passphrase: releases its key.
        limits: of time.
    """

    def __init__(
        self, settings: VolumeSettings, folder: Path, passphrase: Passphrase, limits: Limits
    ) -> None:
        self.settings = settings
        self.state = State.WAITING
        self.error: EncfsError | None = None
        self.restarts = 0
        self.since = time.time()  # when `state` was entered
        self.broken_since = 0.0  # when it was last mounted, while it is not
        self.session: Session | None = None
        self.shown: Path | None = None  # where the file system is mounted now
        self._place: Place | None = None
        self._folder = folder
        self._ask_passphrase = passphrase
        self._passphrase: Secret | None = None
        self._limits = limits
        self._held: list[Path] = []
        self._set_up = trio.CancelScope()
        self._drain_by: float | None = None
        self._drain = trio.Event()
        self.ended = trio.Event()

    @property
    def index(self) -> int:
        return self.settings.index

    @property
    def place(self) -> Place:
        """Where it is shown; makes the folder that the mount point is in."""
        if self._place is None:
            self._place = Place.of(self.settings.mount_point, self.index)
        return self._place

    def _enter(self, state: State) -> None:
        self.state, self.since = state, time.time()

    # -- lives ----------------------------------------------------------------------------------

    async def serve(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Mount, say so, and keep mounted until `drain` is called.

        Raises:
            EncfsError: the first mount failed; nothing is left behind. Later failures are in `error`.
        """
        current_volume.set(self.index)
        self._enter(State.STARTING)
        log.info("%s: opening, for %s", self.settings.name, self.settings.mount_point)
        try:
            await self._live(task_status.started)
            await self._keep_alive()
        except BaseException:
            self._enter(State.FAILED)
            raise
        finally:
            if self.state is State.BROKEN:
                self._enter(State.FAILED)
            with trio.CancelScope(shield=True):
                await trio.to_thread.run_sync(self._leave_nothing)
            self.ended.set()

    async def _keep_alive(self) -> None:
        pause = _FIRST_PAUSE
        while not self._drain.is_set():
            lived_from = trio.current_time()
            with trio.move_on_after(pause):
                await self._drain.wait()
                return
            try:
                with trio.CancelScope() as self._set_up:
                    await self._live(self._recovered)
            except (EncfsError, OSError, BaseExceptionGroup) as exc:
                self.error = our_error(exc)
                log.error("%s; trying again", self.error)
            lived = trio.current_time() - lived_from
            pause = _FIRST_PAUSE if lived > _LONGEST_PAUSE else min(2 * pause, _LONGEST_PAUSE)

    def _recovered(self) -> None:
        self.restarts += 1
        log.warning("mounted again, restart %d", self.restarts)

    async def _live(self, on_ready: Callable[[], None]) -> None:
        """One life, from opening the image until the session ended."""
        if self._passphrase is None:
            await check_before_key(self._image(), self._unlock_options())
            self._passphrase = await self._ask_passphrase()
        shown = next(folder for folder in self.place.folders if folder not in self._held)
        agentplace.make_folder(shown)
        volume = await self._open(self._passphrase)
        device = self._folder / "device"
        device.mkdir(mode=0o700, parents=True, exist_ok=True)
        session = Session(volume, device, deadline=self._limits.deadline)
        file_system = HeldFileSystem(sector_size=volume.segment.sector_size, read_only=volume.read_only)
        try:
            async with trio.open_nursery() as nursery:
                try:
                    await session.start(nursery)
                    self._write_state(session, shown, None)
                    await session.mount(file_system, shown)
                    self._write_state(session, shown, file_system.loop)
                    agentplace.publish(self.place, shown)
                    await self._discard_held()
                    self.session, self.shown, self.error = session, shown, None
                    self._enter(State.MOUNTED)
                    log.info("mounted at %s", shown)
                    on_ready()
                    await self._until_end(session)
                    if self._drain_by is not None and session.phase is Phase.MOUNTED:
                        await self._store_and_unmount(session, shown, self._drain_by)
                finally:
                    await session.clean_up()
                    nursery.cancel_scope.cancel()
        finally:
            self._after_life(session, shown)

    async def _store_and_unmount(self, session: Session, shown: Path, by: float) -> None:
        self._enter(State.DRAINING)
        agentplace.withdraw(self.place)
        try:
            await drain(session, shown, by)
        except EncfsError as exc:
            self.error = exc
            log.error("not stored: %s", exc)

    def _after_life(self, session: Session, shown: Path) -> None:
        self.session = self.shown = None
        if mount.is_mounted(shown):
            self._held.append(shown)
        else:
            agentplace.withdraw(self.place)  # unmounted by somebody, so the link leads to a bare folder
        if session.failure is not None:
            self.error = session.failure
        if self._drain.is_set():
            self._enter(State.FAILED if self.error else State.CLOSED)
        else:
            if self.state is State.MOUNTED:
                self.broken_since = time.time()
            self._enter(State.BROKEN)

    async def _until_end(self, session: Session) -> None:
        async with trio.open_nursery() as nursery:

            async def end_with(event: trio.Event) -> None:
                await event.wait()
                nursery.cancel_scope.cancel()

            nursery.start_soon(end_with, session.ended)
            nursery.start_soon(end_with, self._drain)
            if self.settings.read_write:
                nursery.start_soon(self._watch_writing, session)

    def takes_writes(self) -> bool:
        """Whether the mounted file system takes writes; after an error of its device it does not."""
        found = [] if self.shown is None else mount.mounts_at(self.shown)
        return bool(found) and not found[-1].read_only

    async def _watch_writing(self, session: Session) -> None:
        """Mount again what became read-only by an error of the store, once everything else is stored."""
        while self.takes_writes():
            await trio.sleep(_WRITING_POLL)
        log.error("the file system takes no writes any more, after an error of its store")
        while not is_settled(session):
            await trio.sleep(_WRITING_POLL)
        session.give_up("became read-only after an error of the store; it is mounted again")

    async def _open(self, passphrase: Secret) -> Volume:
        """Open and unlock the image; waits for a lease that an earlier life may have left."""
        until = trio.current_time() + (self._limits.lease_wait if self.state is State.STARTING else 0)
        said = False
        while True:
            try:
                return await open_volume(
                    self._image(),
                    passphrase,
                    read_only=not self.settings.read_write,
                    options=self._unlock_options(),
                )
            except ImageBusy as exc:
                if isinstance(self.settings.image, str) or trio.current_time() >= until:
                    raise
                if not said:
                    log.warning("%s; waiting up to %.0f s for it", exc, until - trio.current_time())
                    said = True
            await trio.sleep(_LEASE_POLL)

    def _image(self) -> Path | BlobAccess:
        settings = self.settings
        if isinstance(settings.image, str):
            return Path(settings.image)
        # Taken over once: an agent that lost its lease later lost it to somebody who meant it.
        take_over = settings.take_over and self.state is State.STARTING
        return BlobAccess(
            settings.image, settings.private, settings.client_id, take_over=take_over, cache=settings.cache
        )

    def _unlock_options(self) -> UnlockOptions:
        header = self.settings.header
        return UnlockOptions(
            header=None if header is None else Path(header),
            require_authenticated=self.settings.require_authenticated_header,
            root_hash=self.settings.root_hash,
            require=self.settings.require,
            anchor=self._anchor(),
            # Once: an agent that mounts again must not take an older image for the one it had.
            accept_rollback=self.settings.accept_rollback and self.state is State.STARTING,
        )

    def _anchor(self) -> AnchorStore | None:
        settings = self.settings
        if settings.anchor == "vault" and settings.key is not None:
            token = settings.bearer_token
            return VaultAnchor(settings.key, os.environ, client_id=settings.client_id, access_token=token)
        return FileAnchor(Path(settings.anchor)) if settings.anchor else None

    def _write_state(self, session: Session, shown: Path, loop: int | None) -> None:
        assert session.driver is not None
        driver = session.driver.pid
        state = rundir.State(
            image=self.settings.name,
            mount_point=str(shown),
            read_only=session.volume.read_only,
            supervisor_pid=os.getpid(),
            driver_pid=driver,
            loop=loop,
            supervisor_started=rundir.started_at(os.getpid()),
            driver_started=rundir.started_at(driver),
        )
        rundir.write_state(self._folder, state)

    async def _discard_held(self) -> None:
        while self._held:
            await trio.to_thread.run_sync(agentplace.discard, self._held.pop())

    def _leave_nothing(self) -> None:
        """The end of the last life: no link, no dead mount, no folder."""
        agentplace.withdraw(self.place)
        while self._held:
            agentplace.discard(self._held.pop())
        for folder in self.place.folders:
            agentplace.remove_folder(folder)
        shutil.rmtree(self._folder, ignore_errors=True)

    # -- asked from outside ---------------------------------------------------------------------

    async def sync(self) -> None:
        """Store everything written so far; returns when it is in the store.

        Raises:
            MountError: it is not mounted, or something could not be stored.
        """
        if self.shown is None or self.state is not State.MOUNTED:
            raise MountError(f"volume {self.index}: {self.state}, wanted mounted")
        await trio.to_thread.run_sync(mount.sync_file_system, self.shown, abandon_on_cancel=True)

    def ask_to_drain(self, by: float) -> None:
        """Unmount by that time (of `trio.current_time`); `ended` is set when it is done."""
        self._drain_by = by
        self._drain.set()
        if self.state is State.BROKEN:
            self._set_up.cancel()

    def no_longer_shown(self) -> None:
        """Remove the link: nobody new comes in."""
        agentplace.withdraw(self.place)


def our_error(exc: BaseException) -> EncfsError:
    """The error to report of a life that failed; raises again what is a defect."""
    if (found := first_error(exc)) is not None:
        return found
    if isinstance(exc, OSError):
        return MountError(f"{exc.filename or 'system call'}: {exc.strerror or exc}")
    if isinstance(exc, BaseExceptionGroup):
        for part in exc.exceptions:
            if isinstance(part, OSError | BaseExceptionGroup):
                return our_error(part)
    raise exc
