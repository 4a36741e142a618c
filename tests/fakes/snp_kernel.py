"""The kernel's side of the two guest drivers, at the boundary of the system call.

The structures are written down here once more, as `ctypes` classes in the words of the kernel's header, so
that a mistake in the product's formats shows. Outcomes are played in order; each request is recorded.
"""

from __future__ import annotations

import ctypes
import errno
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

GET_REPORT, GET_EXT_REPORT, LEGACY_GET_REPORT = 0xC0205300, 0xC0205302, 0xC0285301


class GuestRequest(ctypes.Structure):
    """struct snp_guest_request_ioctl."""

    _fields_ = (
        ("msg_version", ctypes.c_uint8),
        ("req_data", ctypes.c_uint64),
        ("resp_data", ctypes.c_uint64),
        ("fw_error", ctypes.c_uint32),
        ("vmm_error", ctypes.c_uint32),
    )


class ReportRequest(ctypes.Structure):
    """struct snp_report_req."""

    _fields_ = (
        ("user_data", ctypes.c_uint8 * 64),
        ("vmpl", ctypes.c_uint32),
        ("rsvd", ctypes.c_uint8 * 28),
    )


class ExtendedRequest(ctypes.Structure):
    """struct snp_ext_report_req."""

    _fields_ = (
        ("data", ReportRequest),
        ("certs_address", ctypes.c_uint64),
        ("certs_len", ctypes.c_uint32),
    )


class LegacyRequest(ctypes.Structure):
    """struct snp_user_guest_request of the 5.x driver."""

    _fields_ = (
        ("req_msg_type", ctypes.c_uint8),
        ("rsp_msg_type", ctypes.c_uint8),
        ("msg_version", ctypes.c_uint8),
        ("request_len", ctypes.c_uint16),
        ("request_uaddr", ctypes.c_uint64),
        ("response_len", ctypes.c_uint16),
        ("response_uaddr", ctypes.c_uint64),
        ("error", ctypes.c_uint32),
    )


@dataclass(frozen=True)
class Outcome:
    """What one request ends in.

    `code` is an errno (0 for success), `result` what the ioctl returns when it does not fail.
    """

    code: int = 0
    result: int = 0
    fw_error: int = 0
    vmm_error: int = 0
    certificates: bytes = b""
    wants: int = 0
    status: int = 0
    size: int = 0x4A0


@dataclass
class Kernel:
    """Plays `outcomes`, then success; `sign` makes the report for 64 bytes of user data."""

    sign: Callable[[bytes], bytes]
    outcomes: Sequence[Outcome] = ()
    requests: list[tuple[int, bytes, int, int]] = field(default_factory=list)

    def ioctl(self, descriptor: int, request: int, argument: bytearray) -> int:
        """In place of `fcntl.ioctl`."""
        position = len(self.requests)
        outcome = self.outcomes[position] if position < len(self.outcomes) else Outcome()
        if request == GET_EXT_REPORT:
            return self._extended(argument, outcome)
        if request == LEGACY_GET_REPORT:
            return self._legacy(argument, outcome)
        raise OSError(errno.ENOTTY, "no such request")

    def _extended(self, argument: bytearray, outcome: Outcome) -> int:
        call = GuestRequest.from_buffer(argument)
        assert call.msg_version == 1
        assert (call.fw_error, call.vmm_error) == (0, 0), "old kernels leave the field alone"
        wanted = ExtendedRequest.from_address(call.req_data)
        self._record(GET_EXT_REPORT, wanted.data, wanted.certs_len)
        assert wanted.certs_address
        assert wanted.certs_len % 4096 == 0
        if outcome.wants:
            wanted.certs_len = outcome.wants
        if outcome.code or outcome.result:
            call.fw_error, call.vmm_error = outcome.fw_error, outcome.vmm_error
            return self._fail(outcome)
        ctypes.memmove(wanted.certs_address, outcome.certificates, len(outcome.certificates))
        self._answer(call.resp_data, 4000, wanted.data, outcome)
        return 0

    def _legacy(self, argument: bytearray, outcome: Outcome) -> int:
        call = LegacyRequest.from_buffer(argument)
        assert (call.req_msg_type, call.rsp_msg_type, call.msg_version) == (5, 6, 1)
        assert (call.request_len, call.error) == (96, 0)
        assert call.response_len >= 1280
        wanted = ReportRequest.from_address(call.request_uaddr)
        self._record(LEGACY_GET_REPORT, wanted, 0)
        if outcome.code or outcome.result:
            call.error = outcome.fw_error
            return self._fail(outcome)
        self._answer(call.response_uaddr, call.response_len, wanted, outcome)
        return 0

    def _record(self, number: int, wanted: ReportRequest, room: int) -> None:
        assert not any(wanted.rsvd)
        self.requests.append((number, bytes(wanted.user_data), wanted.vmpl, room))

    def _fail(self, outcome: Outcome) -> int:
        if outcome.code:
            raise OSError(outcome.code, "as played")
        return outcome.result

    def _answer(self, address: int, room: int, wanted: ReportRequest, outcome: Outcome) -> None:
        head = outcome.status.to_bytes(4, "little") + outcome.size.to_bytes(4, "little") + bytes(24)
        answer = head + self.sign(bytes(wanted.user_data))
        assert len(answer) <= room
        ctypes.memmove(address, answer, len(answer))
