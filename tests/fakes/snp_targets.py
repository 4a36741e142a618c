"""Fuzz targets: everything of the attestation core that reads bytes from outside."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable, Sequence
from datetime import timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding

from fakes.fuzz import Target
from fakes.snp_chain import NOW, Authority, name, rsa_key
from fakes.snp_cose import FEED, Issuer
from fakes.snp_tpm import Tpm
from sidecar.cbor import decode, encode
from sidecar.didx509 import parse_did
from sidecar.endorsement import UvmIssuer, verify_uvm_endorsement
from sidecar.errors import MalformedInput, SidecarError
from sidecar.jose import parse_jws
from sidecar.snp.certs import Collateral, build_thim, parse_certificate, parse_chain_pem, parse_thim
from sidecar.snp.certtable import build_certificate_table, parse_certificate_table, table_of
from sidecar.snp.describe import describe
from sidecar.snp.guestabi import parse_response
from sidecar.snp.hcl import build_hcl, parse_hcl
from sidecar.snp.leaf import LeafKind, parse_leaf
from sidecar.snp.report import REPORT_SIZE, build_report, parse_report
from sidecar.snp.revocation import parse_revocation_list
from sidecar.snp.roots import Roots
from sidecar.snp.tcb import ProductLine
from sidecar.snp.tpm import TpmRefusal, parse_public_size, parse_read
from sidecar.snp.verify import examine_evidence

AUTHORITIES = [Authority(line, vlek) for line in ProductLine for vlek in (False, True)]


def targets() -> list[Target]:
    """All of them; seeds are valid inputs of every kind."""
    chains = [authority.chain() for authority in AUTHORITIES]
    leaves = [chain.leaf.public_bytes(Encoding.DER) for chain in chains]
    tables = [build_certificate_table(table_of(chain).entries) for chain in chains]
    reports = [a.report(version=version) for a in AUTHORITIES[:3] for version in (3, 4, 5)]
    reports.append(AUTHORITIES[0].report(version=2, cpuid=None))
    thims = [build_thim(Collateral(chain, "db18000000000004", 86400)) for chain in chains[:2]]
    issuer = Issuer()
    endorsement = issuer.endorse(b"m" * 48)
    pinned = [UvmIssuer(issuer.did(), FEED)]
    tpm = Tpm(lambda data: AUTHORITIES[0].report(report_data=data))
    token = _token()
    return [
        Target("report", reports, _report, MalformedInput, size=REPORT_SIZE),
        Target("evidence", reports, _evidence(reports), MalformedInput, size=REPORT_SIZE),
        Target("leaf", leaves, _leaf, MalformedInput),
        Target("chain", [chain.to_pem() for chain in chains], parse_chain_pem, MalformedInput),
        Target("table", tables, _table, MalformedInput),
        Target("thim", thims, parse_thim, MalformedInput),
        Target("hcl", [_hcl()], parse_hcl, MalformedInput, 16 * 1024),
        Target("response", [_answer(reports[0])], _response, SidecarError, size=1280),
        Target("cbor", [endorsement, encode({1: [2, "three", b"four", None, True]})], _cbor, MalformedInput),
        Target(
            "endorsement",
            [endorsement],
            lambda data: verify_uvm_endorsement(data, measurement=b"m" * 48, at=NOW, issuers=pinned),
            SidecarError,
        ),
        Target(
            "did",
            [issuer.did().encode(), issuer.did("subject:C:US::san:dns:a.b").encode()],
            _did,
            MalformedInput,
        ),
        Target("crl", [_crl()], parse_revocation_list, MalformedInput),
        Target("tpm", [tpm.read_public(0x01400001), tpm.read(0x01400001, 16, 0)], _tpm, MalformedInput, 4096),
        Target("jws", [token], parse_jws, MalformedInput),
    ]


def _report(data: bytes) -> None:
    report = parse_report(data)
    assert build_report(report) == data
    describe(report)


def _evidence(genuine: Sequence[bytes]) -> Callable[[bytes], None]:
    """A changed report never verifies: bytes that are not signed must be zero, all others are signed."""
    chain = AUTHORITIES[0].chain()
    roots = Roots.of(chain.ark)

    def check(data: bytes) -> None:
        seen = examine_evidence(data, chain, roots=roots, at=NOW)
        assert seen.failed or data in genuine

    return check


def _leaf(data: bytes) -> None:
    leaf = parse_certificate(data)
    _ = parse_leaf(leaf).tcb
    chain = AUTHORITIES[0].chain()
    report = AUTHORITIES[0].report()
    changed = type(chain)(leaf, chain.ask, chain.ark)
    if leaf not in {authority.chain().leaf for authority in AUTHORITIES}:
        assert examine_evidence(report, changed, roots=Roots.of(chain.ark), at=NOW).failed


def _table(data: bytes) -> None:
    table = parse_certificate_table(data)
    for kind in LeafKind:
        table.chain(kind)


def _answer(report: bytes) -> bytes:
    return bytes(4) + len(report).to_bytes(4, "little") + bytes(24) + report + bytes(64)


def _response(data: bytes) -> None:
    if len(data) >= 1216:
        parse_response(data, b"d" * 64)


def _crl() -> bytes:
    entry = x509.RevokedCertificateBuilder().serial_number(5).revocation_date(NOW).build()
    builder = x509.CertificateRevocationListBuilder().issuer_name(name("ARK-Milan"))
    builder = builder.last_update(NOW).next_update(NOW + timedelta(days=7)).add_revoked_certificate(entry)
    return builder.sign(rsa_key("ark"), hashes.SHA384()).public_bytes(Encoding.DER)


def _cbor(data: bytes) -> None:
    assert encode(decode(data)) == data


def _did(data: bytes) -> None:
    parse_did(data.decode("utf-8", "replace"))


def _tpm(data: bytes) -> None:
    readers: list[Callable[[bytes], object]] = [parse_public_size, lambda d: parse_read(d, 16)]
    for read in readers:
        try:
            read(data)
        except TpmRefusal:
            continue


def _hcl() -> bytes:
    runtime = b'{"keys":[],"user-data":"' + b"00" * 64 + b'"}'
    digest = hashlib.sha256(runtime).digest().ljust(64, b"\0")
    return build_hcl(AUTHORITIES[0].report(report_data=digest), runtime).ljust(2600, b"\0")


def _token() -> bytes:
    parts = [json.dumps({"alg": "RS256", "kid": "k"}).encode(), b'{"iss":"https://a"}', b"signature"]
    return b".".join(base64.urlsafe_b64encode(part).rstrip(b"=") for part in parts)
