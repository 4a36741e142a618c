"""Layer: repeats what the store could not answer, for a bounded time.

Strategy: only `StoreUnavailable` is repeated, and everything a device does may be: reads change nothing, and
a write is the same bytes at the same place (a source whose store may apply a lost write late has to fence it
off itself, as `blob` does). Pauses grow and are jittered; what the store asks for in Retry-After comes first.

Rules: no request takes longer than `deadline` seconds in all; the last error is the one that is raised.

The only user of tenacity in this package.

Kind: layer
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import TypeVar

import tenacity
import trio

from encfs.block.device import BlockDevice, Buffer
from encfs.errors import StoreUnavailable

log = logging.getLogger(__name__)

T = TypeVar("T")
DEADLINE = 45.0
MAX_PAUSE = 10.0
_FIRST_PAUSE = 0.1


async def retried(call: Callable[[], Awaitable[T]], *, deadline: float = DEADLINE) -> T:
    """Make a call, again while the store is unavailable and the deadline allows.

    Raises:
        StoreUnavailable: the last one, when the time is over.
    """
    end = trio.current_time() + deadline
    last: list[StoreUnavailable] = []
    retrying = tenacity.AsyncRetrying(
        sleep=trio.sleep,
        wait=_pause,
        retry=tenacity.retry_if_exception_type(StoreUnavailable),
        stop=lambda state: trio.current_time() + state.upcoming_sleep >= end,
        before_sleep=lambda state: _remember(state, last),
        reraise=True,
    )

    async def attempt() -> T:  # tenacity awaits only what it can see to be a coroutine function
        return await call()

    with trio.move_on_at(end) as scope:
        return await retrying(attempt)
    assert scope.cancelled_caught
    raise last[-1] if last else StoreUnavailable(f"image: no answer within {deadline:g} s")


def _remember(state: tenacity.RetryCallState, last: list[StoreUnavailable]) -> None:
    error = state.outcome.exception() if state.outcome is not None else None
    if isinstance(error, StoreUnavailable):
        last[:] = [error]
        log.debug("try %d: %s; again in %.2f s", state.attempt_number, error, state.upcoming_sleep)


def _pause(state: tenacity.RetryCallState) -> float:
    """Seconds before the next try: what the store asks for, within bounds, else growing and jittered."""
    error = state.outcome.exception() if state.outcome is not None else None
    if isinstance(error, StoreUnavailable) and error.retry_after is not None:
        return min(error.retry_after, MAX_PAUSE)
    growing = tenacity.wait_exponential_jitter(multiplier=_FIRST_PAUSE, max=MAX_PAUSE, jitter=_FIRST_PAUSE)
    return float(growing(state))


class Retry:
    """`below`, but patient.

    Args:
        below: raises `StoreUnavailable` for what may be repeated.
        deadline: seconds for one request with all its repetitions.
    """

    def __init__(self, below: BlockDevice, *, deadline: float = DEADLINE) -> None:
        self.below = below
        self.deadline = deadline
        self.size = below.size
        self.block_size = below.block_size

    @property
    def read_only(self) -> bool:
        """Changes with `below`, which may lose its right to write."""
        return self.below.read_only

    async def read_into(self, offset: int, buffer: memoryview) -> None:
        await retried(lambda: self.below.read_into(offset, buffer), deadline=self.deadline)

    async def write(self, offset: int, data: Buffer) -> None:
        await retried(lambda: self.below.write(offset, data), deadline=self.deadline)

    async def flush(self) -> None:
        await retried(self.below.flush, deadline=self.deadline)

    async def aclose(self) -> None:
        await self.below.aclose()
