"""Runs async steps one after the other from synchronous code, in one trio run under a clock that jumps.

Between two steps nothing runs and no time passes: what a step started in the background is exactly where it
was when the next one begins. Hypothesis's state machines, whose rules are synchronous, need that.
"""

from __future__ import annotations

import queue
from collections.abc import Awaitable, Callable
from typing import TypeVar

import outcome
import trio
from trio.testing import MockClock

T = TypeVar("T")
_STEP_SECONDS = 1.0


class GuestTrio:
    """A trio run that goes on only inside `run`."""

    def __init__(self) -> None:
        self._host: queue.Queue[Callable[[], object]] = queue.Queue()
        self._ended: outcome.Outcome[None] | None = None
        self._scope = trio.CancelScope()
        self._send: trio.MemorySendChannel[Callable[[], Awaitable[None]]]
        self._send, self._receive = trio.open_memory_channel[Callable[[], Awaitable[None]]](1)
        trio.lowlevel.start_guest_run(
            self._main,
            run_sync_soon_threadsafe=self._host.put,
            done_callback=self._done,
            clock=MockClock(autojump_threshold=0),
        )

    async def _main(self) -> None:
        with self._scope:
            async for step in self._receive:
                await step()

    def _done(self, ended: outcome.Outcome[None]) -> None:
        self._ended = ended

    def run(self, step: Callable[[], Awaitable[T]]) -> T:
        """Run one step to its end; its result, or its exception."""
        results: list[outcome.Outcome[T]] = []

        async def keep() -> None:
            results.append(await outcome.acapture(step))

        self._send.send_nowait(keep)
        while not results:
            assert self._ended is None, f"the run ended: {self._ended}"
            self._host.get(timeout=_STEP_SECONDS)()
        return results[0].unwrap()

    def close(self) -> None:
        """End the run, whatever it is doing; the thread can have another one then."""
        self._scope.cancel()
        while self._ended is None:
            self._host.get(timeout=_STEP_SECONDS)()
        self._ended.unwrap()
