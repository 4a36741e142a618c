"""Waits for the next FUSE request without the event loop's way to sleep, when it is there or about to be.

pyfuse3 takes a lock and arms epoll before every request. Under load the next request has usually arrived
while the last one was served, and a reader that asks for one block after the other sends its next request
within microseconds of the reply: looking first, and then sleeping on this one descriptor for a moment, saves
what trio needs to arm, sleep and find the task to wake. When nothing comes within that moment the process
sleeps as usual.

Sleeping or looking on: where a processor is free, one that looks on sees the next request without the time it
takes to wake up, and serves a single reader half as fast again. Where reader, loop device and driver have to
share one, a driver that looks on keeps it from those it waits for, and is several times slower. Nobody can
tell in advance, so both are tried for a moment, and what served more is kept for a while (`Trial`).

Fairness: a turn of the event loop costs about as much as serving 4 KiB, so it is not taken for every request.
It is taken at once when another request waits for something (its answer may be what the loop would bring),
and otherwise once in `TURN_SECONDS`, so that timers and background tasks run under any load.

Kind: adapter
"""

from __future__ import annotations

import os
import select
import time
from collections.abc import Callable
from types import SimpleNamespace, TracebackType

import trio

# Longer than a request takes to come back from the other side; a timer that late harms nobody.
LINGER_SECONDS = 200e-6
TURN_SECONDS = 1e-3
# A reader's next request comes within that, where it can come at once.
LOOK_SECONDS = 60e-6


class Trial:
    """Finds out by doing whether looking on serves more requests than sleeping: each for `TRY` seconds.

    What is better is kept for a while, sleeping for less: the first moment of a load is not like the rest.
    Under a light load nothing is tried, nobody looks on, and the processor sleeps.
    """

    TRY = 0.01
    HOLD_LOOKING = 1.0
    HOLD_ASLEEP = 0.25
    # Requests in a try below which nothing is gained, and how much more looking on has to serve.
    WORTH = 50
    GAIN = 1.15

    def __init__(self) -> None:
        self.looks = False
        self._holding = True
        self._served = 0
        self._asleep = 0.0  # requests a second of the try asleep
        self._began = self._until = 0.0

    def served(self, now: float) -> bool:
        """One more request, at `now` (seconds); whether to look on for the next."""
        self._served += 1
        if now >= self._until:
            self._turn_over(now)
        return self.looks

    def _turn_over(self, now: float) -> None:
        rate = self._served / max(now - self._began, 1e-9)
        busy = rate >= self.WORTH / self.TRY
        span = self.TRY
        if self._holding:  # next: asleep
            self.looks = self._holding = False
        elif not self.looks and busy:  # next: looking on
            self._asleep, self.looks = rate, True
        else:
            self.looks = self.looks and rate >= self.GAIN * self._asleep
            self._holding, span = True, self.HOLD_LOOKING if self.looks else self.HOLD_ASLEEP
        self._served, self._began, self._until = 0, now, now + span


class EagerWait:
    """`trio.lowlevel.wait_readable` for one descriptor, without the event loop for a moment.

    Args:
        busy: whether a request is being served; then other work waits for the loop, and nothing lingers.
        linger: seconds to sleep on the descriptor alone; 0 only looks.
    """

    def __init__(self, busy: Callable[[], bool], *, linger: float = LINGER_SECONDS) -> None:
        self._busy = busy
        self._linger = linger
        self._poll = select.poll()
        self._fd: int | None = None
        self._trial = Trial()
        self._turn_at = time.perf_counter() + TURN_SECONDS

    async def __call__(self, fd: int) -> None:
        """Return when `fd` is readable; cancellable, but not a checkpoint when it is readable at once."""
        if fd != self._fd:
            self._fd = fd
            self._poll.register(fd, select.POLLIN)
        now = time.perf_counter()
        looks = self._trial.served(now)
        if self._busy() or now >= self._turn_at:
            await trio.lowlevel.checkpoint()
            self._turn_at = time.perf_counter() + TURN_SECONDS
        if self._poll.poll(0):
            return
        if looks and not self._busy() and self._look():
            return
        if self._linger and not self._busy() and any(select.select((fd,), (), (), self._linger)):
            return
        await trio.lowlevel.wait_readable(fd)
        self._turn_at = time.perf_counter() + TURN_SECONDS

    def _look(self) -> bool:
        """Look on, for a moment, whether there is something."""
        end = time.perf_counter() + LOOK_SECONDS
        while time.perf_counter() < end:
            os.sched_yield()
            if self._poll.poll(0):
                return True
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
