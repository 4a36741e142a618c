"""What all sources that ask the real firmware share: pacing, bounded retry, and knowing when to stop.

A host that is asked too often answers "busy", and kernels 6.1 and 6.2 wipe the guest's key on the first such
answer; a public measurement found a limit of about 10 reports in 10 seconds. So requests go one at a time, a
few at once and then one every two seconds, whatever the callers do.

Rules: the request itself runs in a thread, and is waited for even when the caller is cancelled: it may block
for a minute, and nobody may send another one meanwhile. After a failure that cost the kernel its key, the
source keeps refusing with the same words and touches the device no more.

Kind: adapter
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio

from sidecar.errors import ReportUnavailable, SourceAbsent
from sidecar.snp import guestabi as abi
from sidecar.snp.guestabi import Diagnosis, Remedy
from sidecar.snp.source import RawReport


class Failed(Exception):
    """A request failed; what may follow is in `diagnosis`. Never leaves `FirmwareSource`."""

    def __init__(self, diagnosis: Diagnosis) -> None:
        super().__init__(diagnosis.message)
        self.diagnosis = diagnosis


class Pacer:
    """Lets `burst` requests pass at once, then one per `interval` seconds; never two at the same time."""

    def __init__(self, *, burst: int = 5, interval: float = 2.0) -> None:
        self._lock = trio.Lock()
        self._burst = burst
        self._interval = interval
        self._due = float("-inf")

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Wait for the turn and hold it."""
        async with self._lock:
            # Each turn moves the due time by one interval; a quiet spell earns at most `burst` turns.
            now = trio.current_time()
            self._due = max(self._due, now - self._burst * self._interval) + self._interval
            await trio.sleep_until(max(self._due, now))
            yield


class FirmwareSource:
    """Base of the hardware sources; a subclass says how one request is made."""

    name = "firmware"
    is_hardware = True
    attempts = 3

    def __init__(self, where: str, pacer: Pacer | None = None) -> None:
        self._where = where
        self._pacer = pacer or Pacer()
        self._broken: Diagnosis | None = None

    async def read_report(self, report_data: bytes) -> RawReport:
        """Ask the firmware; see `ReportSource`."""
        abi.check_report_data(report_data)
        last = ""
        for _ in range(self.attempts):
            async with self._pacer.turn():
                if self._broken:
                    raise self._unavailable(self._broken)
                try:
                    return await trio.to_thread.run_sync(self.request, report_data)
                except Failed as exc:
                    self._judge(exc.diagnosis)
                    last = exc.diagnosis.message
        raise ReportUnavailable(f"{self._where}: {last}, {self.attempts} times")

    def request(self, report_data: bytes) -> RawReport:
        """Make one request; blocks.

        Raises:
            Failed: the driver refused; SourceAbsent, ReportUnavailable, MalformedInput as `ReportSource`.
        """
        raise NotImplementedError

    def _judge(self, diagnosis: Diagnosis) -> None:
        if diagnosis.remedy is Remedy.RETRY:
            return
        if diagnosis.remedy is Remedy.ABSENT:
            raise SourceAbsent(f"{self._where}: {diagnosis.message}", hint=diagnosis.hint)
        self._broken = diagnosis
        raise self._unavailable(diagnosis)

    def _unavailable(self, diagnosis: Diagnosis) -> ReportUnavailable:
        return ReportUnavailable(f"{self._where}: {diagnosis.message}", hint=diagnosis.hint)
