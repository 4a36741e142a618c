"""Addresses of certificates: from REPORTED_TCB and CHIP_ID, in each service's shape."""

from __future__ import annotations

import pytest
from fakes.snp_chain import Authority

from sidecar.errors import UsageError
from sidecar.snp.endpoints import (
    CertificateEndpoint,
    EndpointKind,
    azure_cache_url,
    kds_chain_url,
    kds_crl_url,
    kds_leaf_url,
    lines_of,
)
from sidecar.snp.leaf import LeafKind
from sidecar.snp.report import Report, parse_report
from sidecar.snp.tcb import Cpuid, ProductLine, Tcb, TcbLayout

MILAN, GENOA, TURIN = ProductLine
AMD, CACHE, THIM = EndpointKind
NEWER = Tcb(bytes((9, 9, 9, 9, 9, 9, 0x99, 0xFF)), TcbLayout.MILAN)


def report(line: ProductLine = MILAN, **changes: object) -> Report:
    return parse_report(Authority(line).report(**changes))


def test_key_service() -> None:
    chip = bytes(range(1, 65)).hex()
    base = "https://kds.example"
    assert kds_leaf_url(base, report(current_tcb=NEWER), MILAN) == (
        f"{base}/vcek/v1/Milan/{chip}?blSPL=4&teeSPL=0&snpSPL=24&ucodeSPL=219"
    )
    assert kds_leaf_url(base, report(TURIN), TURIN) == (
        f"{base}/vcek/v1/Turin/0102030405060708?fmcSPL=1&blSPL=1&teeSPL=1&snpSPL=4&ucodeSPL=81"
    )
    assert kds_chain_url(base, GENOA, LeafKind.VCEK) == f"{base}/vcek/v1/Genoa/cert_chain"
    assert kds_chain_url(base, GENOA, LeafKind.VLEK) == f"{base}/vlek/v1/Genoa/cert_chain"
    assert kds_crl_url(base, MILAN, LeafKind.VLEK) == f"{base}/vlek/v1/Milan/crl"


def test_azure_cache_prints_no_leading_zeros() -> None:
    chip = bytes(range(1, 65)).hex()
    low = Tcb(bytes((3, 0, 0, 0, 0, 0, 8, 5)), TcbLayout.MILAN)
    endpoint = CertificateEndpoint(CACHE)
    assert azure_cache_url(endpoint, report(reported_tcb=low)) == (
        "https://global.acccache.azure.net/SevSnpVM/certificates/"
        f"{chip}/508000000000003?api-version=2020-10-15-preview"
    )


def test_azure_cache_with_the_predecessors_settings() -> None:
    endpoint = CertificateEndpoint(
        CACHE, "cache.example", "TestVM", "api-version=2021-07-22-preview", "clientId=ConfidentialACI"
    )
    url = azure_cache_url(endpoint, report())
    assert url.startswith("https://cache.example/TestVM/certificates/")
    assert url.endswith("/db18000000000004?api-version=2021-07-22-preview&clientId=ConfidentialACI")
    odd = CertificateEndpoint(CACHE, "", "a/b?c", "x=1&y=2#z", "")
    assert "/a%2Fb%3Fc/certificates/" in azure_cache_url(odd, report())
    assert azure_cache_url(odd, report()).endswith("?x=1%26y=2%23z")


@pytest.mark.parametrize(
    ("endpoint", "base"),
    [
        (CertificateEndpoint(AMD), "https://kdsintf.amd.com"),
        (CertificateEndpoint(AMD, "kdsintf.amd.com/vcek/v1"), "https://kdsintf.amd.com"),
        (CertificateEndpoint(AMD, "https://localhost:1/"), "https://localhost:1"),
        (CertificateEndpoint(THIM), "http://169.254.169.254/metadata/THIM/amd/certification"),
        (CertificateEndpoint(THIM, "10.0.0.1:2377/metadata/THIM/amd/certification"),
         "http://10.0.0.1:2377/metadata/THIM/amd/certification"),
    ],
)  # fmt: skip
def test_addresses_with_and_without_a_scheme(endpoint: CertificateEndpoint, base: str) -> None:
    assert endpoint.base == base


@pytest.mark.parametrize(
    ("kind", "address", "message"),
    [
        (AMD, "http://kds.example", "AMD needs https"),
        (CACHE, "http://cache.example", "AzCache needs https"),
        (AMD, "ftp://kds.example", "wanted a URL"),
        (AMD, "https://", "wanted a URL"),
        (AMD, "https://user@kds.example", "wanted a URL"),
        (THIM, "http://host/#x", "wanted a URL"),
    ],
)
def test_addresses_that_are_refused(kind: EndpointKind, address: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        CertificateEndpoint(kind, address)


def test_lines() -> None:
    old = {"version": 2, "cpuid": None}
    assert lines_of(report(GENOA)) == (GENOA,)
    assert lines_of(report(cpuid=Cpuid(0x1A, 0x50, 0))) == ()
    assert lines_of(report(**old)) == (MILAN, GENOA)
    assert lines_of(report(TURIN, **old)) == (TURIN,)
