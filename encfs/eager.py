"""Waits for the next FUSE request without going to sleep when it is there already, or about to be.

pyfuse3 takes a lock and arms epoll before every request. Under load the next request has usually arrived
while the last one was served, and a reader that asks for one block after the other sends its next request
within microseconds of the reply: looking first, and looking on for a moment, saves a sleep and a wake-up each
time. When nothing comes within that moment the process sleeps as usual, so an idle driver costs nothing.
Looking on pays only while answers are fast: each time it was in vain, the next chances are let pass, twice as
many as the time before. So a driver spends next to nothing on it where readers are slow, or where others want
the processor.

Fairness: a turn of the event loop costs about as much as serving 4 KiB, so it is not taken for every request.
It is taken at once when another request waits for something (its answer may be what the loop would bring),
and otherwise once in `TURN_SECONDS`, so that timers and background tasks run under any load.

Kind: adapter
"""

from __future__ import annotations

import select
import time
from collections.abc import Callable
from types import SimpleNamespace, TracebackType

import trio

# Longer than a request of 4 KiB takes to come back from the page cache's side, shorter than a scheduler tick.
SPIN_SECONDS = 60e-6
TURN_SECONDS = 1e-3
# After so many vain looks in a row, one wait in 64 looks on.
_MAX_DOUBLINGS = 6


class EagerWait:
    """`trio.lowlevel.wait_readable` for one descriptor, looking before it sleeps.

    Args:
        busy: whether a request is being served; then other work waits for the event loop, and nothing spins.
        spin: seconds to look on; 0 looks once.
    """

    def __init__(self, busy: Callable[[], bool], *, spin: float = SPIN_SECONDS) -> None:
        self._busy = busy
        self._spin = spin
        self._poll = select.poll()
        self._fd: int | None = None
        self._turn_at = time.perf_counter() + TURN_SECONDS
        self._vain = 0  # looks in a row that saw nothing
        self._pass = 0  # chances still to let pass

    async def __call__(self, fd: int) -> None:
        """Return when `fd` is readable; cancellable, but not a checkpoint when it is readable at once."""
        if fd != self._fd:
            self._fd = fd
            self._poll.register(fd, select.POLLIN)
        now = time.perf_counter()
        busy = self._busy()
        if busy or now >= self._turn_at:
            await trio.lowlevel.checkpoint()
            now = time.perf_counter()
            self._turn_at = now + TURN_SECONDS
        if self._poll.poll(0):
            return
        if self._spin and not self._busy() and self._look_on(now + self._spin):
            return
        await trio.lowlevel.wait_readable(fd)
        self._turn_at = time.perf_counter() + TURN_SECONDS

    def _look_on(self, end: float) -> bool:
        """Look until `end`, if that paid lately; whether the descriptor is readable."""
        if self._pass:
            self._pass -= 1
            return False
        while time.perf_counter() < end:
            if self._poll.poll(0):
                self._vain = 0
                return True
        self._vain = min(self._vain + 1, _MAX_DOUBLINGS)
        self._pass = (1 << self._vain) - 1
        return False


class EagerLock:
    """A lock that is taken without a turn of the event loop when it is free.

    Unlike `trio.Lock` it is not fair: who comes back for it first has it. For pyfuse3's workers that is what
    is wanted: the one that just served a request goes on while its code is warm, and the others take over
    whenever it has to wait.
    """

    def __init__(self) -> None:
        self._held = False
        self._waiting = trio.lowlevel.ParkingLot()

    async def __aenter__(self) -> None:
        while self._held:
            await self._waiting.park()
        self._held = True

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._held = False
        if self._waiting:
            self._waiting.unpark()


def eager_trio(wait: EagerWait) -> SimpleNamespace:
    """A stand-in for the `trio` module, as `pyfuse3.asyncio` makes one, that waits with `wait`."""
    lowlevel = SimpleNamespace(**{**vars(trio.lowlevel), "wait_readable": wait})
    return SimpleNamespace(**{**vars(trio), "lowlevel": lowlevel, "Lock": EagerLock})
