"""The agent: volumes of a container group, mounted before the application starts and kept mounted.

Order of a life: clear what an earlier one left, mount all volumes side by side, write the result, say ready,
serve until a signal, drain: no link, store everything, unmount in reverse order, report.

If one volume cannot be mounted, none stays: an application must not run on half of its data. Later, a volume
that fails is mounted again, and the others go on.

Kind: composition
"""

from __future__ import annotations

import hashlib
import json
import logging
import signal
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import trio

from encfs import residency, rundir
from encfs.agentplace import lock_folder
from encfs.agentstale import clear_place, clear_runs
from encfs.agentvolume import AgentVolume, Limits, State, our_error
from encfs.errors import EncfsError, ExitCode, Interrupted, StoreError
from encfs.keys import Secret
from encfs.settings import AgentSettings, VolumeSettings

log = logging.getLogger(__name__)

# What an agent needs while it serves: log lines, answers on its endpoints, the unmounts.
_HEAP = 8 << 20
_OBJECTS = 4 << 20

PassphraseOf = Callable[[VolumeSettings], Awaitable[Secret]]


@dataclass(frozen=True, slots=True)
class AgentOptions:
    """How an agent runs; times in seconds.

    Attributes:
        result: file that says whether everything was mounted; details go beside it. None for no file.
        file_deadline, blob_deadline: after which a driver that answers nothing is cut off.
        lease_wait: for a lease to run out that an earlier life, or another agent, has.
        drain: for unmounting at the end.
        unhealthy_after: how long a volume may be down before the agent calls itself unhealthy.
    """

    result: Path | None = None
    file_deadline: float = 60.0
    blob_deadline: float = 150.0
    lease_wait: float = 70.0
    drain: float = 25.0
    unhealthy_after: float = 120.0

    def limits(self, volume: VolumeSettings) -> Limits:
        """Those of one volume."""
        is_file = isinstance(volume.image, str)
        return Limits(self.file_deadline if is_file else self.blob_deadline, self.lease_wait)


class Agent:
    """All volumes of one agent.

    Args:
        settings: which.
        options: how.
        passphrase_of: how the key of a volume is had.
    """

    def __init__(self, settings: AgentSettings, options: AgentOptions, passphrase_of: PassphraseOf) -> None:
        self.options = options
        self.draining = False
        self._claimed: dict[Path, int] = {}
        self._top = rundir.run_root() / "agent"
        self.volumes = [
            AgentVolume(volume, self._folder(volume), partial(passphrase_of, volume), options.limits(volume))
            for volume in settings.volumes
        ]

    def _folder(self, volume: VolumeSettings) -> Path:
        return self._top / hashlib.sha256(volume.mount_point.encode()).hexdigest()[:16]

    def waiting_for(self) -> dict[int, str]:
        """Volumes that applications cannot use as they should, and why; empty when all is well."""
        found = {}
        for volume in self.volumes:
            if volume.state is not State.MOUNTED:
                found[volume.index] = volume.state.value
            elif volume.settings.read_write and not volume.takes_writes():
                found[volume.index] = "read-only after an error"
        return found

    async def run(self, on_ready: Callable[[], None]) -> None:
        """Mount, serve until SIGTERM or SIGINT, drain.

        Raises:
            EncfsError: a volume could not be mounted; none is.
            Interrupted: a signal came before everything was mounted.
            StoreError: at the end, not everything could be stored.
        """
        stop = trio.Event()
        async with trio.open_nursery() as nursery:
            await nursery.start(_wait_for_signal, stop)
            try:
                await self._mount_all(nursery, stop)
            except EncfsError as exc:
                self._write_result(exc)
                nursery.cancel_scope.cancel()
                raise
            self._write_result(None)
            for refused in residency.hold(heap=_HEAP, objects=_OBJECTS):
                log.info("agent: %s", refused)
            on_ready()
            await stop.wait()
            unstored = await self._drain()
            nursery.cancel_scope.cancel()
        self._write_result(None, end=unstored)
        if unstored:
            raise StoreError(
                "not everything was stored: " + "; ".join(unstored),
                hint="what was fsynced is stored; what was written after that may be lost",
            )

    # -- the beginning --------------------------------------------------------------------------

    async def _mount_all(self, nursery: trio.Nursery, stop: trio.Event) -> None:
        failures: dict[int, EncfsError] = {}
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as starting:
                starting.start_soon(_cancel_when, stop, scope)
                await clear_runs(self._top)
                async with trio.open_nursery() as side_by_side:
                    for volume in self.volumes:
                        side_by_side.start_soon(self._mount_one, nursery, volume, failures)
                starting.cancel_scope.cancel()
        if stop.is_set():
            await self._roll_back()
            raise Interrupted("interrupted before everything was mounted")
        if failures:
            await self._roll_back()
            # Words that users of the predecessor are told to look for.
            for index, error in sorted(failures.items()):
                log.error(
                    "Failed to mount filesystems: failed to mount filesystem index %d: %s", index, error
                )
            first = min(failures)
            failures[first].args = (f"volume {first}: {failures[first]}",)
            raise failures[first]

    async def _mount_one(
        self, nursery: trio.Nursery, volume: AgentVolume, failures: dict[int, EncfsError]
    ) -> None:
        try:
            self._claim(volume.place.parent)
            await clear_place(volume.place)
            await nursery.start(volume.serve)
        except (EncfsError, OSError, BaseExceptionGroup) as exc:
            failures[volume.index] = volume.error = our_error(exc)
            volume.state = State.FAILED
            volume.ended.set()

    def _claim(self, parent: Path) -> None:
        if parent not in self._claimed:
            self._claimed[parent] = lock_folder(parent)  # held until the process ends

    async def _roll_back(self) -> None:
        with trio.CancelScope(shield=True):
            for volume in self.volumes:
                if volume.state is State.WAITING:
                    volume.ended.set()
            await self._drain()

    # -- the end --------------------------------------------------------------------------------

    async def _drain(self) -> list[str]:
        """Unmount everything in reverse order; what was not stored, in words."""
        self.draining = True
        by = trio.current_time() + self.options.drain
        for volume in self.volumes:
            volume.no_longer_shown()
        async with trio.open_nursery() as nursery:
            # All start storing now; unmounting one after the other then finds little left to do.
            for volume in self.volumes:
                nursery.start_soon(_store_quietly, volume, by)
        for volume in reversed(self.volumes):
            volume.ask_to_drain(by)
            await volume.ended.wait()
        return [f"volume {v.index}: {v.error}" for v in self.volumes if v.state is State.FAILED and v.error]

    # -- what is left to read -------------------------------------------------------------------

    def _write_result(self, error: EncfsError | None, *, end: list[str] | None = None) -> None:
        """`1` or `0` as the predecessor has it, and beside it why."""
        path = self.options.result
        if path is None:
            return
        why: dict[str, object] = {"ok": error is None, "volumes": [_described(v) for v in self.volumes]}
        if error is not None:
            why |= {"exit_code": int(error.exit_code), "error": str(error), "hint": error.hint}
        if end is not None:
            why |= {"ended": True, "exit_code": int(ExitCode.STORE if end else ExitCode.OK)}
            why |= {"not_stored": end}
        try:
            _write(path, "1\n" if error is None else "0\n")
            _write(path.with_name(path.name + ".json"), json.dumps(why, indent=1) + "\n")
        except OSError as exc:
            log.warning("result file %s: %s", path, exc.strerror)


def _described(volume: AgentVolume) -> dict[str, object]:
    found: dict[str, object] = {
        "index": volume.index,
        "image": volume.settings.name,
        "mount_point": volume.settings.mount_point,
        "state": volume.state.value,
    }
    if volume.error is not None:
        found |= {"exit_code": int(volume.error.exit_code), "error": str(volume.error)}
        found |= {"hint": volume.error.hint}
    return found


def _write(path: Path, text: str) -> None:
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text)
    partial.replace(path)


async def _store_quietly(volume: AgentVolume, by: float) -> None:
    """Start storing; whether it worked is seen when the volume is unmounted."""
    with trio.move_on_at(by):
        try:
            if volume.state is State.MOUNTED:
                await volume.sync()
        except EncfsError as exc:
            log.warning("volume %d: %s", volume.index, exc)


async def _cancel_when(event: trio.Event, scope: trio.CancelScope) -> None:
    await event.wait()
    scope.cancel()


async def _wait_for_signal(
    stop: trio.Event, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
) -> None:
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        task_status.started()
        async for number in signals:
            log.info("%s: ending", signal.Signals(number).name)
            stop.set()
