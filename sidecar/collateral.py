"""Report and certificates that belong together.

Strategy: `collect_evidence` takes a report and has the store find its certificates; when none is found, it
takes one more report, because the firmware may have been updated in between, and asks once more. What it
returns is a value, so a chain and a report of different ages are never mixed by what others do meanwhile.

`open_store` puts the sources in order: what came with the report, what the host gave at start, a folder, the
cache on disk, then the services.

Kind: composition
"""

from __future__ import annotations

import hmac
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from sidecar.certservices import Get, service_source
from sidecar.certsources import (
    CacheSource,
    CertificateSource,
    FolderSource,
    GivenSource,
    ProcessorSource,
    TableSource,
)
from sidecar.certstore import CertificateStore
from sidecar.errors import ReportUnavailable, ServiceError
from sidecar.snp.certcache import CertificateCache, default_directory
from sidecar.snp.certs import Collateral
from sidecar.snp.endpoints import CertificateEndpoint, EndpointKind
from sidecar.snp.report import Report, parse_report
from sidecar.snp.roots import Roots
from sidecar.snp.software import SoftwareSource
from sidecar.snp.source import RawReport, ReportSource
from sidecar.uvm import UvmInfo

FOLDER_VARIABLE = "SIDECAR_CERTIFICATE_FOLDER"
THIM_VARIABLE = "SIDECAR_THIM_ENDPOINT"
KDS_VARIABLE = "SIDECAR_KDS_ENDPOINT"

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Evidence:
    """A report and the certificates that verify it."""

    raw: RawReport
    report: Report
    collateral: Collateral


async def collect_evidence(source: ReportSource, store: CertificateStore, report_data: bytes) -> Evidence:
    """A report over `report_data`, 64 bytes, with certificates that verify it.

    Raises:
        ReportUnavailable, MalformedInput: as `ReportSource`.
        ReportUnavailable: the source's reports cannot carry these bytes in REPORT_DATA.
        ServiceError: no certificates, neither for the report nor for a newer one.
    """
    raw, report = await _read(source, report_data)
    try:
        collateral = await store.certificates_for(report, raw.certificate_table)
    except ServiceError:
        newer, newer_report = await _read(source, report_data)
        if newer_report.reported_tcb == report.reported_tcb:
            raise
        logger.info("TCB moved from %s to %s", report.reported_tcb.hex, newer_report.reported_tcb.hex)
        raw, report = newer, newer_report
        collateral = await store.certificates_for(report, raw.certificate_table)
    return Evidence(raw, report, collateral)


async def _read(source: ReportSource, report_data: bytes) -> tuple[RawReport, Report]:
    """A report over exactly these bytes, whatever the source thinks it did."""
    raw = await source.read_report(report_data)
    report = parse_report(raw.report)
    if not hmac.compare_digest(report.report_data, report_data):
        raise ReportUnavailable(
            f"{source.name}: the report is not over our data in REPORT_DATA",
            hint="reports kept in a virtual TPM cannot carry the digest of a wrapping key",
        )
    return raw, report


async def fetch_collateral(store: CertificateStore, report: bytes, table: bytes = b"") -> Collateral:
    """`CertificateStore.certificates_for` for a report as bytes, 1184 of them."""
    return await store.certificates_for(parse_report(report), table)


def roots_for(source: ReportSource) -> Roots:
    """Whose reports this source makes: AMD's roots, or the software processor's own one."""
    return Roots.of(source.processor.ark) if isinstance(source, SoftwareSource) else Roots.amd()


def open_store(
    source: ReportSource,
    *,
    uvm: UvmInfo,
    get: Get | None,
    environ: Mapping[str, str],
    endpoint: CertificateEndpoint | None = None,
    offline: Path | None = None,
) -> CertificateStore:
    """Put a store together: what is at hand first, then the services.

    Args:
        source: decides which roots count.
        uvm: may hold the host's certificates.
        get: HTTP client; None for no network at all.
        environ: SIDECAR_THIM_ENDPOINT, SIDECAR_KDS_ENDPOINT, SIDECAR_CERTIFICATE_FOLDER and _CACHE.
        endpoint: the service of the settings (`certcache`), asked before the usual ones.
        offline: folder of certificates; SIDECAR_CERTIFICATE_FOLDER by default.
    """
    # The software processor derives its certificates; there is nothing to keep, and nobody else to ask.
    is_software = isinstance(source, SoftwareSource)
    cache = None if is_software else CertificateCache(default_directory(environ))
    folder = offline or (Path(environ[FOLDER_VARIABLE]) if environ.get(FOLDER_VARIABLE) else None)
    sources: list[CertificateSource] = [TableSource()]
    if uvm.host_certificates:
        sources.append(GivenSource(uvm.host_certificates))
    if folder:
        sources.append(FolderSource(folder))
    if cache:
        sources.append(CacheSource(cache))
    if get:
        sources += [service_source(get, e) for e in _endpoints(environ, endpoint, usual=not is_software)]
    if isinstance(source, SoftwareSource):
        sources.append(ProcessorSource(source.processor))
    return CertificateStore(sources, roots=roots_for(source), cache=cache)


def _endpoints(
    environ: Mapping[str, str], endpoint: CertificateEndpoint | None, *, usual: bool
) -> list[CertificateEndpoint]:
    """The chosen service, then the host's, then AMD's; `usual` also where nobody named their address."""
    found = [endpoint] if endpoint else []
    for kind, variable in ((EndpointKind.LOCAL_THIM, THIM_VARIABLE), (EndpointKind.AMD, KDS_VARIABLE)):
        address = environ.get(variable, "")
        if (address or usual) and (endpoint is None or endpoint.kind is not kind):
            found.append(CertificateEndpoint(kind, address))
    return found
