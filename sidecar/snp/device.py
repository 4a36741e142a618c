"""Which source of reports to use on this machine.

Strategy: "auto" asks configfs-tsm, then /dev/sev-guest, then /dev/sev, and stays with the first that answers.
Only "absent" leads to the next one: a source that is there and fails has said why nothing would work, since
all of them end at the same firmware and the same key.

Rules: "auto" considers hardware only, and only sources that put the caller's bytes into REPORT_DATA. The
software processor is reached by its name alone, from the argument or from SIDECAR_SNP, says so in the log
each time, and no failure of hardware ever leads to it.

Kind: adapter
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from sidecar.errors import ReportUnavailable, SourceAbsent, UsageError
from sidecar.snp import configfs, sevguest, sevlegacy
from sidecar.snp.configfs import ConfigfsSource
from sidecar.snp.sevguest import SevGuestSource
from sidecar.snp.sevlegacy import SevLegacySource
from sidecar.snp.software import SoftwareProcessor, default_directory
from sidecar.snp.source import RawReport, ReportSource
from sidecar.snp.vtpm import VtpmSource
from sidecar.uvm import read_uvm

SOURCE_VARIABLE = "SIDECAR_SNP"
_HARDWARE: Mapping[str, Callable[[], ReportSource]] = {
    "configfs": ConfigfsSource,
    "sev-guest": SevGuestSource,
    "sev": SevLegacySource,
    "vtpm": VtpmSource,
}
KINDS = ("auto", *_HARDWARE, "software")
_HINT = "to work without SNP hardware, ask for the software processor by name: --snp software"

logger = logging.getLogger(__name__)


class AutoSource:
    """`ReportSource` that settles on the first of several sources that is there."""

    is_hardware = True

    def __init__(self, sources: Sequence[ReportSource]) -> None:
        self._sources = list(sources)

    @property
    def name(self) -> str:
        """Name of the source settled on, "auto" before that."""
        return self._sources[0].name if len(self._sources) == 1 else "auto"

    async def read_report(self, report_data: bytes) -> RawReport:
        """Ask the sources in order; see `ReportSource`."""
        absent: list[str] = []
        for source in self._sources:
            try:
                raw = await source.read_report(report_data)
            except SourceAbsent as exc:
                absent.append(str(exc))
                continue
            self._sources = [source]
            return raw
        raise ReportUnavailable("no SNP report: " + "; ".join(absent), hint=_HINT)


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
        ReportUnavailable: "auto" on a machine that has none of the interfaces, or no software processor.
        UsageError: unknown kind.
        MalformedInput: the UVM's security policy is there but does not parse.
    """
    environ = os.environ if environ is None else environ
    kind = kind or environ.get(SOURCE_VARIABLE) or "auto"
    if kind == "software":
        return _open_software(directory or default_directory(environ), host_data, environ)
    if kind == "auto":
        return _open_auto()
    if kind not in _HARDWARE:
        raise UsageError(f"report source: {kind!r}, wanted one of {', '.join(KINDS)}")
    return _HARDWARE[kind]()


def _open_auto() -> ReportSource:
    """Fails now where nothing could work: a service then says so at its start, not at its first request."""
    places = (configfs.DIRECTORY, sevguest.DEVICE, sevlegacy.DEVICE)
    if not any(place.exists() for place in places):
        names = ", ".join(str(place) for place in places)
        raise ReportUnavailable(f"no SNP report: none of {names} is there", hint=_HINT)
    return AutoSource([ConfigfsSource(), SevGuestSource(), SevLegacySource()])


def _open_software(directory: Path, host_data: bytes | None, environ: Mapping[str, str]) -> ReportSource:
    if host_data is None:
        host_data = read_uvm(environ).host_data
    processor = SoftwareProcessor.open(directory, create=True)
    logger.warning("software security processor in %s: NOT hardware, proves nothing", directory)
    return processor.source(host_data=host_data)
