"""Keeps away what disturbs a measurement: other work on the machine, and a host that takes memory back."""

from __future__ import annotations

import contextlib
import mmap
import os
import time
from collections.abc import Iterator
from pathlib import Path

_SAMPLE_SECONDS = 0.2
_BUSY_SHARE = 0.07
# Free blocks of this order or larger are reported to the host, which takes their memory back.
_REPORTING = Path("/sys/module/page_reporting/parameters/page_reporting_order")
_NO_SUCH_ORDER = "11"
_LEFT_BYTES = 1 << 30


class Quiet:
    """Patience of `seconds` before each measurement; none at all with 0.

    Attributes:
        asked, refused: how many measurements there were, and how many of them began on a busy machine.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self.asked = self.refused = 0

    def wait(self) -> None:
        """Return when the processors were idle for a moment, or patience ends."""
        self.asked += 1
        end = time.monotonic() + self._seconds
        while busy_share(_SAMPLE_SECONDS) > _BUSY_SHARE:
            if time.monotonic() >= end:
                self.refused += 1
                return

    def __str__(self) -> str:
        if not self.refused:
            return "Nothing else ran."
        return f"Something else was running at {self.refused} of {self.asked} measurements."


@contextlib.contextmanager
def kept_memory(setting: Path = _REPORTING) -> Iterator[None]:
    """Until the end, keep the host of a virtual machine from taking free memory back.

    Why: a page that the host took back costs its next user 8 us, ten times what it takes to fill it. Who
    that is depends on what was freed when, not on what is measured. What it took before, it gives now: all
    memory is used once, which takes a minute.
    """
    before = ""
    with contextlib.suppress(OSError):
        before = setting.read_text()
        setting.write_text(_NO_SUCH_ORDER)
    try:
        if before:
            _use_memory()
        yield
    finally:
        if before:
            with contextlib.suppress(OSError):
                setting.write_text(before)


def free_memory() -> int:
    """Bytes that nobody uses."""
    return os.sysconf("SC_AVPHYS_PAGES") * mmap.PAGESIZE


def _use_memory() -> None:
    piece = bytes(1 << 20)
    free = free_memory() - _LEFT_BYTES
    if free < len(piece):
        return
    with mmap.mmap(-1, free - free % len(piece)) as area:
        for start in range(0, len(area), len(piece)):
            area[start : start + len(piece)] = piece


def busy_share(seconds: float) -> float:
    """Share of all processors' time that was not idle, for so long from now."""
    idle, total = _times()
    time.sleep(seconds)
    later_idle, later_total = _times()
    return 1 - (later_idle - idle) / max(1, later_total - total)


def _times() -> tuple[int, int]:
    """Idle and all ticks of all processors; proc_stat(5): the fourth and fifth are idle and waiting."""
    ticks = [int(word) for word in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
    return ticks[3] + ticks[4], sum(ticks)
