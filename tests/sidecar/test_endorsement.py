"""The UVM endorsement: the real one, and one mistake at a time."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest
from fakes.snp_chain import NOW, Authority
from fakes.snp_cose import EKU, FEED, SIGNED_AT, Issuer, spoil

from sidecar.cbor import Tagged, Value
from sidecar.endorsement import AZURE_UVM_ISSUERS, UvmIssuer, verify_uvm_endorsement
from sidecar.errors import EndorsementRejected, ExitCode, MalformedInput
from sidecar.snp.certs import parse_thim
from sidecar.snp.roots import Roots
from sidecar.snp.verify import UvmWish, verify_evidence

MEASUREMENT = b"m" * 48
ISSUER = Issuer()
PINNED = [UvmIssuer(ISSUER.did(), FEED, 20)]


def test_the_real_one(shared_snp: Path) -> None:
    data = (shared_snp / "uvm_reference_info.bin").read_bytes()
    report = (shared_snp / "snp_report.bin").read_bytes()
    found = verify_uvm_endorsement(data, measurement=report[0x90:0xC0], at=NOW)
    assert (found.feed, found.svn, found.measurement) == (FEED, 22, report[0x90:0xC0])
    assert found.signed_at == datetime(2023, 2, 8, 5, 42, 23, tzinfo=UTC)
    assert found.issuer == AZURE_UVM_ISSUERS[0].did
    chain = parse_thim((shared_snp / "uvm_host_amd_certificate.json").read_bytes()).chain
    seen = verify_evidence(report, chain, roots=Roots.amd(), at=NOW, uvm=UvmWish(data))
    assert seen.checks[-1].detail == "ContainerPlat-AMD-UVM, SVN 22"
    higher = [UvmIssuer(i.did, i.feed, 100) for i in AZURE_UVM_ISSUERS]
    with pytest.raises(EndorsementRejected, match="SVN 22, wanted at least 100"):
        verify_uvm_endorsement(data, measurement=report[0x90:0xC0], at=NOW, issuers=higher)


@pytest.mark.parametrize("offset", range(40, 10864, 233))
def test_one_changed_bit_in_the_real_one(shared_snp: Path, offset: int) -> None:
    data = bytearray((shared_snp / "uvm_reference_info.bin").read_bytes())
    measurement = (shared_snp / "snp_report.bin").read_bytes()[0x90:0xC0]
    # The third party's timestamp is in the unprotected header: nobody signs it, nobody reads it.
    start = data.index(b"timestamp")
    timestamp = range(
        start, start + len(b"timestamp") + 3 + int.from_bytes(data[start + 10 : start + 12], "big")
    )
    data[offset] ^= 1
    if offset in timestamp:
        return
    with pytest.raises((MalformedInput, EndorsementRejected)):
        verify_uvm_endorsement(bytes(data), measurement=measurement, at=NOW)


def test_ours() -> None:
    found = verify_uvm_endorsement(
        ISSUER.endorse(MEASUREMENT), measurement=MEASUREMENT, at=NOW, issuers=PINNED
    )
    assert (found.svn, found.signed_at) == (22, SIGNED_AT)


def test_svns_are_numbers() -> None:
    data = ISSUER.endorse(MEASUREMENT, svn="100")
    assert verify_uvm_endorsement(data, measurement=MEASUREMENT, at=NOW, issuers=PINNED).svn == 100


def test_without_a_signing_time_the_callers_counts() -> None:
    data = ISSUER.endorse(MEASUREMENT, signingtime=...)
    found = verify_uvm_endorsement(data, measurement=MEASUREMENT, at=SIGNED_AT, issuers=PINNED)
    assert found.signed_at is None
    with pytest.raises(EndorsementRejected, match="is valid 2023-01-01 to 2024-01-01, wanted 2026-03-01"):
        verify_uvm_endorsement(data, measurement=MEASUREMENT, at=NOW, issuers=PINNED)


REJECTED: list[tuple[dict[str, object], str]] = [
    ({"iss": ISSUER.did("eku:1.2.3")}, "wanted a pinned pair"),
    ({"iss": ISSUER.did(f"eku:{EKU}::subject:CN:Leaf")}, "wanted a pinned pair"),
    ({"feed": "ConfAKS-AMD-UVM"}, "feed 'ConfAKS-AMD-UVM', wanted a pinned pair"),
    ({"signingtime": Tagged(1, int(NOW.timestamp()) + 1)}, "signed at 2026-03-01, wanted before"),
    ({"signingtime": Tagged(1, 1)}, "wanted 1970-01-01"),
    ({"svn": "19"}, "SVN 19, wanted at least 20"),
    ({"svn": "3"}, "SVN 3, wanted at least 20"),
]


@pytest.mark.parametrize(("headers", "message"), REJECTED)
def test_what_is_rejected(headers: dict[str, object], message: str) -> None:
    data = ISSUER.endorse(MEASUREMENT, **headers)
    with pytest.raises(EndorsementRejected, match=message):
        verify_uvm_endorsement(data, measurement=MEASUREMENT, at=NOW, issuers=PINNED)


GOOD = {"x-ms-sevsnpvm-guestsvn": "22", "x-ms-sevsnpvm-launchmeasurement": MEASUREMENT.hex()}
MALFORMED: list[tuple[dict[str, object], str]] = [
    ({"iss": ...}, "no 'iss'"),
    ({"iss": 5}, "no 'iss'"),
    ({"feed": b"bytes"}, "no 'feed'"),
    ({"signingtime": 1675834943}, "signingtime is not a time"),
    ({"signingtime": Tagged(0, 5)}, "signingtime is not a time"),
    ({"signingtime": Tagged(1, "x")}, "signingtime is not a time"),
    ({"signingtime": Tagged(1, -1)}, "signingtime is not a time"),
    ({"signingtime": Tagged(1, 1 << 40)}, "signingtime is not a time"),
    ({"content_type": "application/cbor"}, "content type"),
    ({"content_type": ...}, "content type"),
    ({"x5chain": ...}, "no x5chain"),
    ({"svn": 22}, "guestsvn.*is a number, wanted a string"),
    ({"svn": "twenty"}, "guestsvn 'twenty', wanted a number"),
    ({"svn": "-1"}, "wanted a number"),
    ({"payload": b"[]"}, "wanted an object"),
    ({"payload": b"{"}, "not JSON"),
    ({"payload": json.dumps(GOOD | {"x-ms-sevsnpvm-launchmeasurement": "00"}).encode()}, "2 characters"),
    ({"payload": b'{"x-ms-sevsnpvm-guestsvn":"1"}'}, "launchmeasurement.*is missing"),
]


@pytest.mark.parametrize(("headers", "message"), MALFORMED)
def test_what_does_not_parse(headers: dict[str, Value], message: str) -> None:
    data = ISSUER.endorse(MEASUREMENT, **headers)
    with pytest.raises(MalformedInput, match=message):
        verify_uvm_endorsement(data, measurement=MEASUREMENT, at=NOW, issuers=PINNED)


def test_another_measurement() -> None:
    data = ISSUER.endorse(MEASUREMENT)
    with pytest.raises(EndorsementRejected, match=r"measurement 6d6d.*, wanted the report's 6e6e"):
        verify_uvm_endorsement(data, measurement=b"n" * 48, at=NOW, issuers=PINNED)


def test_another_chain_under_the_pinned_name() -> None:
    """Same names, other root: the digest in the pinned issuer tells them apart."""
    twin = Issuer(spoil_root=spoil(last=datetime(2025, 1, 1, tzinfo=UTC)))
    data = twin.endorse(MEASUREMENT, iss=ISSUER.did())
    with pytest.raises(EndorsementRejected, match="named by the issuer is not in it"):
        verify_uvm_endorsement(data, measurement=MEASUREMENT, at=NOW, issuers=PINNED)


def test_a_stranger_with_the_chain_of_the_issuer() -> None:
    data = bytearray(ISSUER.endorse(MEASUREMENT))
    data[-1] ^= 1
    with pytest.raises(EndorsementRejected, match="COSE signature: wrong"):
        verify_uvm_endorsement(bytes(data), measurement=MEASUREMENT, at=NOW, issuers=PINNED)


@pytest.mark.parametrize(
    ("document", "message"),
    [(b"", "none given"), (b"junk", "COSE message"), (ISSUER.endorse(b"n" * 48), "measurement 6e6e")],
)
def test_as_a_check_of_the_evidence(document: bytes, message: str) -> None:
    authority = Authority()
    chain = authority.chain()
    roots = Roots.of(chain.ark)
    good = UvmWish(ISSUER.endorse(MEASUREMENT), PINNED)
    verify_evidence(authority.report(), chain, roots=roots, at=NOW, uvm=good)
    with pytest.raises(EndorsementRejected, match=f"UVM endorsement: .*{message}") as caught:
        verify_evidence(authority.report(), chain, roots=roots, at=NOW, uvm=UvmWish(document, PINNED))
    assert caught.value.exit_code is ExitCode.ENDORSEMENT_REJECTED
    assert caught.value.hint
