"""/dev/sev-guest against a kernel played at the system call: each row of the errno table, certificates."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest
import trio
from fakes.snp_kernel import GET_EXT_REPORT, Kernel, Outcome

from sidecar.errors import MalformedInput, ReportUnavailable, SourceAbsent
from sidecar.snp.certtable import build_certificate_table, parse_certificate_table, table_of
from sidecar.snp.firmware import Pacer
from sidecar.snp.leaf import LeafKind
from sidecar.snp.sevguest import SevGuestSource, open_device
from sidecar.snp.software import SoftwareProcessor

DATA = bytes(range(64))
# A character device that opens anywhere; the ioctl is played.
DEVICE = Path("/dev/null")
TOO_SMALL = {"code": errno.EIO, "vmm_error": 1}


def make(processor: SoftwareProcessor, *outcomes: Outcome, vmpl: int = 0) -> tuple[SevGuestSource, Kernel]:
    kernel = Kernel(lambda data: processor.sign_report(data), outcomes)
    return SevGuestSource(DEVICE, vmpl=vmpl, ioctl=kernel.ioctl, pacer=Pacer(interval=0)), kernel


async def test_report_with_certificates(snp_processor: SoftwareProcessor) -> None:
    table = build_certificate_table(table_of(snp_processor.chain).entries)
    source, kernel = make(snp_processor, Outcome(certificates=table))
    raw = await source.read_report(DATA)
    assert raw.report[0x50:0x90] == DATA
    assert parse_certificate_table(raw.certificate_table).chain(LeafKind.VCEK) == snp_processor.chain
    assert kernel.requests == [(GET_EXT_REPORT, DATA, 0, 16384)]


async def test_report_without_certificates(snp_processor: SoftwareProcessor) -> None:
    source, kernel = make(snp_processor, vmpl=2)
    assert (await source.read_report(DATA)).certificate_table == b""
    assert kernel.requests[0][2] == 2


async def test_a_larger_table_is_asked_for_once(snp_processor: SoftwareProcessor) -> None:
    source, kernel = make(
        snp_processor, Outcome(wants=20480, **TOO_SMALL), Outcome(certificates=b"x" * 20480)
    )
    assert (await source.read_report(DATA)).certificate_table == b"x" * 20480
    assert [request[3] for request in kernel.requests] == [16384, 20480]


async def test_a_table_that_keeps_growing(snp_processor: SoftwareProcessor) -> None:
    grow = (Outcome(wants=20480, **TOO_SMALL), Outcome(wants=24576, **TOO_SMALL))
    source, kernel = make(snp_processor, *grow)
    with pytest.raises(ReportUnavailable, match="ever larger"):
        await source.read_report(DATA)
    assert len(kernel.requests) == 2


@pytest.mark.parametrize("wants", [0, 4096, 16384, 16385, 1 << 30])
async def test_absurd_sizes_are_refused(snp_processor: SoftwareProcessor, wants: int) -> None:
    source, _ = make(snp_processor, Outcome(wants=wants, **TOO_SMALL))
    with pytest.raises(MalformedInput, match="host wants a certificate buffer"):
        await source.read_report(DATA)


FATAL = [
    ("firmware error", Outcome(code=errno.EIO, fw_error=0x16)),
    ("host error", Outcome(code=errno.EIO, vmm_error=2)),
    ("size error with a firmware error", Outcome(code=errno.EIO, vmm_error=1, fw_error=0x1D)),
    ("key wiped", Outcome(code=errno.ENOTTY)),
    ("key wiped, stale field", Outcome(code=errno.ENOTTY, vmm_error=1)),
    ("host busy", Outcome(code=errno.ETIMEDOUT)),
    ("bad message", Outcome(code=errno.EBADMSG)),
    ("invalid", Outcome(code=errno.EINVAL)),
    ("fault", Outcome(code=errno.EFAULT)),
    ("unknown", Outcome(code=errno.ENOMEM)),
    ("positive result", Outcome(result=5)),
]


@pytest.mark.parametrize("outcome", [o for _, o in FATAL], ids=[name for name, _ in FATAL])
async def test_fatal_failures_are_final(snp_processor: SoftwareProcessor, outcome: Outcome) -> None:
    """The next request is refused with the same words, and the device is not touched again."""
    source, kernel = make(snp_processor, outcome)
    with pytest.raises(ReportUnavailable) as first:
        await source.read_report(DATA)
    with pytest.raises(ReportUnavailable) as second:
        await source.read_report(DATA)
    assert str(first.value) == str(second.value)
    assert str(DEVICE) in str(first.value)
    assert first.value.hint == second.value.hint
    assert len(kernel.requests) == 1


@pytest.mark.parametrize("code", [errno.EINTR, errno.EAGAIN])
async def test_harmless_failures_are_retried_a_few_times(snp_processor: SoftwareProcessor, code: int) -> None:
    source, kernel = make(snp_processor, Outcome(code=code), Outcome(code=code))
    assert (await source.read_report(DATA)).report[0x50:0x90] == DATA
    assert len(kernel.requests) == 3
    source, kernel = make(snp_processor, *[Outcome(code=code)] * 5)
    with pytest.raises(ReportUnavailable, match="3 times"):
        await source.read_report(DATA)
    assert len(kernel.requests) == 3


async def test_success_can_carry_a_failing_status(snp_processor: SoftwareProcessor) -> None:
    source, _ = make(snp_processor, Outcome(status=0x27), Outcome(size=0))
    with pytest.raises(ReportUnavailable, match=r"status 0x27 \(invalid key selection\)"):
        await source.read_report(DATA)
    with pytest.raises(MalformedInput, match="report of 0 bytes"):
        await source.read_report(DATA)


async def test_a_report_over_other_data_is_refused(snp_processor: SoftwareProcessor) -> None:
    kernel = Kernel(lambda data: snp_processor.sign_report(bytes(64)))
    with pytest.raises(MalformedInput, match="differs from what was asked for"):
        await SevGuestSource(DEVICE, ioctl=kernel.ioctl).read_report(DATA)


async def test_report_data_is_checked_before_the_device(snp_processor: SoftwareProcessor) -> None:
    source, kernel = make(snp_processor)
    with pytest.raises(MalformedInput, match="65 bytes, wanted 64"):
        await source.read_report(bytes(65))
    assert kernel.requests == []


async def test_real_ioctl_on_something_else() -> None:
    """/dev/null knows no such request: the real system call, and the row for it."""
    with pytest.raises(ReportUnavailable, match="ENOTTY"):
        await SevGuestSource(DEVICE).read_report(DATA)


async def test_absence_is_told_from_refusal(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "none", tmp_path / "file" / "none", tmp_path, tmp_path / "file"):
        with pytest.raises(SourceAbsent):
            await SevGuestSource(path).read_report(DATA)


def test_a_forbidden_device_is_not_absent(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> int:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr("os.open", refuse)
    with pytest.raises(ReportUnavailable, match="cannot be opened: Permission denied") as caught:
        open_device(DEVICE)
    assert not isinstance(caught.value, SourceAbsent)
    assert "root" in caught.value.hint


async def test_descriptors_are_closed_after_success_and_failure(snp_processor: SoftwareProcessor) -> None:
    descriptors = Path("/proc/self/fd")
    source, _ = make(snp_processor, Outcome(), Outcome(code=errno.EINVAL))
    await source.read_report(DATA)
    before = len(list(descriptors.iterdir()))
    with pytest.raises(ReportUnavailable):
        await source.read_report(DATA)
    assert len(list(descriptors.iterdir())) == before


async def test_requests_are_serialised(snp_processor: SoftwareProcessor) -> None:
    running, peak = 0, 0

    def ioctl(descriptor: int, request: int, argument: bytearray) -> int:
        nonlocal running, peak
        running += 1
        peak = max(peak, running)
        try:
            return kernel.ioctl(descriptor, request, argument)
        finally:
            running -= 1

    kernel = Kernel(lambda data: snp_processor.sign_report(data))
    source = SevGuestSource(DEVICE, ioctl=ioctl, pacer=Pacer(interval=0))
    async with trio.open_nursery() as nursery:
        for _ in range(8):
            nursery.start_soon(source.read_report, DATA)
    assert (len(kernel.requests), peak) == (8, 1)
