"""The authority's judgement without sockets: endorsements, init time data, hardware and software evidence."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from fakes import pki
from fakes.snp_cose import FEED, Issuer

from sidecar.endorsement import UvmIssuer
from sidecar.jose import parse_jws, payload_object
from sidecar.local.authority import Authority
from sidecar.local.refusal import Refusal
from sidecar.local.store import Store
from sidecar.local.tokens import TokenSigner
from sidecar.maa import AttestRequest, DataType, build_attest_request, report_data_for
from sidecar.snp.certs import parse_thim
from sidecar.snp.roots import Roots
from sidecar.snp.software import SoftwareProcessor
from sidecar.strictjson import JsonObject

RUNTIME = pki.wrapping_key().runtime_data()
MEASUREMENT = bytes(range(48))
NOW = datetime.now(UTC)
ENDORSER = Issuer()
ENDORSERS = (UvmIssuer(ENDORSER.did(), FEED),)


def authority(tmp_path: Path, processor: SoftwareProcessor, **options: Any) -> Authority:
    return Authority(
        issuer="https://localhost:1",
        signer=pki.self_signed(),
        roots=Roots.of(processor.ark) | Roots.amd(),
        store=Store(tmp_path / "db"),
        tokens=TokenSigner("https://x", pki.self_signed()),
        clock=lambda: NOW,
        **options,
    )


def request(processor: SoftwareProcessor, *, report: Any = None, **options: Any) -> bytes:
    raw = processor.sign_report(report_data_for(RUNTIME), measurement=MEASUREMENT, **(report or {}))
    return build_attest_request(AttestRequest(raw, processor.chain.to_pem(), RUNTIME, **options))


def claims(token: str) -> JsonObject:
    return payload_object(parse_jws(token))


def test_endorsement_of_the_measurement(tmp_path: Path, snp_processor: SoftwareProcessor) -> None:
    judge = authority(tmp_path, snp_processor, endorsers=ENDORSERS)
    found = claims(
        judge.attest(request(snp_processor, endorsements=(ENDORSER.endorse(MEASUREMENT, svn="100"),)))
    )
    assert found["x-ms-compliance-status"] == "azure-compliant-uvm"
    assert found["x-ms-sevsnpvm-uvm-endorsement"] == {
        "x-ms-sevsnpvm-guestsvn": "100",
        "x-ms-sevsnpvm-launchmeasurement": MEASUREMENT.hex(),
    }


@pytest.mark.parametrize("case", ["other measurement", "other signer", "broken", "none"])
def test_no_compliance_without_a_fitting_endorsement(
    tmp_path: Path, snp_processor: SoftwareProcessor, case: str
) -> None:
    document = {
        "other measurement": (ENDORSER.endorse(b"\0" * 48),),
        "other signer": (ENDORSER.endorse(MEASUREMENT),),
        "broken": (b"not COSE",),
        "none": (),
    }[case]
    endorsers = {} if case == "other signer" else {"endorsers": ENDORSERS}
    found = claims(
        authority(tmp_path, snp_processor, **endorsers).attest(request(snp_processor, endorsements=document))
    )
    assert "x-ms-compliance-status" not in found
    assert "x-ms-sevsnpvm-uvm-endorsement" not in found


def test_second_endorsement_may_fit(tmp_path: Path, snp_processor: SoftwareProcessor) -> None:
    documents = (b"broken", ENDORSER.endorse(MEASUREMENT))
    judge = authority(tmp_path, snp_processor, endorsers=ENDORSERS)
    assert "x-ms-compliance-status" in claims(judge.attest(request(snp_processor, endorsements=documents)))


@pytest.mark.parametrize("kind", list(DataType))
def test_init_time_data_commits_to_host_data(
    tmp_path: Path, snp_processor: SoftwareProcessor, kind: DataType
) -> None:
    data = b'{"policy":"x"}'
    digest = hashlib.sha256(data).digest()
    body = request(snp_processor, report={"host_data": digest}, init_time_data=data, init_time_type=kind)
    found = claims(authority(tmp_path, snp_processor).attest(body))
    assert found.get("x-ms-inittime") == ({"policy": "x"} if kind is DataType.JSON else None)


def test_runtime_data_that_is_not_an_object(tmp_path: Path, snp_processor: SoftwareProcessor) -> None:
    data = b"[1]"
    raw = snp_processor.sign_report(report_data_for(data))
    chain = snp_processor.chain.to_pem()
    judge = authority(tmp_path, snp_processor)
    with pytest.raises(Refusal, match="runtime data: is an array"):
        judge.attest(build_attest_request(AttestRequest(raw, chain, data)))
    binary = AttestRequest(raw, chain, data, runtime_type=DataType.BINARY)
    assert "x-ms-runtime" not in claims(judge.attest(build_attest_request(binary)))


def test_real_evidence_is_accepted_by_amds_root(
    tmp_path: Path, snp_processor: SoftwareProcessor, shared_snp: Path
) -> None:
    """Real report, host certificates and Microsoft endorsement: compliance is found, not asserted."""
    report = (shared_snp / "snp_report.bin").read_bytes()
    chain = parse_thim((shared_snp / "uvm_host_amd_certificate.json").read_bytes()).chain
    reference = (shared_snp / "uvm_reference_info.bin").read_bytes()
    judge = authority(tmp_path, snp_processor, compliance="asserted for software only")
    for endorsements, status in (((reference,), "azure-compliant-uvm"), ((), None)):
        body = build_attest_request(AttestRequest(report, chain.to_pem(), endorsements=endorsements))
        found = claims(judge.attest(body))
        assert found["x-ms-sevsnpvm-launchmeasurement"] == report[0x90:0xC0].hex()
        assert found.get("x-ms-compliance-status") == status
