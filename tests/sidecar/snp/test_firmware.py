"""The pace of requests, in trio's own time."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock

from sidecar.errors import SourceAbsent
from sidecar.snp.firmware import Failed, FirmwareSource, Pacer
from sidecar.snp.guestabi import Diagnosis, Remedy
from sidecar.snp.source import RawReport


async def turns(pacer: Pacer, count: int) -> list[float]:
    """Times of `count` turns, counted from now."""
    start = trio.current_time()
    times = []
    for _ in range(count):
        async with pacer.turn():
            times.append(trio.current_time() - start)
    return times


async def test_a_burst_then_one_per_interval(autojump_clock: MockClock) -> None:
    pacer = Pacer(burst=5, interval=2)
    assert await turns(pacer, 8) == pytest.approx([0, 0, 0, 0, 0, 2, 4, 6])


async def test_quiet_time_earns_at_most_one_burst(autojump_clock: MockClock) -> None:
    pacer = Pacer(burst=3, interval=2)
    await turns(pacer, 3)
    await trio.sleep(1000)
    assert await turns(pacer, 5) == pytest.approx([0, 0, 0, 2, 4])


async def test_never_two_at_once(autojump_clock: MockClock) -> None:
    pacer = Pacer(burst=100)
    inside = 0

    async def one() -> None:
        nonlocal inside
        async with pacer.turn():
            inside += 1
            assert inside == 1
            await trio.sleep(1)
            inside -= 1

    async with trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(one)


async def test_the_base_class_makes_no_request() -> None:
    with pytest.raises(NotImplementedError):
        await FirmwareSource("nowhere").read_report(bytes(64))


async def test_absence_does_not_break_a_source() -> None:
    class Later(FirmwareSource):
        asked = 0

        def request(self, report_data: bytes) -> RawReport:
            self.asked += 1
            if self.asked == 1:
                raise Failed(Diagnosis(Remedy.ABSENT, "not yet"))
            return RawReport(b"report")

    source = Later("here")
    with pytest.raises(SourceAbsent, match="here: not yet"):
        await source.read_report(bytes(64))
    assert (await source.read_report(bytes(64))).report == b"report"
