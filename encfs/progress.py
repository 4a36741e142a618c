"""One line on a terminal that says how far a long work is; nothing where nobody watches.

Kind: adapter
"""

from __future__ import annotations

import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import TextIO

import trio

_SECONDS = 0.2
_CLEAR = "\r\x1b[K"
_UNITS = (("T", 1 << 40), ("G", 1 << 30), ("M", 1 << 20), ("K", 1 << 10))


def in_units(count: float) -> str:
    """Bytes for people: `512`, `1.5 G`."""
    for name, unit in _UNITS:
        if count >= unit:
            return f"{count / unit:.1f} {name}"
    return f"{int(count)}"


def line(label: str, done: int, total: int, seconds: float) -> str:
    """What is shown: label, share, bytes, speed, time left. `total` may be an estimate: 99 % is the most."""
    share = min(0.99, done / total) if total else 0.0
    speed = done / seconds if seconds > 0 else 0.0
    left = f", {(total - done) / speed:.0f} s left" if speed and total > done and seconds > 1 else ""
    amount = f"{in_units(done)}B of {in_units(max(total, done))}B, {in_units(speed)}B/s"
    return f"{label}: {share:4.0%}, {amount}{left}"


@asynccontextmanager
async def progress(
    label: str, done: Callable[[], int], total: int, *, show: bool, stream: TextIO | None = None
) -> AsyncIterator[None]:
    """Show, while the block runs, what `done` says, in bytes.

    Args:
        label: what is being done.
        done: bytes so far; called five times a second.
        total: bytes in the end, may be an estimate.
        show: False shows nothing (`--json`, `--quiet`).
        stream: where to, standard error when None; a stream that is no terminal is left alone.
    """
    out = sys.stderr if stream is None else stream
    if not (show and out.isatty()):
        yield
        return
    shown = label if label.isprintable() else ascii(label)
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_show, shown, done, total, out)
            try:
                yield
            finally:
                nursery.cancel_scope.cancel()
                out.write(_CLEAR)
                out.flush()
    except BaseExceptionGroup as group:
        if len(group.exceptions) == 1:
            raise group.exceptions[0] from None
        raise


async def _show(label: str, done: Callable[[], int], total: int, out: TextIO) -> None:
    start = time.monotonic()
    while True:
        out.write(_CLEAR + line(label, done(), total, time.monotonic() - start))
        out.flush()
        await trio.sleep(_SECONDS)
