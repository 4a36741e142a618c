"""Waits for the next FUSE request without going to sleep when it is there already, or about to be.

pyfuse3 arms epoll before every request. Under load the next request has usually arrived while the last one
was served, and a reader that asks for one block after the other sends its next request within microseconds
of the reply: looking first, and looking on for a moment, saves a sleep and a wake-up each time. When nothing
comes within that moment the process sleeps as usual, so an idle driver costs nothing.

Fairness: pyfuse3 takes a lock before it waits, and taking it lets every other task run.

Kind: adapter
"""

from __future__ import annotations

import select
import time
from collections.abc import Callable
from types import SimpleNamespace

import trio

# Longer than a request of 4 KiB takes to come back from the page cache's side, shorter than a scheduler tick.
SPIN_SECONDS = 60e-6


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

    async def __call__(self, fd: int) -> None:
        """Return when `fd` is readable; cancellable, but not a checkpoint when it is readable at once."""
        if fd != self._fd:
            self._fd = fd
            self._poll.register(fd, select.POLLIN)
        if self._poll.poll(0):
            return
        if self._spin and not self._busy():
            end = time.perf_counter() + self._spin
            while time.perf_counter() < end:
                if self._poll.poll(0):
                    return
        await trio.lowlevel.wait_readable(fd)


def eager_trio(wait: EagerWait) -> SimpleNamespace:
    """A stand-in for the `trio` module, as `pyfuse3.asyncio` makes one, that waits with `wait`."""
    lowlevel = SimpleNamespace(**{**vars(trio.lowlevel), "wait_readable": wait})
    return SimpleNamespace(**{**vars(trio), "lowlevel": lowlevel})
