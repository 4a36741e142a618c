"""Which source of reports to use on this machine.

Rules: "auto" considers hardware only. The software processor is reached by its name alone, from the argument
or from SIDECAR_SNP, says so in the log each time, and no failure of hardware ever leads to it.

Kind: adapter
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from pathlib import Path

from sidecar.errors import ReportUnavailable, UsageError
from sidecar.snp.software import SoftwareProcessor, default_directory
from sidecar.snp.source import ReportSource
from sidecar.uvm import read_uvm

SOURCE_VARIABLE = "SIDECAR_SNP"
KINDS = ("auto", "software")

logger = logging.getLogger(__name__)


def open_report_source(
    kind: str | None = None,
    *,
    directory: Path | None = None,
    host_data: bytes | None = None,
    environ: Mapping[str, str] | None = None,
) -> ReportSource:
    """Choose a source; blocks for seconds when the software processor is made for the first time.

    Args:
        kind: one of `KINDS`; None takes SIDECAR_SNP, else "auto".
        directory: software processor only: where it is kept.
        host_data: software processor only: 32 bytes; by default the digest of the UVM's security policy.

    Raises:
        ReportUnavailable: no such source on this machine.
        UsageError: unknown kind.
        MalformedInput: the UVM's security policy is there but does not parse.
    """
    environ = os.environ if environ is None else environ
    kind = kind or environ.get(SOURCE_VARIABLE) or "auto"
    if kind not in KINDS:
        raise UsageError(f"report source: {kind!r}, wanted one of {', '.join(KINDS)}")
    if kind == "software":
        return _open_software(directory or default_directory(environ), host_data, environ)
    raise ReportUnavailable(
        "no SNP report: this machine offers none of the known sources",
        hint="to work without SNP hardware, ask for the software processor by name: --snp software",
    )


def _open_software(directory: Path, host_data: bytes | None, environ: Mapping[str, str]) -> ReportSource:
    if host_data is None:
        host_data = read_uvm(environ).host_data
    processor = SoftwareProcessor.open(directory, create=True)
    logger.warning("software security processor in %s: NOT hardware, proves nothing", directory)
    return processor.source(host_data=host_data)
