"""Reports of an Azure confidential VM with a paravisor: its virtual TPM keeps them, see `hcl`.

Strategy: write the caller's 64 bytes into one TPM index, then read the report from another until its runtime
data names them; the paravisor needs a moment for a new report. The report's own REPORT_DATA is the digest of
the runtime data, which is therefore handed over together with it.

Rules: a blob whose runtime data names other bytes is stale and is not returned. Such a report cannot carry
the digest of a wrapping key in REPORT_DATA, so this source is used only when asked for by name.

Spec: Azure documentation, confidential VM guest attestation: TPM indexes 0x01400001 and 0x01400002.

Kind: adapter
"""

from __future__ import annotations

import hmac
import os
from collections.abc import Callable
from pathlib import Path

import trio

from sidecar.errors import MalformedInput, ReportUnavailable, SourceAbsent
from sidecar.snp import tpm
from sidecar.snp.guestabi import check_report_data
from sidecar.snp.hcl import NV_INDEX, HclReport, parse_hcl
from sidecar.snp.source import RawReport
from sidecar.strictjson import load_object

DEVICE = Path("/dev/tpmrm0")
USER_DATA_INDEX = 0x01400002
# Seen: about three seconds from the write to the new report.
PATIENCE = 15.0
POLL_INTERVAL = 0.5

# One TPM command to its response; what tests replace.
Transmit = Callable[[bytes], bytes]


class VtpmSource:
    """`ReportSource` over the virtual TPM."""

    name = "vtpm"
    is_hardware = True

    def __init__(self, path: Path = DEVICE, *, transmit: Transmit | None = None) -> None:
        self._path = path
        self._transmit = transmit or self._device_transmit
        self._lock = trio.Lock()

    async def read_report(self, report_data: bytes) -> RawReport:
        """Have a report made that names `report_data`, 64 bytes, in its runtime data; see `ReportSource`."""
        check_report_data(report_data)
        async with self._lock:
            try:
                return await self._read(report_data)
            except tpm.TpmRefusal as exc:
                raise ReportUnavailable(f"{self._path}: {exc}") from exc

    async def _read(self, report_data: bytes) -> RawReport:
        size = await trio.to_thread.run_sync(self._index_size, NV_INDEX)
        if size is None:
            raise SourceAbsent(f"{self._path}: no index {NV_INDEX:#x}, so no SNP report here")
        await trio.to_thread.run_sync(self._write_user_data, report_data)
        with trio.move_on_after(PATIENCE):
            while True:
                blob = parse_hcl(await trio.to_thread.run_sync(self._read_index, NV_INDEX, size))
                if _names(blob, report_data):
                    return RawReport(blob.report, runtime_data=blob.runtime_data)
                await trio.sleep(POLL_INTERVAL)
        raise ReportUnavailable(f"{self._path}: no report over the new data after {PATIENCE:.0f} seconds")

    def _write_user_data(self, report_data: bytes) -> None:
        size = self._index_size(USER_DATA_INDEX)
        if size not in (None, len(report_data)):
            tpm.parse_done(self._transmit(tpm.undefine_command(USER_DATA_INDEX)))
            size = None
        if size is None:
            tpm.parse_done(self._transmit(tpm.define_command(USER_DATA_INDEX, len(report_data))))
        tpm.parse_done(self._transmit(tpm.write_command(USER_DATA_INDEX, report_data)))

    def _index_size(self, index: int) -> int | None:
        try:
            return tpm.parse_public_size(self._transmit(tpm.read_public_command(index)))
        except tpm.TpmRefusal as exc:
            if exc.is_absent:
                return None
            raise

    def _read_index(self, index: int, size: int) -> bytes:
        content = b""
        while len(content) < size:
            length = min(tpm.NV_CHUNK, size - len(content))
            response = self._transmit(tpm.read_command(index, len(content), length))
            content += tpm.parse_read(response, length)
        return content

    def _device_transmit(self, command: bytes) -> bytes:
        try:
            descriptor = os.open(self._path, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            raise SourceAbsent(f"{self._path}: not there") from None
        except OSError as exc:
            raise ReportUnavailable(
                f"{self._path}: cannot be opened: {exc.strerror}",
                hint="it can be opened by root and by the group tss",
            ) from exc
        try:
            os.write(descriptor, command)
            return os.read(descriptor, tpm.MAX_RESPONSE_SIZE)
        except OSError as exc:
            raise ReportUnavailable(f"{self._path}: {exc.strerror}") from exc
        finally:
            os.close(descriptor)


def _names(blob: HclReport, report_data: bytes) -> bool:
    """The runtime data holds the caller's bytes.

    Raises:
        ReportUnavailable: this host's paravisor does not take any.
    """
    runtime = load_object(blob.runtime_data, what="HCL runtime data", max_bytes=len(blob.runtime_data))
    text = runtime.get("user-data")
    if not isinstance(text, str):
        raise ReportUnavailable("HCL runtime data: no user-data, so the report cannot be made fresh")
    try:
        return hmac.compare_digest(bytes.fromhex(text), report_data)
    except ValueError:
        raise MalformedInput("HCL runtime data: user-data is not hexadecimal") from None
