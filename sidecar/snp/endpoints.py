"""Addresses that certificates are asked for at: AMD's key service, Azure's cache, the host's THIM.

Rules: parameters come from the report's REPORTED_TCB and CHIP_ID, never from CURRENT_TCB; Turin has its own
shape (chip id of 8 bytes, fmcSPL). The cache's TCB is printed without leading zeros, as the predecessor did
and the service expects.

Spec: AMD 57230 (KDS interface); Azure THIM documentation, certification endpoint; Azure certificate cache as
    the predecessor's `certcache` settings describe it.

Kind: pure
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from urllib.parse import quote, urlsplit

from sidecar.errors import UsageError
from sidecar.snp.leaf import LeafKind
from sidecar.snp.report import Report
from sidecar.snp.tcb import ProductLine, Tcb, TcbLayout

AMD_KDS = "https://kdsintf.amd.com"
AZURE_CACHE = "https://global.acccache.azure.net"
LOCAL_THIM = "http://169.254.169.254/metadata/THIM/amd/certification"
# Without it the host's metadata services refuse, which keeps redirected requests out.
THIM_HEADERS = {"Metadata": "true"}
_KDS_NAMES = {
    "fmc": "fmcSPL",
    "boot_loader": "blSPL",
    "tee": "teeSPL",
    "snp": "snpSPL",
    "microcode": "ucodeSPL",
}


class EndpointKind(StrEnum):
    """Words of the predecessor's `endpoint_type`."""

    AMD = "AMD"
    AZURE_CACHE = "AzCache"
    LOCAL_THIM = "LocalTHIM"


@dataclass(frozen=True, slots=True)
class CertificateEndpoint:
    """One service.

    Attributes:
        kind: which interface it has.
        address: URL, or host and path as the predecessor wrote it; "" for the usual one.
        tee_type: product line for AMD, "SevSnpVM" for the cache; "" for the usual one.
        api_version, client_id: whole query fields, as in "api-version=2020-10-15-preview".
    """

    kind: EndpointKind
    address: str = ""
    tee_type: str = ""
    api_version: str = ""
    client_id: str = ""

    def __post_init__(self) -> None:
        wrong = f"certificate endpoint {self.address[:200]!r}: wanted a URL or host/path"
        try:
            parts = urlsplit(self.base)
            host, _ = parts.hostname, parts.port
        except ValueError:  # brackets that hold no address, a port that is no number
            raise UsageError(wrong) from None
        if parts.scheme not in ("http", "https") or not host or parts.username or parts.fragment:
            raise UsageError(wrong)
        if parts.scheme == "http" and self.kind is not EndpointKind.LOCAL_THIM:
            raise UsageError(f"certificate endpoint {self.address[:200]!r}: {self.kind} needs https")

    @property
    def base(self) -> str:
        """The address as a URL without a slash at its end."""
        usual = {EndpointKind.AMD: AMD_KDS, EndpointKind.AZURE_CACHE: AZURE_CACHE}.get(self.kind, LOCAL_THIM)
        address = self.address or usual
        if "://" not in address:
            address = f"{'http' if self.kind is EndpointKind.LOCAL_THIM else 'https'}://{address}"
        address = address.rstrip("/")
        # The predecessor's address of AMD's service went one step further than ours.
        return address.removesuffix("/vcek/v1") if self.kind is EndpointKind.AMD else address


def lines_of(report: Report) -> tuple[ProductLine, ...]:
    """Product lines a report can be of: one, or the candidates of a version 2 report; none when unknown."""
    if report.cpuid is not None:
        return (report.product_line,) if report.product_line else ()
    if report.reported_tcb.layout is TcbLayout.TURIN:
        return (ProductLine.TURIN,)
    return (ProductLine.MILAN, ProductLine.GENOA)


def kds_chain_url(base: str, line: ProductLine, kind: LeafKind) -> str:
    """ASK (or ASVK) and ARK of a line, PEM."""
    return f"{base}/{kind.lower()}/v1/{line}/cert_chain"


def kds_crl_url(base: str, line: ProductLine, kind: LeafKind) -> str:
    """Revocation list of a line, DER."""
    return f"{base}/{kind.lower()}/v1/{line}/crl"


def kds_leaf_url(base: str, report: Report, line: ProductLine) -> str:
    """VCEK of the report's chip at its REPORTED_TCB, DER."""
    tcb = Tcb(report.reported_tcb.raw, line.layout)
    chip = report.chip_id[:8] if line is ProductLine.TURIN else report.chip_id
    query = "&".join(f"{_KDS_NAMES[name]}={level}" for name, level in tcb.components.items())
    return f"{base}/vcek/v1/{line}/{chip.hex()}?{query}"


def azure_cache_url(endpoint: CertificateEndpoint, report: Report) -> str:
    """VCEK, ASK and ARK of the report's chip at its REPORTED_TCB, PEM."""
    fields = [endpoint.api_version or "api-version=2020-10-15-preview", endpoint.client_id]
    query = "&".join(quote(field, safe="=-._~") for field in fields if field)
    place = f"{quote(endpoint.tee_type or 'SevSnpVM', safe='')}/certificates"
    return f"{endpoint.base}/{place}/{report.chip_id.hex()}/{report.reported_tcb.number:x}?{query}"
