"""Report and certificates that belong together, whatever the sources say and whenever the firmware moves."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import trio
from fakes.snp_chain import NOW, Authority, spoiled_dates
from fakes.snp_http import UNREACHABLE, Reply, Services
from trio.testing import MockClock

from sidecar.certservices import service_source
from sidecar.certsources import CertificateSource, GivenSource, TableSource
from sidecar.certstore import CertificateStore
from sidecar.collateral import collect_evidence, fetch_collateral, open_store, roots_for
from sidecar.errors import MalformedInput, ReportUnavailable, ServiceError, SignatureRejected
from sidecar.snp.certcache import CertificateCache
from sidecar.snp.certs import Collateral
from sidecar.snp.certtable import build_certificate_table, table_of
from sidecar.snp.endpoints import CertificateEndpoint, EndpointKind
from sidecar.snp.report import parse_report
from sidecar.snp.roots import Roots
from sidecar.snp.software import SoftwareProcessor
from sidecar.snp.source import RawReport
from sidecar.snp.tcb import ProductLine
from sidecar.snp.verify import verify_evidence
from sidecar.uvm import UvmInfo, read_uvm

AMD, CACHE, THIM = EndpointKind
OLD = Authority(tcb=bytes((4, 0, 0, 0, 0, 0, 0x17, 0xD0)))
NEW = Authority()
ROOTS = Roots.of(NEW.chain().ark)
DATA = b"d" * 64


def store(
    services: Services, *more: CertificateSource, cache: CertificateCache | None = None
) -> CertificateStore:
    """What was given, then THIM, then AMD."""
    sources: Sequence[CertificateSource] = [
        TableSource(),
        *more,
        service_source(services.get, CertificateEndpoint(THIM, "thim.example/THIM")),
        service_source(services.get, CertificateEndpoint(AMD, "https://kds.example")),
    ]
    return CertificateStore(sources, roots=ROOTS, cache=cache, now=lambda: NOW)


class Machine:
    """A source of reports whose firmware can be updated."""

    name = "machine"
    is_hardware = True

    def __init__(self, *firmware: Authority, table: bytes = b"") -> None:
        self.firmware = list(firmware)
        self.table = table
        self.asked = 0

    async def read_report(self, report_data: bytes) -> RawReport:
        self.asked += 1
        firmware = self.firmware.pop(0) if len(self.firmware) > 1 else self.firmware[0]
        return RawReport(firmware.report(report_data=report_data), self.table)


async def test_first_source_that_has_them() -> None:
    services = Services(NEW)
    table = build_certificate_table(table_of(NEW.chain()).entries)
    found = await fetch_collateral(store(services), NEW.report(), table)
    assert (found.chain, found.source, services.requests) == (NEW.chain(), "certificate table", [])


async def test_stale_sources_are_passed_over() -> None:
    """D-A1 and D-A8: what the host gave at start, and THIM, are of an older firmware."""
    services = Services(NEW, stale=OLD)
    given = GivenSource(Collateral(OLD.chain(), "0", source="given"))
    evidence = await collect_evidence(Machine(NEW), store(services, given), DATA)
    assert evidence.collateral.source == "AMD https://kds.example"
    verify_evidence(evidence.raw.report, evidence.collateral.chain, roots=ROOTS, at=NOW)


@pytest.mark.parametrize("tcbm", ["0", "ffffffffffffffff", "db18000000000004"])
async def test_what_a_source_says_about_itself_decides_nothing(tcbm: str) -> None:
    services = Services(NEW)
    good = GivenSource(Collateral(NEW.chain(), tcbm, source="good"))
    bad = GivenSource(Collateral(OLD.chain(), tcbm, source="bad"))
    found = await fetch_collateral(store(services, bad, good), NEW.report())
    assert (found.source, found.tcbm_text) == ("good", tcbm)


async def test_lying_sources_are_passed_over() -> None:
    strangers = [
        Authority(hwid=b"o" * 64),
        Authority(vlek=True),
        Authority(ProductLine.GENOA),
        Authority(spoil_leaf=spoiled_dates(datetime(2026, 1, 1, tzinfo=UTC))),
    ]
    lies = [GivenSource(Collateral(a.chain(), "0", source=f"lie {i}")) for i, a in enumerate(strangers)]
    services = Services(NEW)
    found = await fetch_collateral(store(services, *lies), NEW.report())
    assert found.source == "THIM http://thim.example/THIM"


async def test_a_damaged_table_does_not_stop_the_others() -> None:
    found = await fetch_collateral(store(Services(NEW)), NEW.report(), b"junk" * 10)
    assert found.source.startswith("THIM")


async def test_failure_says_what_each_source_said() -> None:
    services = Services(NEW, stale=OLD, answers={"leaf": Reply(404)})
    with pytest.raises(ServiceError) as caught:
        await fetch_collateral(store(services), NEW.report())
    text = str(caught.value)
    for words in (
        "no certificates for TCB db18000000000004",
        "certificate table: no whole chain in it",
        "THIM http://thim.example/THIM: the leaf is for TCB d017000000000004, wanted db18000000000004",
        "AMD https://kds.example: https://kds.example/vcek/v1/Milan/",
        "status 404, wanted 200",
    ):
        assert words in text
    assert caught.value.hint


async def test_only_errors_on_the_way_are_failures_too() -> None:
    """D-A3: nothing but 5xx and no answer never ends in success without certificates."""
    services = Services(NEW, answers={"thim": Reply(500), "leaf": UNREACHABLE, "chain": UNREACHABLE})
    with pytest.raises(ServiceError, match=r"status 500.*no route to host"):
        await fetch_collateral(store(services), NEW.report())


async def test_remembered_by_chip_and_tcb() -> None:
    services = Services(NEW)
    certificates = store(services)
    for _ in range(3):
        await fetch_collateral(certificates, NEW.report())
    assert services.count("thim") == 1
    services.firmware = OLD
    assert (await fetch_collateral(certificates, OLD.report())).chain == OLD.chain()
    assert (await fetch_collateral(certificates, NEW.report())).chain == NEW.chain()
    assert services.count("thim") == 2


async def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sidecar.certstore.MAX_REMEMBERED", 1)
    services = Services(NEW)
    certificates = store(services)
    await fetch_collateral(certificates, NEW.report())
    services.firmware = OLD
    await fetch_collateral(certificates, OLD.report())
    services.firmware = NEW
    await fetch_collateral(certificates, NEW.report())
    assert services.count("thim") == 3


async def test_remembered_answers_are_judged_again() -> None:
    services = Services(NEW)
    now = [NOW]
    source = service_source(services.get, CertificateEndpoint(THIM, "thim.example/THIM"))
    certificates = CertificateStore([source], roots=ROOTS, now=lambda: now[0])
    await fetch_collateral(certificates, NEW.report())
    now[0] = NOW + timedelta(days=3650)
    with pytest.raises(ServiceError, match="SEV-VCEK is valid"):
        await fetch_collateral(certificates, NEW.report())
    assert services.count("thim") == 2


async def test_kept_on_disk(tmp_path: Path) -> None:
    environ = {"SIDECAR_CERTIFICATE_CACHE": str(tmp_path)}
    cache = CertificateCache(tmp_path)
    await fetch_collateral(store(Services(NEW), cache=cache), NEW.report())
    assert len(list(tmp_path.iterdir())) == 1
    offline = open_store(Machine(NEW), uvm=UvmInfo(), get=None, environ=environ)
    offline._roots, offline._now = ROOTS, lambda: NOW
    assert (await fetch_collateral(offline, NEW.report())).source == "certificate cache"
    # A poisoned file costs a try, not trust.
    (file,) = tmp_path.iterdir()
    file.write_bytes(OLD.chain().to_pem())
    offline._remembered.clear()
    with pytest.raises(ServiceError, match="certificate cache: the leaf is for TCB"):
        await fetch_collateral(offline, NEW.report())


@pytest.mark.parametrize("authority", [Authority(vlek=True)])
async def test_a_provider_key_is_not_kept_on_disk(tmp_path: Path, authority: Authority) -> None:
    table = build_certificate_table(table_of(authority.chain()).entries)
    certificates = store(Services(NEW), cache=CertificateCache(tmp_path))
    await fetch_collateral(certificates, authority.report(), table)
    assert list(tmp_path.iterdir()) == []


async def test_requests_at_once_share_one_fetch(autojump_clock: MockClock) -> None:
    services = Services(NEW, delay=5)
    certificates = store(services)
    found: list[Collateral] = []

    async def one() -> None:
        found.append(await fetch_collateral(certificates, NEW.report()))

    async with trio.open_nursery() as nursery:
        for _ in range(20):
            nursery.start_soon(one)
    assert (len(found), services.count("thim")) == (20, 1)
    assert certificates._flights == {}


async def test_requests_at_once_share_one_failure(autojump_clock: MockClock) -> None:
    services = Services(NEW, delay=5, answers={k: Reply(404) for k in ("thim", "leaf")})
    certificates = store(services)
    failures: list[str] = []

    async def one() -> None:
        with pytest.raises(ServiceError) as caught:
            await fetch_collateral(certificates, NEW.report())
        failures.append(str(caught.value))

    async with trio.open_nursery() as nursery:
        for _ in range(20):
            nursery.start_soon(one)
    assert (len(failures), len(set(failures)), services.count("thim")) == (20, 1, 1)
    # Who comes later is not held responsible.
    services.answers.clear()
    await fetch_collateral(certificates, NEW.report())


async def test_a_cancelled_request_leaves_the_others_alone(autojump_clock: MockClock) -> None:
    services = Services(NEW, delay=5)
    certificates = store(services)
    found: list[Collateral] = []

    async def patient() -> None:
        await trio.sleep(1)
        found.append(await fetch_collateral(certificates, NEW.report()))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(patient)
        with trio.move_on_after(2):
            await fetch_collateral(certificates, NEW.report())
    assert len(found) == 1
    assert certificates._flights == {}


@pytest.mark.parametrize(
    ("header", "pause"), [({"retry-after": "40"}, 40), ({}, 10), ({"retry-after": "99999"}, 600)]
)
async def test_pauses_are_honoured(autojump_clock: MockClock, header: dict[str, str], pause: int) -> None:
    services = Services(NEW, answers={"thim": Reply(429, headers=header), "leaf": Reply(404)})
    certificates = store(services)
    for expected in ("status 429", "asked for a pause", "asked for a pause"):
        with pytest.raises(ServiceError, match=expected):
            await fetch_collateral(certificates, NEW.report())
        await trio.sleep((pause - 1) / 2)
    assert services.count("thim") == 1
    await trio.sleep(2)
    services.answers.clear()
    assert (await fetch_collateral(certificates, NEW.report())).source.startswith("THIM")


async def test_a_silent_source_is_passed_over(autojump_clock: MockClock) -> None:
    async def hang(kind: str) -> None:
        if kind == "thim":
            await trio.sleep_forever()

    services = Services(NEW, hook=hang)
    start = trio.current_time()
    found = await fetch_collateral(store(services), NEW.report())
    assert found.source.startswith("AMD")
    assert trio.current_time() - start == pytest.approx(30)


async def test_firmware_updated_between_report_and_certificates() -> None:
    """D-A2: the first report is of the old firmware, all certificates of the new one: both are taken anew."""
    services = Services(NEW, answers={"leaf": Reply(404)})
    machine = Machine(OLD, NEW)
    evidence = await collect_evidence(machine, store(services), DATA)
    assert evidence.report.reported_tcb.raw == NEW.levels
    assert evidence.collateral.chain == NEW.chain()
    assert machine.asked == 2
    verify_evidence(evidence.raw.report, evidence.collateral.chain, roots=ROOTS, at=NOW)


async def test_certificates_that_stay_behind_are_a_failure() -> None:
    services = Services(OLD, answers={"leaf": Reply(404)})
    machine = Machine(NEW)
    with pytest.raises(ServiceError, match="the leaf is for TCB d017000000000004, wanted db18000000000004"):
        await collect_evidence(machine, store(services), DATA)
    assert machine.asked == 2


async def test_a_report_over_other_data_is_no_evidence() -> None:
    """As a virtual TPM gives: REPORT_DATA is the digest of its own runtime data."""

    class Indirect(Machine):
        name = "vtpm"

        async def read_report(self, report_data: bytes) -> RawReport:
            return RawReport(NEW.report(report_data=b"o" * 64), runtime_data=b"{}")

    with pytest.raises(ReportUnavailable, match="vtpm: the report is not over our data"):
        await collect_evidence(Indirect(NEW), store(Services(NEW)), DATA)


async def test_evidence_is_never_mixed_under_concurrent_updates(autojump_clock: MockClock) -> None:
    services = Services(OLD, delay=1)
    certificates = store(services)
    machine = Machine(OLD)

    async def update() -> None:
        for firmware in (NEW, OLD, NEW, OLD):
            await trio.sleep(0.7)
            machine.firmware, services.firmware = [firmware], firmware

    async def one(start: float) -> None:
        await trio.sleep(start)
        evidence = await collect_evidence(machine, certificates, DATA)
        verify_evidence(evidence.raw.report, evidence.collateral.chain, roots=ROOTS, at=NOW)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(update)
        for i in range(30):
            nursery.start_soon(one, i * 0.1)


@pytest.mark.parametrize("key", [2, 7])
async def test_reports_that_no_certificate_is_for(key: int) -> None:
    with pytest.raises(SignatureRejected, match=f"signing key: {key}"):
        await fetch_collateral(store(Services(NEW)), NEW.report(flags=key << 2))


async def test_malformed_reports() -> None:
    with pytest.raises(MalformedInput):
        await fetch_collateral(store(Services(NEW)), b"")


def names(certificates: CertificateStore) -> list[str]:
    return [source.name for source in certificates._sources]


def test_order_of_sources(tmp_path: Path) -> None:
    given = Collateral(NEW.chain(), "0", source="UVM_HOST_AMD_CERTIFICATE")
    environ = {"SIDECAR_CERTIFICATE_CACHE": str(tmp_path), "SIDECAR_CERTIFICATE_FOLDER": "/certs"}
    get = Services(NEW).get
    usual = open_store(Machine(NEW), uvm=UvmInfo(host_certificates=given), get=get, environ=environ)
    assert names(usual) == [
        "certificate table",
        "UVM_HOST_AMD_CERTIFICATE",
        "folder /certs",
        "certificate cache",
        "THIM http://169.254.169.254/metadata/THIM/amd/certification",
        "AMD https://kdsintf.amd.com",
    ]
    chosen = open_store(
        Machine(NEW),
        uvm=UvmInfo(),
        get=get,
        environ={**environ, "SIDECAR_THIM_ENDPOINT": "http://127.0.0.1:5/thim"},
        endpoint=CertificateEndpoint(CACHE),
        offline=Path("/other"),
    )
    assert names(chosen)[1:] == [
        "folder /other",
        "certificate cache",
        "Azure cache https://global.acccache.azure.net",
        "THIM http://127.0.0.1:5/thim",
        "AMD https://kdsintf.amd.com",
    ]


async def test_software_processor_asks_nobody(snp_processor: SoftwareProcessor, tmp_path: Path) -> None:
    source = snp_processor.source()
    services = Services(NEW)
    certificates = open_store(source, uvm=UvmInfo(), get=services.get, environ={"HOME": str(tmp_path)})
    assert names(certificates) == ["certificate table", "software processor"]
    evidence = await collect_evidence(source, certificates, DATA)
    seen = verify_evidence(
        evidence.raw.report, evidence.collateral.chain, roots=roots_for(source), at=datetime.now(UTC)
    )
    assert not seen.is_hardware
    assert services.requests == []
    assert list(tmp_path.iterdir()) == []


async def test_software_processor_with_its_own_services(snp_processor: SoftwareProcessor) -> None:
    uvm = read_uvm({"UVM_HOST_AMD_CERTIFICATE": base64.b64encode(snp_processor.thim_json()).decode()})
    environ = {"SIDECAR_KDS_ENDPOINT": "https://localhost:5"}
    certificates = open_store(snp_processor.source(), uvm=uvm, get=Services(NEW).get, environ=environ)
    assert names(certificates) == [
        "certificate table",
        "UVM_HOST_AMD_CERTIFICATE",
        "AMD https://localhost:5",
        "software processor",
    ]


async def test_roots_follow_the_source(snp_processor: SoftwareProcessor) -> None:
    assert roots_for(Machine(NEW)) == Roots.amd()
    assert roots_for(snp_processor.source()) == Roots.of(snp_processor.ark)
    hardware = open_store(Machine(NEW), uvm=UvmInfo(), get=Services(NEW).get, environ={"HOME": "/nowhere"})
    with pytest.raises(ServiceError, match="is not a trusted root"):
        await hardware.certificates_for(parse_report(NEW.report()))
