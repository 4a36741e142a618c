"""Waits for a moment when the machine does nothing else, and counts how often there was none."""

from __future__ import annotations

import time
from pathlib import Path

_SAMPLE_SECONDS = 0.2
_BUSY_SHARE = 0.07


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
