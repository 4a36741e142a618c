"""/dev/sev of the 5.x kernels: raw results are failures, and a host's device of that name is no guest's."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest
from fakes.snp_kernel import LEGACY_GET_REPORT, Kernel, Outcome

from sidecar.errors import MalformedInput, ReportUnavailable, SourceAbsent
from sidecar.snp.firmware import Pacer
from sidecar.snp.sevlegacy import SevLegacySource
from sidecar.snp.software import SoftwareProcessor

DATA = bytes(range(64))
DEVICE = Path("/dev/null")


def make(processor: SoftwareProcessor, *outcomes: Outcome) -> tuple[SevLegacySource, Kernel]:
    kernel = Kernel(lambda data: processor.sign_report(data), outcomes)
    return SevLegacySource(DEVICE, vmpl=1, ioctl=kernel.ioctl, pacer=Pacer(interval=0)), kernel


async def test_report(snp_processor: SoftwareProcessor) -> None:
    source, kernel = make(snp_processor)
    raw = await source.read_report(DATA)
    assert raw.report[0x50:0x90] == DATA
    assert raw.certificate_table == b""
    assert kernel.requests == [(LEGACY_GET_REPORT, DATA, 1, 0)]


@pytest.mark.parametrize("result", [1, 2, 3, 4, 5, 0x100000000])
async def test_a_positive_result_is_a_failure(snp_processor: SoftwareProcessor, result: int) -> None:
    source, kernel = make(snp_processor, Outcome(result=result))
    for _ in range(2):
        with pytest.raises(ReportUnavailable, match=f"the host returned {result}"):
            await source.read_report(DATA)
    assert len(kernel.requests) == 1


@pytest.mark.parametrize("code", [errno.EINVAL, errno.ENOTTY])
async def test_a_hosts_device_is_absent_and_asked_again(snp_processor: SoftwareProcessor, code: int) -> None:
    source, kernel = make(snp_processor, Outcome(code=code), Outcome(code=code))
    for _ in range(2):
        with pytest.raises(SourceAbsent, match="not a guest's device") as caught:
            await source.read_report(DATA)
    assert "management device" in caught.value.hint
    assert len(kernel.requests) == 2


@pytest.mark.parametrize(
    ("outcome", "words"),
    [
        (Outcome(code=errno.EIO, fw_error=0x16), "firmware error 0x16"),
        (Outcome(code=errno.EIO, fw_error=0xFF), "no firmware call"),
        (Outcome(code=errno.ENOTTY), "key was disabled"),
        (Outcome(code=errno.EINVAL), "refused the request"),
        (Outcome(code=errno.ETIMEDOUT), "busy for too long"),
        (Outcome(code=errno.EBADMSG), "not the firmware's"),
        (Outcome(code=errno.EFAULT), "could not read"),
    ],
)
async def test_failures_after_a_success_are_final(
    snp_processor: SoftwareProcessor, outcome: Outcome, words: str
) -> None:
    source, kernel = make(snp_processor, Outcome(), outcome)
    await source.read_report(DATA)
    for _ in range(2):
        with pytest.raises(ReportUnavailable, match=words) as caught:
            await source.read_report(DATA)
        assert not isinstance(caught.value, SourceAbsent)
    assert len(kernel.requests) == 2


@pytest.mark.parametrize("code", [errno.EINTR, errno.EAGAIN])
async def test_harmless_failures_are_retried(snp_processor: SoftwareProcessor, code: int) -> None:
    source, kernel = make(snp_processor, Outcome(code=code))
    await source.read_report(DATA)
    assert len(kernel.requests) == 2


async def test_status_in_a_successful_answer(snp_processor: SoftwareProcessor) -> None:
    source, _ = make(snp_processor, Outcome(status=0x16), Outcome(size=1))
    with pytest.raises(ReportUnavailable, match="status 0x16"):
        await source.read_report(DATA)
    with pytest.raises(MalformedInput):
        await source.read_report(DATA)


async def test_absent_device(tmp_path: Path) -> None:
    with pytest.raises(SourceAbsent, match="not there"):
        await SevLegacySource(tmp_path / "sev").read_report(DATA)
