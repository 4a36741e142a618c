"""Reports from `/dev/sev`, the guest driver of AMD's 5.x kernels, as in Azure's 5.15 utility VM.

On an AMD host the same name belongs to the management device of the security processor, which answers our
request with EINVAL or ENOTTY. Existence of the path proves nothing, so those two mean "absent" until a first
request has worked.

Rules: the early driver returns a failed call's raw value, possibly positive: all but zero is a failure.

Spec: guest driver of AMD's 5.x kernels, struct snp_user_guest_request; see `guestabi`.

Kind: adapter
"""

from __future__ import annotations

import ctypes
import errno
import os
from pathlib import Path

from sidecar.snp import guestabi as abi
from sidecar.snp.firmware import Failed, FirmwareSource, Pacer
from sidecar.snp.guestabi import Diagnosis, Remedy
from sidecar.snp.sevguest import Ioctl, open_device, system_ioctl
from sidecar.snp.source import RawReport

DEVICE = Path("/dev/sev")


class SevLegacySource(FirmwareSource):
    """`ReportSource` over `/dev/sev`; it has no extended report, so no certificates."""

    name = "sev"

    def __init__(
        self, path: Path = DEVICE, *, vmpl: int = 0, ioctl: Ioctl = system_ioctl, pacer: Pacer | None = None
    ) -> None:
        super().__init__(str(path), pacer)
        self._path = path
        self._vmpl = vmpl
        self._ioctl = ioctl
        self._has_worked = False

    def request(self, report_data: bytes) -> RawReport:
        """One report, with one request; see `FirmwareSource`."""
        request = ctypes.create_string_buffer(
            abi.REPORT_REQUEST.pack(report_data, self._vmpl), abi.REPORT_REQUEST.size
        )
        response = ctypes.create_string_buffer(abi.LEGACY_RESPONSE_SIZE)
        argument = bytearray(
            abi.LEGACY_ARGUMENT.pack(
                abi.LEGACY_REQUEST_TYPE,
                abi.LEGACY_RESPONSE_TYPE,
                abi.MESSAGE_VERSION,
                abi.REPORT_REQUEST.size,
                ctypes.addressof(request),
                abi.LEGACY_RESPONSE_SIZE,
                ctypes.addressof(response),
                0,
            )
        )
        descriptor = open_device(self._path)
        try:
            diagnosis = self._call(descriptor, argument)
        finally:
            os.close(descriptor)
        if diagnosis:
            raise Failed(diagnosis)
        self._has_worked = True
        return RawReport(abi.parse_response(response.raw, report_data))

    def _call(self, descriptor: int, argument: bytearray) -> Diagnosis | None:
        try:
            result = self._ioctl(descriptor, abi.LEGACY_GET_REPORT, argument)
        except OSError as exc:
            code = exc.errno or 0
            if code in (errno.EINVAL, errno.ENOTTY) and not self._has_worked:
                return Diagnosis(
                    Remedy.ABSENT,
                    f"{errno.errorcode[code]}: not a guest's device, or the guest's key was disabled",
                    "on an AMD host this name belongs to the management device",
                )
            # This driver reports the firmware's error alone, 32 bits wide.
            return abi.diagnose(code, abi.LEGACY_ARGUMENT.unpack(argument)[-1])
        return abi.diagnose_result(result) if result else None
