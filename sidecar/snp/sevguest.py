"""Reports from `/dev/sev-guest`, the driver of mainline kernels since 5.19, with the host's certificates.

Strategy: the extended request with a buffer as large as the kernel allows, so that one request is enough; if
the host's table is larger, one more with the size it named.

Spec: include/uapi/linux/sev-guest.h; see `guestabi`.

Kind: adapter
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import stat
from collections.abc import Callable
from pathlib import Path

from sidecar.errors import MalformedInput, ReportUnavailable, SourceAbsent
from sidecar.snp import guestabi as abi
from sidecar.snp.firmware import Failed, FirmwareSource, Pacer
from sidecar.snp.guestabi import Diagnosis, Remedy
from sidecar.snp.source import RawReport

DEVICE = Path("/dev/sev-guest")
# fcntl.ioctl's shape: descriptor, request, argument (changed in place); what tests replace.
Ioctl = Callable[[int, int, bytearray], int]


def system_ioctl(descriptor: int, request: int, argument: bytearray) -> int:
    """The real one. The argument is small enough for `fcntl` to release the interpreter lock meanwhile."""
    return int(fcntl.ioctl(descriptor, request, argument, True))


def open_device(path: Path) -> int:
    """Open a character device for requests; the caller closes it.

    Raises:
        SourceAbsent: there is none, or something else has its name.
        ReportUnavailable: it is there and may not be opened.
    """
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        raise SourceAbsent(f"{path}: not there") from None
    except OSError as exc:
        # ENXIO and ENODEV: a node whose driver is not loaded.
        kind = ReportUnavailable if isinstance(exc, PermissionError) else SourceAbsent
        hint = "it can be opened by root, or by a container that was given the device"
        raise kind(f"{path}: cannot be opened: {exc.strerror}", hint=hint) from exc
    if not stat.S_ISCHR(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise SourceAbsent(f"{path}: not a device")
    return descriptor


class SevGuestSource(FirmwareSource):
    """`ReportSource` over `/dev/sev-guest`."""

    name = "sev-guest"

    def __init__(
        self, path: Path = DEVICE, *, vmpl: int = 0, ioctl: Ioctl = system_ioctl, pacer: Pacer | None = None
    ) -> None:
        super().__init__(str(path), pacer)
        self._path = path
        self._vmpl = vmpl
        self._ioctl = ioctl

    def request(self, report_data: bytes) -> RawReport:
        """One report, with at most two requests; see `FirmwareSource`."""
        descriptor = open_device(self._path)
        try:
            room = abi.CERTIFICATE_BUFFER
            found = self._extended(descriptor, report_data, room)
            if isinstance(found, int):
                if not room < found <= abi.CERTIFICATE_BUFFER_MAX or found % abi.CERTIFICATE_PAGE:
                    raise MalformedInput(f"{self._path}: host wants a certificate buffer of {found} bytes")
                found = self._extended(descriptor, report_data, found)
            if isinstance(found, int):
                raise ReportUnavailable(f"{self._path}: the host wants an ever larger certificate buffer")
            return found
        finally:
            os.close(descriptor)

    def _extended(self, descriptor: int, report_data: bytes, room: int) -> RawReport | int:
        """One extended request: the report, or the room that the host's certificates need, in bytes."""
        certificates = ctypes.create_string_buffer(room)
        request = ctypes.create_string_buffer(
            abi.EXTENDED_REQUEST.pack(report_data, self._vmpl, ctypes.addressof(certificates), room),
            abi.EXTENDED_REQUEST.size,
        )
        response = ctypes.create_string_buffer(abi.RESPONSE_SIZE)
        # exitinfo2 starts at zero: the kernel writes it only after some failures.
        argument = bytearray(
            abi.ARGUMENT.pack(abi.MESSAGE_VERSION, ctypes.addressof(request), ctypes.addressof(response), 0)
        )
        diagnosis = self._call(descriptor, argument)
        if diagnosis is None:
            table = certificates.raw
            return RawReport(abi.parse_response(response.raw, report_data), table if any(table[:24]) else b"")
        if diagnosis.remedy is Remedy.GROW:
            (wanted,) = abi.EXTENDED_LENGTH.unpack_from(request.raw, abi.EXTENDED_LENGTH_OFFSET)
            return int(wanted)
        raise Failed(diagnosis)

    def _call(self, descriptor: int, argument: bytearray) -> Diagnosis | None:
        try:
            result = self._ioctl(descriptor, abi.SNP_GET_EXT_REPORT, argument)
        except OSError as exc:
            return abi.diagnose(exc.errno or 0, abi.ARGUMENT.unpack(argument)[3])
        # Kernels up to 6.2 could hand the host's own code through as a positive result.
        return abi.diagnose_result(result) if result else None
