"""When a driver counts as stuck: a table of readings over time."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from encfs.errors import MountError
from encfs.health import Pulse, Reading, Watch, Watchdog

IDLE = [Reading(beat, 5, 5) for beat in range(1, 40)]


def first_stuck(readings: list[Reading], deadline: float = 10) -> int | None:
    """Second (one reading each) at which the watch first says stuck."""
    watch = Watch(deadline)
    for second, reading in enumerate(readings):
        if watch.is_stuck(reading, float(second)):
            return second
    return None


@pytest.mark.parametrize(
    ("name", "readings", "expected"),
    [
        ("idle but alive", IDLE, None),
        ("stopped from the start", [Reading(0, 0, 0)] * 20, 11),
        ("stopped while idle", [*IDLE[:5], *[IDLE[4]] * 20], 15),
        ("alive, one request never answered", [Reading(b, 6, 5) for b in range(1, 40)], 11),
        ("slow store that answers something", [Reading(b, b // 8 + 3, b // 8) for b in range(1, 60)], None),
        ("busy, all answered", [Reading(b, b * 9, b * 9) for b in range(1, 60)], None),
        ("answers late but in time", [*[Reading(b, 1, 0) for b in range(1, 9)], *IDLE[9:]], None),
    ],
)
def test_watch(name: str, readings: list[Reading], expected: int | None) -> None:
    assert first_stuck(readings) == expected, name


def test_pulse_is_shared_between_two_mappings() -> None:
    import os

    writer = Pulse.create()
    reader = Pulse(os.dup(writer.fd))
    writer.beat()
    writer.begin()
    writer.begin()
    writer.end()
    assert reader.read() == Reading(1, 2, 1)
    assert reader.read().in_flight == 1
    writer.close()
    reader.close()
    assert reader.read() == Reading(1, 2, 1), "whoever still shows the volume shows how it ended"


@pytest.fixture
def pulse() -> Iterator[Pulse]:
    made = Pulse.create()
    yield made
    made.close()


def test_the_watchdog_cuts_off_once_a_driver_that_is_stuck(pulse: Pulse) -> None:
    cut = threading.Semaphore(0)
    watchdog = Watchdog(pulse, 0.6, cut.release)
    watchdog.start()
    assert cut.acquire(timeout=10)
    assert not cut.acquire(timeout=1.5), "cut off again"
    watchdog.stop()
    assert watchdog.fired


def test_the_watchdog_leaves_a_driver_that_lives(pulse: Pulse) -> None:
    cut = threading.Event()
    watchdog = Watchdog(pulse, 1.0, cut.set)
    watchdog.start()
    for _ in range(25):
        pulse.beat()
        time.sleep(0.1)  # the thing under test is a span of real time
    started = time.monotonic()
    watchdog.stop()
    watchdog.stop()
    assert time.monotonic() - started < 0.4, "an unmount must not wait for the next look"
    assert not watchdog.fired
    assert not cut.is_set()


def test_a_cut_that_fails_is_still_told(pulse: Pulse, caplog: pytest.LogCaptureFixture) -> None:
    def fail() -> None:
        raise MountError("no right to unmount")

    watchdog = Watchdog(pulse, 0.1, fail)
    watchdog.start()
    deadline = time.monotonic() + 10
    while not watchdog.fired:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    watchdog.stop()
    assert "no right to unmount" in caplog.text
    caplog.clear()


def test_a_watchdog_that_never_started_stops(pulse: Pulse) -> None:
    Watchdog(pulse, 1.0, lambda: None).stop()
