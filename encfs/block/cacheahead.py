"""Guesses what will be read next: runs, forwards, and steps of one length, forwards or backwards.

Several readers may be under way at once, and one reader's requests arrive slightly out of order (a kernel
sends several at a time), so a run is recognised by nearness to its end and not by equality. A step is
recognised from three requests; it may be any distance.

A guess costs a fetch, so it has to be earned: a run's window starts small, doubles with each confirmed
request, and is topped up in pieces, not by every request. Random reads earn nothing.

Kind: pure
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

Range = tuple[int, int]

_STREAMS = 16
_HISTORY = 16
_SLACK = 512 << 10
_STEPS_AHEAD = 16


@dataclass(slots=True, eq=False)
class _Run:
    """A reader that goes forwards: its furthest end, what was guessed, and how far to guess."""

    end: int
    ahead: int
    window: int
    hits: int = 0


@dataclass(slots=True, eq=False)
class _Step:
    """A reader that takes steps: where it was last, how far a step is, steps guessed but not confirmed."""

    last: int
    length: int
    stride: int
    ahead: int = 0
    depth: int = 1


class Predictor:
    """Takes every read, gives the ranges to fetch before they are asked for.

    Args:
        size: of the device in bytes; no guess goes past it.
        window: most bytes guessed ahead of one reader; 0 for never.
        piece: bytes of one guess of a run, and their alignment.
    """

    def __init__(self, size: int, window: int, piece: int) -> None:
        self._size = size
        self._window = window
        self._piece = piece
        self._runs: deque[_Run] = deque(maxlen=_STREAMS)
        self._steps: deque[_Step] = deque(maxlen=_STREAMS)
        self._history: deque[int] = deque(maxlen=_HISTORY)

    def observe(self, offset: int, length: int) -> list[Range]:
        """A range was asked for; returns (offset, length) of ranges worth fetching now."""
        if not self._window:
            return []
        run = self._run_at(offset)
        if run is not None:
            return self._follow(run, offset, length)
        step = self._step_at(offset)
        if step is not None:
            return self._walk(step)
        self._runs.append(_Run(offset + length, offset + length, min(4 * length, self._window)))
        return self._find_step(offset, length)

    def _run_at(self, offset: int) -> _Run | None:
        for run in reversed(self._runs):
            slack = min(_SLACK, run.window) if run.hits else 0
            if run.end - slack <= offset <= run.end + slack:
                return run
        return None

    def _follow(self, run: _Run, offset: int, length: int) -> list[Range]:
        run.hits += 1
        run.end = max(run.end, offset + length)
        run.ahead = max(run.ahead, run.end)
        if run.hits > 1:
            run.window = min(max(2 * run.window, self._piece), self._window)
        goal = min(run.end + run.window, self._size)
        # Whole pieces only, but for the device's end and for a window that is still smaller than one.
        if run.window >= self._piece and goal < self._size:
            goal -= goal % self._piece
        found = []
        while run.ahead < goal:
            end = min(run.ahead - run.ahead % self._piece + self._piece, goal)
            found.append((run.ahead, end - run.ahead))
            run.ahead = end
        return found

    def _step_at(self, offset: int) -> _Step | None:
        for step in self._steps:
            if step.last + step.stride == offset:
                return step
        return None

    def _walk(self, step: _Step) -> list[Range]:
        step.last += step.stride
        step.ahead = max(step.ahead - 1, 0)
        step.depth = min(2 * step.depth, _STEPS_AHEAD, max(1, self._window // step.length))
        found = []
        while step.ahead < step.depth:
            step.ahead += 1
            offset = step.last + step.ahead * step.stride
            if not 0 <= offset <= self._size - step.length:
                break
            found.append((offset, step.length))
        return found

    def _find_step(self, offset: int, length: int) -> list[Range]:
        """Whether two earlier requests and this one lie at equal distances."""
        found: list[Range] = []
        for middle in reversed(self._history):
            if middle != offset and 2 * middle - offset in self._history:
                step = _Step(middle, length, offset - middle)
                self._steps.append(step)
                found = self._walk(step)
                break
        self._history.append(offset)
        return found
