"""Sizes, offsets and numbers against the kernel's own header; meaning of each failure."""

from __future__ import annotations

import errno
import shutil
import subprocess
from pathlib import Path

import pytest

from sidecar.errors import MalformedInput, ReportUnavailable
from sidecar.snp import guestabi as abi
from sidecar.snp.guestabi import Remedy
from sidecar.snp.software import SoftwareProcessor

HEADER = Path("/usr/include/linux/sev-guest.h")
PROGRAM = """
#include <stdio.h>
#include <stddef.h>
#include <sys/ioctl.h>
#include <linux/types.h>
#include <linux/sev-guest.h>
#define SHOW(name, value) printf("%s %lu\\n", name, (unsigned long)(value))
int main(void) {
    SHOW("report_req", sizeof(struct snp_report_req));
    SHOW("report_req.user_data", offsetof(struct snp_report_req, user_data));
    SHOW("report_req.vmpl", offsetof(struct snp_report_req, vmpl));
    SHOW("report_req.rsvd", offsetof(struct snp_report_req, rsvd));
    SHOW("report_resp", sizeof(struct snp_report_resp));
    SHOW("ext_report_req", sizeof(struct snp_ext_report_req));
    SHOW("ext_report_req.certs_address", offsetof(struct snp_ext_report_req, certs_address));
    SHOW("ext_report_req.certs_len", offsetof(struct snp_ext_report_req, certs_len));
    SHOW("ioctl", sizeof(struct snp_guest_request_ioctl));
    SHOW("ioctl.msg_version", offsetof(struct snp_guest_request_ioctl, msg_version));
    SHOW("ioctl.req_data", offsetof(struct snp_guest_request_ioctl, req_data));
    SHOW("ioctl.resp_data", offsetof(struct snp_guest_request_ioctl, resp_data));
    SHOW("ioctl.exitinfo2", 24);
    SHOW("SNP_GET_REPORT", SNP_GET_REPORT);
    SHOW("SNP_GET_EXT_REPORT", SNP_GET_EXT_REPORT);
    SHOW("legacy", _IOWR('S', 1, char[40]));
    return 0;
}
"""


def place(struct: abi.struct.Struct, *values: object, marker: bytes) -> int:
    """Offset at which a marker value ends up in the packed structure."""
    return struct.pack(*values).index(marker)


def test_structures_match_the_kernels_header(tmp_path: Path) -> None:
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None or not HEADER.exists():
        pytest.skip(f"needs a C compiler and {HEADER} (linux-libc-dev)")
    source, program = tmp_path / "abi.c", tmp_path / "abi"
    source.write_text(PROGRAM)
    subprocess.run([compiler, "-Wall", "-Werror", "-o", program, source], check=True, timeout=60)
    output = subprocess.run([program], check=True, timeout=10, capture_output=True, text=True).stdout
    kernel = {name: int(value) for name, value in (line.split() for line in output.splitlines())}
    mark = 0x1122334455667788
    m64, m32 = mark.to_bytes(8, "little"), b"\x44\x33\x22\x11"
    data = bytes(64)
    ours = {
        "report_req": abi.REPORT_REQUEST.size,
        "report_req.user_data": place(abi.REPORT_REQUEST, m64.ljust(64, b"\0"), 0, marker=m64),
        "report_req.vmpl": place(abi.REPORT_REQUEST, data, 0x11223344, marker=m32),
        "report_req.rsvd": abi.REPORT_REQUEST.size - 28,
        "report_resp": abi.RESPONSE_SIZE,
        "ext_report_req": abi.EXTENDED_REQUEST.size,
        "ext_report_req.certs_address": place(abi.EXTENDED_REQUEST, data, 0, mark, 0, marker=m64),
        "ext_report_req.certs_len": place(abi.EXTENDED_REQUEST, data, 0, 0, 0x11223344, marker=m32),
        "ioctl": abi.ARGUMENT.size,
        "ioctl.msg_version": place(abi.ARGUMENT, 7, 0, 0, 0, marker=b"\7"),
        "ioctl.req_data": place(abi.ARGUMENT, 0, mark, 0, 0, marker=m64),
        "ioctl.resp_data": place(abi.ARGUMENT, 0, 0, mark, 0, marker=m64),
        "ioctl.exitinfo2": place(abi.ARGUMENT, 0, 0, 0, mark, marker=m64),
        "SNP_GET_REPORT": abi.SNP_GET_REPORT,
        "SNP_GET_EXT_REPORT": abi.SNP_GET_EXT_REPORT,
        "legacy": abi.LEGACY_GET_REPORT,
    }
    assert ours == kernel
    assert kernel["ext_report_req.certs_len"] == abi.EXTENDED_LENGTH_OFFSET


def test_numbers_as_published() -> None:
    assert (abi.SNP_GET_REPORT, abi.SNP_GET_EXT_REPORT) == (3223343872, 0xC0205302)
    assert (abi.LEGACY_GET_REPORT, abi.LEGACY_ARGUMENT.size) == (3223868161, 40)


FATAL, RETRY, GROW = Remedy.FATAL, Remedy.RETRY, Remedy.GROW
ROWS = [
    (errno.EIO, 1 << 32, GROW, "larger buffer"),
    (errno.EIO, 0x16, FATAL, "firmware error 0x16 (invalid parameter), host error 0x0"),
    (errno.EIO, 0x1D, FATAL, "firmware error 0x1d"),
    (errno.EIO, 2 << 32, FATAL, "host error 0x2"),
    (errno.EIO, (1 << 32) | 5, FATAL, "firmware error 0x5"),
    (errno.EIO, 0xFF, FATAL, "no firmware call was made"),
    (errno.EIO, 2**64 - 1, FATAL, "no firmware call was made"),
    (errno.EIO, None, FATAL, "kernel log"),
    (errno.ENOTTY, 1 << 32, FATAL, "key was disabled"),
    (errno.ETIMEDOUT, 0, FATAL, "busy for too long"),
    (errno.EBADMSG, 0, FATAL, "not the firmware's"),
    (errno.EINVAL, 0, FATAL, "refused the request"),
    (errno.EFAULT, 0, FATAL, "could not read"),
    (errno.EINTR, 0, RETRY, "interrupted"),
    (errno.EAGAIN, 0, RETRY, "busy"),
    (errno.ENOMEM, 0, FATAL, "ENOMEM"),
    (99999, 0, FATAL, "99999"),
]


@pytest.mark.parametrize(("code", "exitinfo2", "remedy", "words"), ROWS)
def test_each_failure_has_its_remedy(code: int, exitinfo2: int | None, remedy: Remedy, words: str) -> None:
    diagnosis = abi.diagnose(code, exitinfo2)
    assert diagnosis.remedy is remedy
    assert words in diagnosis.message


@pytest.mark.parametrize("code", [errno.EIO, errno.ENOTTY, errno.ETIMEDOUT, errno.EBADMSG])
def test_a_wiped_key_says_what_helps(code: int) -> None:
    assert "restart of the guest" in abi.diagnose(code, 0).hint


@pytest.mark.parametrize("result", [1, 2, 5, 77, -1])
def test_a_result_is_a_failure(result: int) -> None:
    assert abi.diagnose_result(result).remedy is FATAL


def test_response_is_read_with_suspicion(snp_processor: SoftwareProcessor) -> None:
    data = bytes(range(64))
    report = snp_processor.sign_report(data)
    good = bytes(4) + (0x4A0).to_bytes(4, "little") + bytes(24) + report
    assert abi.parse_response(good.ljust(4000, b"\0"), data) == report
    with pytest.raises(ReportUnavailable, match=r"status 0x16 \(invalid parameter\)"):
        abi.parse_response(b"\x16" + good[1:], data)
    with pytest.raises(MalformedInput, match="report of 1183 bytes"):
        abi.parse_response(good[:4] + (0x49F).to_bytes(4, "little") + good[8:], data)
    with pytest.raises(MalformedInput, match="differs from what was asked for"):
        abi.parse_response(good, bytes(64))


@pytest.mark.parametrize("size", [0, 32, 63, 65])
def test_report_data_has_64_bytes(size: int) -> None:
    with pytest.raises(MalformedInput, match=f"{size} bytes, wanted 64"):
        abi.check_report_data(bytes(size))
