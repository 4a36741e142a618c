"""Local places for certificates, and the services: what each has, and how each says no."""

from __future__ import annotations

from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding
from fakes.snp_chain import Authority
from fakes.snp_http import Reply, Services

from sidecar.certservices import (
    AskLater,
    AzureCacheSource,
    KdsSource,
    ThimSource,
    fetch_revocation_list,
    service_source,
)
from sidecar.certsources import CacheSource, FolderSource, GivenSource, NotHere, TableSource, Wanted
from sidecar.errors import MalformedInput, ServiceError
from sidecar.snp.certcache import CertificateCache
from sidecar.snp.certs import Collateral
from sidecar.snp.certtable import ASK, VCEK, CertificateTable, parse_certificate_table, table_of
from sidecar.snp.endpoints import CertificateEndpoint, EndpointKind
from sidecar.snp.leaf import LeafKind
from sidecar.snp.report import parse_report
from sidecar.snp.tcb import ProductLine

MILAN, GENOA, TURIN = ProductLine
AMD, CACHE, THIM = EndpointKind
OTHER = Authority(tcb=bytes((3, 0, 0, 0, 0, 0, 8, 0x73)))
EMPTY = parse_certificate_table(b"")


def wanted(authority: Authority, table: CertificateTable = EMPTY, **changes: object) -> Wanted:
    kind = LeafKind.VLEK if authority.vlek else LeafKind.VCEK
    return Wanted(parse_report(authority.report(**changes)), kind, table)


def kds(services: Services, **settings: str) -> KdsSource:
    return KdsSource(services.get, CertificateEndpoint(AMD, "https://kds.example", **settings))


async def test_table() -> None:
    authority = Authority()
    found = await TableSource().fetch(wanted(authority, table_of(authority.chain())))
    assert found.chain == authority.chain()
    assert found.tcbm_text == "db18000000000004"
    for table in (EMPTY, CertificateTable({VCEK: table_of(authority.chain()).entries[VCEK]})):
        with pytest.raises(NotHere):
            await TableSource().fetch(wanted(authority, table))


async def test_given() -> None:
    collateral = Collateral(Authority().chain(), "0db18000000000004", 5, "the UVM")
    source = GivenSource(collateral)
    assert source.name == "the UVM"
    assert await source.fetch(wanted(Authority())) == collateral


async def test_cache(tmp_path: Path) -> None:
    source = CacheSource(CertificateCache(tmp_path))
    with pytest.raises(NotHere):
        await source.fetch(wanted(Authority(GENOA)))
    CertificateCache(tmp_path).write(wanted(Authority(GENOA)).report, GENOA, Authority(GENOA).chain())
    assert (await source.fetch(wanted(Authority(GENOA)))).chain == Authority(GENOA).chain()
    # A version 2 report does not say its line; both are looked for.
    old = wanted(Authority(GENOA), version=2, cpuid=None)
    assert (await source.fetch(old)).chain == Authority(GENOA).chain()


async def test_folder(tmp_path: Path) -> None:
    source = FolderSource(tmp_path / "folder")
    with pytest.raises(NotHere, match="cannot be read"):
        await source.fetch(wanted(Authority()))
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "readme.txt").write_text("not a certificate")
    chain = Authority().chain()
    (tmp_path / "folder" / "stale.pem").write_bytes(OTHER.chain().to_pem())
    (tmp_path / "folder" / "leaf.der").write_bytes(chain.leaf.public_bytes(Encoding.DER))
    with pytest.raises(NotHere, match="no chain for this chip and TCB among 4 certificates"):
        await source.fetch(wanted(Authority(hwid=b"o" * 64)))
    found = await source.fetch(wanted(Authority()))
    assert found.chain == chain, "the pieces come from different files"
    assert (await source.fetch(wanted(OTHER))).chain == OTHER.chain()


async def test_thim() -> None:
    services = Services(Authority())
    source = ThimSource(services.get, CertificateEndpoint(THIM, "10.0.0.1:2377/metadata/THIM/x"))
    found = await source.fetch(wanted(Authority()))
    assert (found.chain, found.tcbm) == (Authority().chain(), 0xDB18000000000004)
    assert services.requests == ["http://10.0.0.1:2377/metadata/THIM/x"]
    services.answers["thim"] = Reply(body=b"{}")
    with pytest.raises(MalformedInput):
        await source.fetch(wanted(Authority()))


async def test_azure_cache() -> None:
    services = Services(Authority())
    source = service_source(services.get, CertificateEndpoint(CACHE, "cache.example"))
    assert isinstance(source, AzureCacheSource)
    assert (await source.fetch(wanted(Authority()))).chain == Authority().chain()
    for hopeless in (wanted(Authority(vlek=True)), wanted(Authority(), chip_id=bytes(64))):
        with pytest.raises(NotHere, match="names none"):
            await source.fetch(hopeless)
    assert len(services.requests) == 1


@pytest.mark.parametrize("line", list(ProductLine))
async def test_key_service_asks_for_authorities_once(line: ProductLine) -> None:
    services = Services(Authority(line))
    source = kds(services)
    for _ in range(2):
        assert (await source.fetch(wanted(Authority(line)))).chain == Authority(line).chain()
    assert (services.count("leaf"), services.count("chain")) == (2, 1)


async def test_key_service_completes_a_leaf_of_the_table() -> None:
    """The only way for a VLEK, which no verifier can fetch."""
    for vlek in (False, True):
        authority = Authority(vlek=vlek)
        entries = dict(table_of(authority.chain()).entries)
        del entries[ASK]
        services = Services(authority)
        found = await kds(services).fetch(wanted(authority, CertificateTable(entries)))
        assert found.chain == authority.chain()
        assert services.requests == [f"https://kds.example/{'vlek' if vlek else 'vcek'}/v1/Milan/cert_chain"]


async def test_key_service_ignores_a_stale_leaf_of_the_table() -> None:
    services = Services(Authority())
    found = await kds(services).fetch(wanted(Authority(), table_of(OTHER.chain())))
    assert found.chain == Authority().chain()
    assert services.count("leaf") == 1


async def test_key_service_without_anything_to_ask_for() -> None:
    services = Services(Authority())
    for hopeless in (wanted(Authority(vlek=True)), wanted(Authority(), chip_id=bytes(64))):
        with pytest.raises(NotHere, match="names none"):
            await kds(services).fetch(hopeless)
    with pytest.raises(NotHere, match="product line is not known"):
        await kds(services).fetch(
            wanted(Authority(TURIN), cpuid=type(wanted(Authority()).report.cpuid)(0x1A, 0x50, 0))
        )
    assert services.requests == []


async def test_version_2_asks_for_both_lines_unless_told() -> None:
    old = {"version": 2, "cpuid": None}
    services = Services(Authority(GENOA), answers={"leaf": Reply(404)})
    with pytest.raises(ServiceError, match="status 404"):
        await kds(services).fetch(wanted(Authority(GENOA), **old))
    assert [url.split("/")[5] for url in services.requests] == ["Milan", "Genoa"]
    services.requests.clear()
    with pytest.raises(ServiceError):
        await kds(services, tee_type="Genoa").fetch(wanted(Authority(GENOA), **old))
    assert [url.split("/")[5] for url in services.requests] == ["Genoa"]


async def test_a_setting_does_not_override_what_the_report_says() -> None:
    services = Services(Authority(GENOA))
    await kds(services, tee_type="Milan").fetch(wanted(Authority(GENOA)))
    assert all("/Genoa/" in url for url in services.requests)


@pytest.mark.parametrize(
    ("reply", "seconds"),
    [
        (Reply(429, headers={"retry-after": "7"}), 7.0),
        (Reply(503), None),
        (Reply(500, headers={"retry-after": "Wed, 21 Oct 2026 07:28:00 GMT"}), None),
        (Reply(408, headers={"retry-after": "-5"}), None),
    ],
)
async def test_refusals_that_pass(reply: Reply, seconds: float | None) -> None:
    for kind in ("leaf", "chain"):
        services = Services(Authority(), answers={kind: reply})
        with pytest.raises(AskLater, match=f"status {reply.status}, wanted 200") as caught:
            await kds(services).fetch(wanted(Authority()))
        assert caught.value.seconds == seconds


@pytest.mark.parametrize("body", [b"", b"junk", Authority().chain().to_pem()])
async def test_an_answer_that_is_not_ask_and_ark(body: bytes) -> None:
    services = Services(Authority(), answers={"chain": Reply(body=body)})
    with pytest.raises(MalformedInput):
        await kds(services).fetch(wanted(Authority()))


async def test_revocation_list() -> None:
    services = Services(Authority(), answers={"leaf": Reply(body=b"junk")})
    with pytest.raises(MalformedInput, match="revocation list"):
        await fetch_revocation_list(services.get, GENOA, LeafKind.VLEK)
    assert services.requests == ["https://kdsintf.amd.com/vlek/v1/Genoa/crl"]
    services.answers["leaf"] = Reply(404)
    endpoint = CertificateEndpoint(AMD, "https://kds.example")
    with pytest.raises(ServiceError, match="status 404"):
        await fetch_revocation_list(services.get, MILAN, LeafKind.VCEK, endpoint)
