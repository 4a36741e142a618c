"""When a driver counts as stuck: a table of readings over time."""

from __future__ import annotations

import pytest

from encfs.health import Pulse, Reading, Watch

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
