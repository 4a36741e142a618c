"""Certificates over HTTP: the host's THIM, Azure's certificate cache, AMD's key service.

Rules: sizes, deadlines and retries are the HTTP client's; a refusal that may pass carries its Retry-After on,
so that the caller leaves the service alone for that long.

Spec: AMD 57230 (KDS interface); Azure THIM documentation; addresses in `snp.endpoints`.

Kind: composition
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping
from typing import Protocol

from cryptography import x509

from sidecar.certsources import CertificateSource, NotHere, Wanted, collateral_of, is_for
from sidecar.errors import MalformedInput, ServiceError
from sidecar.snp.certs import (
    CertificateChain,
    Collateral,
    common_name,
    parse_certificate,
    parse_certificates_pem,
    parse_chain_pem,
    parse_thim,
)
from sidecar.snp.endpoints import (
    THIM_HEADERS,
    CertificateEndpoint,
    EndpointKind,
    azure_cache_url,
    kds_chain_url,
    kds_crl_url,
    kds_leaf_url,
    lines_of,
)
from sidecar.snp.leaf import LeafKind
from sidecar.snp.report import Report
from sidecar.snp.revocation import RevocationList, parse_revocation_list
from sidecar.snp.tcb import ProductLine

# Statuses after which the same question may succeed later. 404 is not among them, though AMD's service is
# known to answer it in an outage: it means "ask the next source".
_LATER = frozenset({408, 429, 500, 502, 503, 504})


class Reply(Protocol):
    """What an HTTP client answers; header names are lower case."""

    @property
    def status(self) -> int: ...
    @property
    def headers(self) -> Mapping[str, str]: ...
    @property
    def body(self) -> bytes: ...


# One GET of a URL with headers; raises ServiceError when there is no answer. Bounds and retries are its own.
Get = Callable[[str, Mapping[str, str]], Awaitable[Reply]]


class AskLater(ServiceError):
    """The service is overloaded or limits requests.

    Attributes:
        seconds: how long to leave it alone, from Retry-After; None when it did not say.
    """

    def __init__(self, message: str, seconds: float | None) -> None:
        super().__init__(message)
        self.seconds = seconds


class ThimSource:
    """The host's own service."""

    def __init__(self, get: Get, endpoint: CertificateEndpoint) -> None:
        self.name = f"THIM {endpoint.base}"
        self._get = get
        self._url = endpoint.base

    async def fetch(self, wanted: Wanted) -> Collateral:
        """See `CertificateSource`."""
        return parse_thim(await body_of(self._get, self._url, THIM_HEADERS), source=self.name)


class AzureCacheSource:
    """Azure's certificate cache."""

    def __init__(self, get: Get, endpoint: CertificateEndpoint) -> None:
        self.name = f"Azure cache {endpoint.base}"
        self._get = get
        self._endpoint = endpoint

    async def fetch(self, wanted: Wanted) -> Collateral:
        """See `CertificateSource`."""
        if wanted.kind is LeafKind.VLEK or not wanted.has_chip_id:
            raise NotHere("it knows chips, and this report names none")
        url = azure_cache_url(self._endpoint, wanted.report)
        return collateral_of(parse_chain_pem(await body_of(self._get, url)))


class KdsSource:
    """AMD's key service; authorities are asked for once per line and kind, they do not change."""

    def __init__(self, get: Get, endpoint: CertificateEndpoint) -> None:
        self.name = f"AMD {endpoint.base}"
        self._get = get
        self._base = endpoint.base
        self._line = endpoint.tee_type
        self._authorities: dict[tuple[ProductLine, LeafKind], list[x509.Certificate]] = {}

    async def fetch(self, wanted: Wanted) -> Collateral:
        """See `CertificateSource`. Completes a leaf of the report's own table when that one fits."""
        given = wanted.table.leaf(wanted.kind)
        leaf = given if given and is_for(given, wanted) else None
        if leaf is None and (wanted.kind is LeafKind.VLEK or not wanted.has_chip_id):
            raise NotHere("it knows chips, and this report names none")
        refusal: ServiceError | None = None
        for line in self._candidates(wanted.report):
            try:
                return await self._fetch(wanted, line, leaf)
            except AskLater:
                raise
            except ServiceError as exc:
                refusal = exc  # Of a version 2 report: the other line may know the chip.
        raise refusal or NotHere("the product line is not known")

    def _candidates(self, report: Report) -> list[ProductLine]:
        """A version 2 report may be of two lines; the settings may say which."""
        lines = lines_of(report)
        named = [line for line in lines if line == self._line]
        return named if len(lines) > 1 and named else list(lines)

    async def _fetch(self, wanted: Wanted, line: ProductLine, leaf: x509.Certificate | None) -> Collateral:
        if leaf is None:
            leaf = parse_certificate(await body_of(self._get, kds_leaf_url(self._base, wanted.report, line)))
        key = line, wanted.kind
        if key not in self._authorities:
            data = await body_of(self._get, kds_chain_url(self._base, line, wanted.kind))
            self._authorities[key] = parse_certificates_pem(data)
        ask, ark = _pair(self._authorities[key])
        return collateral_of(CertificateChain(leaf, ask, ark))


_SERVICES: Mapping[EndpointKind, Callable[[Get, CertificateEndpoint], CertificateSource]] = {
    EndpointKind.AMD: KdsSource,
    EndpointKind.AZURE_CACHE: AzureCacheSource,
    EndpointKind.LOCAL_THIM: ThimSource,
}


def service_source(get: Get, endpoint: CertificateEndpoint) -> CertificateSource:
    """The source for a configured service."""
    return _SERVICES[endpoint.kind](get, endpoint)


async def body_of(get: Get, url: str, headers: Mapping[str, str] | None = None) -> bytes:
    """Body of a 200.

    Raises:
        AskLater: 408, 429, 500, 502 to 504. ServiceError: any other status, or no answer.
    """
    reply = await get(url, headers or {})
    if reply.status == 200:
        return reply.body
    message = f"{url.split('?')[0][:120]}: status {reply.status}, wanted 200"
    if reply.status in _LATER:
        raise AskLater(message, _retry_after(reply.headers))
    raise ServiceError(message)


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds; the form with a date is not used by these services and is taken as "did not say"."""
    text = headers.get("retry-after", "").strip()
    return float(text) if re.fullmatch(r"[0-9]{1,6}", text) else None


def _pair(authorities: list[x509.Certificate]) -> tuple[x509.Certificate, x509.Certificate]:
    """ASK and ARK of an answer that must hold these two."""
    roots = [c for c in authorities if c.subject == c.issuer]
    others = [c for c in authorities if c.subject != c.issuer]
    if len(roots) != 1 or len(others) != 1:
        names = ", ".join(common_name(c.subject)[:32] for c in authorities)
        raise MalformedInput(f"certificate chain of the key service: {names or 'empty'}, wanted ASK and ARK")
    return others[0], roots[0]


async def fetch_revocation_list(
    get: Get, line: ProductLine, kind: LeafKind, endpoint: CertificateEndpoint | None = None
) -> RevocationList:
    """AMD's revocation list of a product line, unverified.

    Raises:
        ServiceError: no usable answer. MalformedInput: it does not parse.
    """
    base = (endpoint or CertificateEndpoint(EndpointKind.AMD)).base
    return parse_revocation_list(await body_of(get, kds_crl_url(base, line, kind)))
