"""The seam between whoever has reports and whoever needs one.

Kind: pure
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class RawReport:
    """What a source hands over, unverified.

    Attributes:
        report: 1184 bytes, public.
        certificate_table: the host's certificates as they came with the report, public; may be empty.
        runtime_data: virtual TPM only: JSON that names the caller's bytes and whose digest is REPORT_DATA.
    """

    report: bytes
    certificate_table: bytes = b""
    runtime_data: bytes = b""


class ReportSource(Protocol):
    """Gets SNP reports. Implementations serialise requests to one device themselves."""

    @property
    def name(self) -> str:
        """For logs and error messages: "configfs-tsm", "sev-guest", "software"."""
        ...

    @property
    def is_hardware(self) -> bool:
        """False only for the software processor."""
        ...

    async def read_report(self, report_data: bytes) -> RawReport:
        """Ask for a report over `report_data`.

        The report returned has exactly these bytes as its REPORT_DATA, unless it comes with `runtime_data`.

        Args:
            report_data: exactly 64 bytes, public.

        Raises:
            ReportUnavailable: none could be had; the message says why.
            MalformedInput: `report_data` has another size, or the answer is not a report.
        """
        ...
