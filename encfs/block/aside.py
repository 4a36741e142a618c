"""A few threads that work on large requests while the event loop takes the next one.

A local read or write never waits for the event loop, and reading, decrypting and writing release the GIL: a
second core can do them while the first answers another request. Handing work over and back costs as much as
serving some 16 KiB, so small requests stay where they are.

The threads are made before serving and kept, and handing over allocates next to nothing, for the reason
given in `buffers`. They must be marked as I/O flushers one by one: Linux keeps that mark for each thread.

Kind: layer
"""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Callable, Coroutine

import outcome
import trio

_MIN_BYTES = 128 << 10
_MAX_THREADS = 3


class Aside:
    """Threads beside the event loop that made this object. Close it before the loop ends.

    Args:
        prepare: called first in each thread.
        threads: how many; by default one for each further core, three at most.
        min_bytes: smallest request that is worth handing over.
    """

    def __init__(
        self,
        prepare: Callable[[], object] = lambda: None,
        *,
        threads: int | None = None,
        min_bytes: int = _MIN_BYTES,
    ) -> None:
        self.min_bytes = min_bytes
        self._token = trio.lowlevel.current_trio_token()
        self._jobs: queue.SimpleQueue[tuple[trio.lowlevel.Task, Callable[[], None]] | None]
        self._jobs = queue.SimpleQueue()
        if threads is None:
            threads = max(1, min(_MAX_THREADS, len(os.sched_getaffinity(0)) - 1))
        self._threads = [
            threading.Thread(target=self._work, args=(prepare,), daemon=True) for _ in range(threads)
        ]
        for thread in self._threads:
            thread.start()

    async def run(self, job: Callable[[], None]) -> None:
        """Run `job` in a thread; raises what it raises.

        Not cancellable: the buffers it works on are in use until it ends.
        """
        self._jobs.put((trio.lowlevel.current_task(), job))
        await trio.lowlevel.wait_task_rescheduled(_refuse)

    def _work(self, prepare: Callable[[], object]) -> None:
        prepare()
        while (order := self._jobs.get()) is not None:
            task, job = order
            self._token.run_sync_soon(trio.lowlevel.reschedule, task, outcome.capture(job))

    def close(self) -> None:
        """End the threads, after the work they were given."""
        for _ in self._threads:
            self._jobs.put(None)
        for thread in self._threads:
            thread.join()


def _refuse(_: object) -> trio.lowlevel.Abort:
    return trio.lowlevel.Abort.FAILED


def finish(coroutine: Coroutine[object, object, None]) -> None:
    """Run a coroutine that never waits, outside of any event loop.

    Raises:
        RuntimeError: it did wait: the device it belongs to is not a local one.
    """
    try:
        coroutine.send(None)
    except StopIteration:
        return
    coroutine.close()
    raise RuntimeError("device waited for the event loop, wanted one that answers at once")
