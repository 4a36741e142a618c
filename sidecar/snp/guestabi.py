"""What the kernel's two SNP guest drivers take and give: structures, ioctl numbers, meaning of failures.

Strategy: each C structure is one `struct` format, checked in the tests against the kernel's own header; each
outcome of an ioctl becomes a `Diagnosis`, so that no other module reasons about errno.

Rules: a request is never repeated unless its failure is known to be harmless. Sequence number and IV of a
request are tied; after an unanswered one the kernel wipes its key (VMPCK), and only a restart brings it back.

Spec: include/uapi/linux/sev-guest.h (mainline, 5.19 and later); the guest driver of AMD's 5.x kernels for
    /dev/sev; AMD 56860, MSG_REPORT_REQ and MSG_REPORT_RSP; AMD 56421 (GHCB), SNP guest request.

Kind: pure
"""

from __future__ import annotations

import errno
import struct
from dataclasses import dataclass
from enum import Enum

from sidecar.errors import MalformedInput, ReportUnavailable
from sidecar.snp.report import REPORT_DATA_SIZE, REPORT_SIZE, parse_report


def _iowr(number: int, size: int) -> int:
    """_IOWR('S', number, size); asm-generic/ioctl.h."""
    return 3 << 30 | size << 16 | ord("S") << 8 | number


# struct snp_report_req: report_data, vmpl, zeros.
REPORT_REQUEST = struct.Struct("<64sI28x")
# struct snp_ext_report_req: the same, then address and length of the certificate buffer.
EXTENDED_REQUEST = struct.Struct("<64sI28xQI4x")
EXTENDED_LENGTH = struct.Struct("<I")
EXTENDED_LENGTH_OFFSET = 104
# struct snp_guest_request_ioctl: msg_version, req_data, resp_data, exitinfo2.
ARGUMENT = struct.Struct("<B7xQQQ")
RESPONSE_SIZE = 4000
SNP_GET_REPORT = _iowr(0, ARGUMENT.size)
SNP_GET_EXT_REPORT = _iowr(2, ARGUMENT.size)
MESSAGE_VERSION = 1
CERTIFICATE_PAGE = 4096
# The kernel's SEV_FW_BLOB_MAX_SIZE.
CERTIFICATE_BUFFER = 16 * 1024
CERTIFICATE_BUFFER_MAX = 256 * 1024

# struct snp_user_guest_request of the 5.x driver: request and response type, version, request length and
# address, response length and address, firmware error.
LEGACY_ARGUMENT = struct.Struct("<BBBxHxxQH6xQI4x")
LEGACY_GET_REPORT = _iowr(1, LEGACY_ARGUMENT.size)
LEGACY_REQUEST_TYPE = 5
LEGACY_RESPONSE_TYPE = 6
# Header 32, report 1184, padding 64; shorter is refused by the driver.
LEGACY_RESPONSE_SIZE = 1280

# MSG_REPORT_RSP: status, report size, zeros; the report follows.
_RESPONSE = struct.Struct("<II24x")
_STATUS = {0x16: "invalid parameter", 0x27: "invalid key selection"}
_VMM_ERROR_LENGTH = 1
_NO_FIRMWARE_CALL = (0xFF, 0xFFFFFFFF)
_REBOOT = "the kernel has disabled the guest's key; only a restart of the guest brings it back"


class Remedy(Enum):
    """What may follow a failed request."""

    GROW = "ask again with a larger certificate buffer, once"
    RETRY = "ask again, a bounded number of times"
    ABSENT = "this device is not what we need; another source may be"
    FATAL = "never ask again"


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """Meaning of a failed ioctl."""

    remedy: Remedy
    message: str
    hint: str = ""


def check_report_data(report_data: bytes) -> None:
    """Raise MalformedInput unless `report_data` has 64 bytes; no device is asked with anything else."""
    if len(report_data) != REPORT_DATA_SIZE:
        raise MalformedInput(f"report data: {len(report_data)} bytes, wanted {REPORT_DATA_SIZE}")


def parse_response(data: bytes, report_data: bytes) -> bytes:
    """Read MSG_REPORT_RSP; a successful ioctl can still carry a failure.

    Args:
        data: at least 1216 bytes, public. report_data: 64 bytes that were asked for.

    Returns:
        The report, 1184 bytes.

    Raises:
        ReportUnavailable: the firmware's status is not zero.
        MalformedInput: another size, or a report over other data.

    Spec: AMD 56860, MSG_REPORT_RSP.
    """
    status, size = _RESPONSE.unpack_from(data)
    if status:
        name = _STATUS.get(status, "unknown")
        raise ReportUnavailable(f"SNP firmware: status {status:#x} ({name}), wanted 0")
    if size != REPORT_SIZE:
        raise MalformedInput(f"SNP firmware: report of {size} bytes, wanted {REPORT_SIZE}")
    report = bytes(data[_RESPONSE.size : _RESPONSE.size + REPORT_SIZE])
    require_report_data(report, report_data)
    return report


def require_report_data(report: bytes, report_data: bytes) -> None:
    """Raise MalformedInput unless the report parses and is over this data: nobody else's came back."""
    if parse_report(report).report_data != report_data:
        raise MalformedInput("report: REPORT_DATA differs from what was asked for")


def diagnose(code: int, exitinfo2: int | None) -> Diagnosis:
    """Say what a failed request to either driver means.

    Args:
        code: errno, positive.
        exitinfo2: the argument's error field as left behind, None where the interface has none; meaningful
            for EIO only, old kernels return garbage in it otherwise.
    """
    if code == errno.EIO:
        return _diagnose_eio(exitinfo2)
    if code in _DIAGNOSES:
        return _DIAGNOSES[code]
    return Diagnosis(Remedy.FATAL, f"{errno.errorcode.get(code, 'errno')} ({code})")


def diagnose_result(result: int) -> Diagnosis:
    """Say what an ioctl means that did not fail but returned something else than zero.

    Early drivers hand the host's result of the request through unchanged (AMD 56421).
    """
    names = {1: "unsupported", 2: "host error", 3: "decode failure", 4: "exception", 5: "retry"}
    return Diagnosis(
        Remedy.FATAL, f"the host returned {result} ({names.get(result, 'unknown')}), wanted 0", _REBOOT
    )


def _diagnose_eio(exitinfo2: int | None) -> Diagnosis:
    if exitinfo2 is None:
        return Diagnosis(Remedy.FATAL, "EIO: firmware or host error, the kernel log has it", _REBOOT)
    firmware, host = exitinfo2 & 0xFFFFFFFF, exitinfo2 >> 32
    if host == _VMM_ERROR_LENGTH and firmware == 0:
        return Diagnosis(Remedy.GROW, "the host's certificates need a larger buffer")
    if firmware in _NO_FIRMWARE_CALL:
        seen = "no firmware call was made"
    else:
        seen = f"firmware error {firmware:#x} ({_STATUS.get(firmware, 'see AMD 56860')})"
    return Diagnosis(Remedy.FATAL, f"EIO: {seen}, host error {host:#x}", _REBOOT)


_OURS = "this is a mistake of this program or of the kernel; report it with the kernel's version"
_DIAGNOSES = {
    errno.ENOTTY: Diagnosis(
        Remedy.FATAL,
        "ENOTTY: the guest's key was disabled by an earlier failure, or this is another device",
        f"see the kernel log for VMPCK; {_REBOOT}, or another key with sev-guest.vmpck_id",
    ),
    errno.ETIMEDOUT: Diagnosis(Remedy.FATAL, "ETIMEDOUT: the host was busy for too long", _REBOOT),
    errno.EBADMSG: Diagnosis(Remedy.FATAL, "EBADMSG: the answer was not the firmware's", _REBOOT),
    errno.EINVAL: Diagnosis(Remedy.FATAL, "EINVAL: the driver refused the request", _OURS),
    errno.EFAULT: Diagnosis(Remedy.FATAL, "EFAULT: the driver could not read the request", _OURS),
    errno.EINTR: Diagnosis(Remedy.RETRY, "EINTR: interrupted"),
    errno.EAGAIN: Diagnosis(Remedy.RETRY, "EAGAIN: the host is busy"),
}
