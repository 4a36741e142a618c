"""Signature, chain, and the leaf's binding to the report: each check passes, and fails for each reason."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding
from cryptography.hazmat.primitives.serialization import Encoding
from fakes.snp_chain import (
    CPUIDS,
    NOW,
    Authority,
    Certificate,
    ca_extensions,
    der_ia5,
    leaf_extensions,
    leaf_key,
    name,
    rsa_key,
    sign,
)

from sidecar.errors import (
    CertificateRejected,
    MalformedInput,
    PolicyRejected,
    SignatureRejected,
    VerificationFailed,
)
from sidecar.snp.certs import CertificateChain, parse_certificate, parse_thim
from sidecar.snp.report import REPORT_SIZE, build_report, parse_report
from sidecar.snp.roots import PINNED_ROOTS, Anchor, Roots
from sidecar.snp.tcb import Cpuid, ProductLine, Tcb
from sidecar.snp.verify import VerifyPolicy, examine_evidence, verify_chain, verify_evidence

MILAN, GENOA, TURIN = ProductLine
P384_ORDER = int(
    "ffffffffffffffffffffffffffffffffffffffffffffffffc7634d81f4372ddf581a0db248b0a77aecec196accc52973", 16
)
CHECKS = [
    "signature algorithm",
    "signing key",
    "root",
    "intermediate",
    "leaf",
    "validity",
    "product line",
    "report signature",
    "leaf TCB",
    "chip id",
    "vmpl",
    "guest policy",
    "debug",
    "migration agent",
    "TCB order",
]


def refused(
    report: bytes,
    chain: CertificateChain,
    error: type[VerificationFailed],
    message: str,
    *,
    roots: Roots | None = None,
    policy: VerifyPolicy | None = None,
    at: datetime = NOW,
) -> None:
    """Both entry points agree that this is refused, and why."""
    roots = roots or Roots.of(chain.ark)
    with pytest.raises(error, match=message) as caught:
        verify_evidence(report, chain, roots=roots, policy=policy, at=at)
    assert type(caught.value) is error
    first = examine_evidence(report, chain, roots=roots, policy=policy, at=at).failed[0]
    assert str(first.error()) == str(caught.value)


@pytest.mark.parametrize("version", [2, 3, 4, 5])
@pytest.mark.parametrize("vlek", [False, True], ids=["vcek", "vlek"])
@pytest.mark.parametrize("line", list(ProductLine))
def test_every_line_kind_and_version(line: ProductLine, vlek: bool, version: int) -> None:
    authority = Authority(line, vlek)
    chain = authority.chain()
    report = authority.report(version=version, cpuid=None if version == 2 else CPUIDS[line])
    seen = verify_evidence(report, chain, roots=Roots.of(chain.ark), at=NOW)
    assert (seen.line, seen.is_hardware) == (line, False)
    assert [check.name for check in seen.checks] == CHECKS


def test_real_report(shared_snp: Path) -> None:
    report = (shared_snp / "snp_report.bin").read_bytes()
    chain = parse_thim((shared_snp / "uvm_host_amd_certificate.json").read_bytes()).chain
    seen = verify_evidence(report, chain, roots=Roots.amd(), at=NOW)
    assert (seen.line, seen.is_hardware) == (MILAN, True)
    assert verify_chain(chain, roots=Roots.amd(), at=NOW) == seen.leaf
    other_line = Roots(tuple(a for a in Roots.amd().anchors if a.line is not MILAN))
    refused(report, chain, CertificateRejected, "'ARK-Milan' is not a trusted root", roots=other_line)
    with_twin = replace(chain, ark=Authority().chain().ark)
    refused(report, with_twin, CertificateRejected, "'ARK-Milan' is not a trusted root", roots=Roots.amd())
    for at in (datetime(2022, 1, 1, tzinfo=UTC), datetime(2030, 1, 1, tzinfo=UTC)):
        refused(report, chain, CertificateRejected, "validity: SEV-VCEK is valid", roots=Roots.amd(), at=at)


# One bit in every signed field and in both halves of the signature; reserved areas fail to parse instead.
FLIPS = [
    0x004, 0x008, 0x010, 0x020, 0x030, 0x038, 0x040, 0x050, 0x08F, 0x090, 0x0BF, 0x0C0, 0x0DF, 0x0E0, 0x110,
    0x140, 0x160, 0x180, 0x187, 0x1A0, 0x1DF, 0x1E0, 0x1E8, 0x1EC, 0x1F0, 0x2A0, 0x2CF, 0x2E8, 0x317,
]  # fmt: skip


@pytest.mark.parametrize("offset", FLIPS, ids=hex)
def test_one_bit_flipped_in_the_real_report(shared_snp: Path, offset: int) -> None:
    report = bytearray((shared_snp / "snp_report.bin").read_bytes())
    chain = parse_thim((shared_snp / "uvm_host_amd_certificate.json").read_bytes()).chain
    report[offset] ^= 1
    refused(bytes(report), chain, SignatureRejected, "report signature: does not match", roots=Roots.amd())


def test_high_s_is_accepted_and_does_not_change_the_identity() -> None:
    authority = Authority()
    chain = authority.chain()
    report = parse_report(authority.report())
    twin = build_report(replace(report, signature_s=P384_ORDER - report.signature_s))
    assert twin != report.raw
    seen = verify_evidence(twin, chain, roots=Roots.of(chain.ark), at=NOW)
    assert seen.report.digest == report.digest


def test_malformed_reports_are_another_error() -> None:
    chain = Authority().chain()
    for data in (b"", bytes(REPORT_SIZE)):
        with pytest.raises(MalformedInput):
            examine_evidence(data, chain, roots=Roots.amd(), at=NOW)


@pytest.mark.parametrize("algorithm", [0, 2])
def test_another_signature_algorithm(algorithm: int) -> None:
    authority = Authority()
    report = authority.report(signature_algorithm=algorithm)
    refused(report, authority.chain(), SignatureRejected, f"signature algorithm: {algorithm}, wanted 1")


@pytest.mark.parametrize("key", [2, 3, 4, 5, 6, 7])
def test_signing_keys_that_prove_nothing(key: int) -> None:
    authority = Authority()
    report = authority.report(flags=key << 2)
    refused(report, authority.chain(), SignatureRejected, f"signing key: {key}, wanted 0")


def test_a_masked_key_proves_nothing() -> None:
    authority = Authority()
    refused(authority.report(flags=2), authority.chain(), SignatureRejected, "MASK_CHIP_KEY")


@pytest.mark.parametrize("vlek", [False, True], ids=["vlek for vcek", "vcek for vlek"])
def test_leaf_kind_follows_the_report(vlek: bool) -> None:
    """A provider's key must not stand in for a chip's key, nor the reverse."""
    authority = Authority(vlek=vlek)
    flags = 0 if vlek else 0b100
    report = authority.report(flags=flags)
    refused(report, authority.chain(), CertificateRejected, "intermediate: 'SEV-(VLEK-)?Milan', wanted")
    failed = examine_evidence(report, authority.chain(), roots=Roots.of(authority.chain().ark), at=NOW).failed
    assert [check.name for check in failed] == ["intermediate", "leaf"]


def test_asvk_in_place_of_the_ask() -> None:
    vcek, vlek = Authority().chain(), Authority(vlek=True).chain()
    mixed = replace(vcek, ask=vlek.ask)
    refused(
        Authority().report(), mixed, CertificateRejected, "intermediate: 'SEV-VLEK-Milan', wanted 'SEV-Milan'"
    )


@pytest.mark.parametrize(("real", "claimed"), [(MILAN, GENOA), (GENOA, TURIN), (TURIN, MILAN)])
def test_product_line_of_report_and_root_must_agree(real: ProductLine, claimed: ProductLine) -> None:
    authority = Authority(real)
    report = authority.report(cpuid=CPUIDS[claimed])
    refused(
        report, authority.chain(), CertificateRejected, f"product line: {claimed} by CPUID .*, wanted {real}"
    )


def test_an_unknown_processor_is_refused() -> None:
    authority = Authority(TURIN)
    report = authority.report(cpuid=Cpuid(0x1A, 0x50, 0))
    refused(report, authority.chain(), CertificateRejected, "product line: unknown by CPUID 1a/50/00")


def test_chain_of_another_line() -> None:
    roots = Roots.of(Authority(MILAN).chain().ark) | Roots.of(Authority(TURIN).chain().ark)
    report, chain = Authority(MILAN).report(), Authority(TURIN).chain()
    refused(report, chain, CertificateRejected, "product line: Milan by CPUID", roots=roots)


def test_chip_of_another_machine() -> None:
    """Good chain, equal TCB, wrong chip: signature and hardware id both say so."""
    one, other = Authority(), Authority(hwid=b"o" * 64, key=leaf_key("other"))
    refused(one.report(), other.chain(), SignatureRejected, "report signature: does not match")
    same_key = Authority(hwid=b"o" * 64)
    refused(
        one.report(), same_key.chain(), CertificateRejected, "chip id: leaf 6f6f.*, wanted the report's 0102"
    )


def test_a_masked_chip_id_needs_consent() -> None:
    authority = Authority()
    report, chain = authority.report(chip_id=bytes(64)), authority.chain()
    refused(report, chain, CertificateRejected, "chip id: leaf")
    policy = VerifyPolicy(allow_masked_chip_id=True)
    verify_evidence(report, chain, roots=Roots.of(chain.ark), at=NOW, policy=policy)
    refused(Authority(hwid=b"o" * 64).report(), chain, CertificateRejected, "chip id: leaf", policy=policy)


def test_a_short_chip_id_is_padded_with_zeros_only() -> None:
    authority = Authority(TURIN)
    report = authority.report(chip_id=authority.chip + b"\x01".ljust(56, b"\0"))
    refused(report, authority.chain(), CertificateRejected, "chip id: leaf 0102030405060708, wanted")


def test_leaf_tcb_is_reported_tcb_not_current() -> None:
    authority = Authority()
    newer = Tcb(bytes((4, 0, 0, 0, 0, 0, 0x18, 0xDC)), MILAN.layout)
    chain = authority.chain()
    verify_evidence(authority.report(current_tcb=newer), chain, roots=Roots.of(chain.ark), at=NOW)
    report = authority.report(current_tcb=newer, reported_tcb=newer)
    refused(
        report, chain, CertificateRejected, "leaf TCB: .*microcode=219, wanted REPORTED_TCB .*microcode=220"
    )
    odd = Tcb(bytes((4, 0, 1, 0, 0, 0, 0x18, 0xDB)), MILAN.layout)
    refused(authority.report(current_tcb=odd, reported_tcb=odd), chain, CertificateRejected, "leaf TCB")


def spoil(**changes: object) -> Callable[[Certificate], Certificate]:
    return lambda certificate: replace(certificate, **changes)


ORGANISATION = "Advanced Micro Devices"
PKCS1 = padding.PKCS1v15()
SALT_32 = padding.PSS(padding.MGF1(hashes.SHA384()), 32)
MGF_256 = padding.PSS(padding.MGF1(hashes.SHA256()), 48)
ROGUE = rsa_key("rogue")
OLD = datetime(2026, 2, 1, tzinfo=UTC)
NEW = datetime(2026, 4, 1, tzinfo=UTC)
OTHER_CA = rsa_key("ark").public_key()

SPOILED = [
    ("spoil_ark", spoil(signer=ROGUE), "root: not signed by the key of 'ARK-Milan'"),
    ("spoil_ark", spoil(last=OLD), "validity: ARK-Milan is valid"),
    ("spoil_ask", spoil(signer=ROGUE), "intermediate: not signed by the key of 'ARK-Milan'"),
    ("spoil_ask", spoil(subject=name("SEV-Genoa")), "intermediate: 'SEV-Genoa', wanted 'SEV-Milan'"),
    ("spoil_ask", spoil(issuer=name("ARK-Genoa")), "intermediate: issued by 'ARK-Genoa'"),
    ("spoil_ask", spoil(subject=name("SEV-Milan", "Evil")), "intermediate: organisation differs"),
    ("spoil_ask", spoil(extensions=ca_extensions(0, ca=False)), "intermediate: not a CA"),
    ("spoil_ask", spoil(extensions=ca_extensions(1)), "intermediate: not a CA"),
    ("spoil_ask", spoil(extensions=ca_extensions(0, sign=False)), "intermediate: not a CA"),
    ("spoil_ask", spoil(extensions=()), "intermediate: extension 2.5.29.19 missing"),
    ("spoil_ask", spoil(extensions=ca_extensions(0)[:1]), "intermediate: extension 2.5.29.15 missing"),
    ("spoil_ask", spoil(padding=PKCS1), "intermediate: signed with .*, wanted RSASSA-PSS"),
    ("spoil_ask", spoil(last=OLD), "validity: SEV-Milan is valid"),
    ("spoil_ask", spoil(public_key=leaf_key("ask").public_key()), "leaf: the issuer's key is not RSA"),
    ("spoil_leaf", spoil(signer=ROGUE), "leaf: not signed by the key of 'SEV-Milan'"),
    ("spoil_leaf", spoil(padding=PKCS1), "leaf: signed with"),
    ("spoil_leaf", spoil(padding=SALT_32), "leaf: not signed"),
    ("spoil_leaf", spoil(padding=MGF_256), "leaf: not signed"),
    (
        "spoil_leaf",
        spoil(algorithm=hashes.SHA256(), padding=padding.PSS(padding.MGF1(hashes.SHA256()), 32)),
        "leaf: not signed",
    ),
    ("spoil_leaf", spoil(issuer=name("SEV-Genoa")), "leaf: issued by 'SEV-Genoa'"),
    ("spoil_leaf", spoil(subject=name("SEV-VCEK", "Evil")), "leaf: organisation differs"),
    ("spoil_leaf", spoil(subject=name("SEV-VCEK1")), "leaf: 'SEV-VCEK1', wanted 'SEV-VCEK'"),
    ("spoil_leaf", spoil(public_key=OTHER_CA), "leaf: the leaf's key is not on P-384"),
    (
        "spoil_leaf",
        spoil(public_key=ec.generate_private_key(ec.SECP256R1()).public_key()),
        "leaf: the leaf's key is not on P-384",
    ),
    ("spoil_leaf", spoil(last=OLD), "validity: SEV-VCEK is valid"),
    ("spoil_leaf", spoil(first=NEW), "validity: SEV-VCEK is valid"),
    ("spoil_leaf", spoil(extensions=()), "leaf: .*1.3.6.1.4.1.3704.1.1 missing"),
    ("spoil_leaf", spoil(extensions=leaf_extensions(Authority(GENOA).values())), "leaf: product 'Genoa'"),
    ("spoil_leaf", spoil(extensions=leaf_extensions(Authority(TURIN).values())), "leaf: product 'Turin'"),
]


@pytest.mark.parametrize(("place", "change", "message"), SPOILED)
def test_one_mistake_in_the_chain(
    place: str, change: Callable[[Certificate], Certificate], message: str
) -> None:
    authority = Authority(**{place: change})
    chain = authority.chain()
    refused(authority.report(), chain, CertificateRejected, message)
    with pytest.raises((CertificateRejected, MalformedInput)):
        verify_chain(chain, roots=Roots.of(chain.ark), at=NOW)


def test_the_algorithm_is_stated_twice_alike() -> None:
    """The statement outside of what is signed could be changed by anyone."""
    authority = Authority()
    chain = authority.chain()
    der = bytearray(chain.leaf.public_bytes(Encoding.DER))
    # The last SHA-384 of the certificate is the digest of MGF1 in the outer statement; make it SHA-256.
    place = der.rindex(bytes.fromhex("0609608648016503040202"))
    der[place + 10] = 1
    changed = replace(chain, leaf=parse_certificate(bytes(der)))
    refused(
        authority.report(), changed, CertificateRejected, "leaf: signature of 'SEV-Milan' cannot be judged"
    )


def test_a_product_name_of_another_line() -> None:
    authority = Authority(spoil_values=lambda v: v.__setitem__("2", der_ia5("Milano-B0")))
    refused(authority.report(), authority.chain(), CertificateRejected, "leaf: product 'Milano-B0'")


def test_a_root_with_amds_names_is_not_amds() -> None:
    authority = Authority()
    chain = authority.chain()
    assert chain.ark.subject == name("ARK-Milan", ORGANISATION)
    refused(
        authority.report(), chain, CertificateRejected, "'ARK-Milan' is not a trusted root", roots=Roots.amd()
    )


def test_the_root_is_the_object_that_was_pinned() -> None:
    """Same key and names, other bytes: not the pinned certificate."""
    genuine = Authority().chain()
    reissued = Authority(spoil_ark=spoil(serial=0x10001)).chain()
    roots = Roots.of(genuine.ark)
    refused(Authority().report(), reissued, CertificateRejected, "not a trusted root", roots=roots)
    assert set(PINNED_ROOTS) == set(ProductLine)
    with pytest.raises(MalformedInput, match="no product line"):
        Roots.of(Authority(spoil_ark=spoil(subject=name("ARK"))).chain().ark)


def test_the_root_of_the_evidence_signs_nothing_by_itself() -> None:
    """The ASK of one authority under the ARK of another with the same names."""
    rogue = Authority(
        spoil_ask=spoil(signer=ROGUE), spoil_ark=spoil(signer=ROGUE, public_key=ROGUE.public_key())
    )
    report, chain = rogue.report(), rogue.chain()
    verify_evidence(report, chain, roots=Roots.of(chain.ark), at=NOW)
    genuine_root = replace(chain, ark=Authority().chain().ark)
    refused(
        report,
        genuine_root,
        CertificateRejected,
        "intermediate: not signed",
        roots=Roots.of(genuine_root.ark),
    )


def with_crl(*addresses: str) -> Callable[[Certificate], Certificate]:
    points = [
        x509.DistributionPoint([x509.UniformResourceIdentifier(address)], None, None, None)
        for address in addresses
    ]
    extra = ((x509.CRLDistributionPoints(points), False),) if points else ()
    return lambda certificate: replace(certificate, extensions=(*certificate.extensions, *extra))


@pytest.mark.parametrize("vlek", [False, True], ids=["vcek", "vlek"])
def test_hardware_chains_name_amds_revocation_list(vlek: bool) -> None:
    """Asked of roots that count as AMD's; others have no list."""
    address = f"https://kdsintf.amd.com/{'vlek' if vlek else 'vcek'}/v1/Milan/crl"
    spoils = [with_crl(), with_crl(address + "2"), with_crl(address, address), with_crl(address)]
    authorities = [Authority(vlek=vlek, spoil_ask=spoil_ask) for spoil_ask in spoils]
    ark = authorities[0].chain().ark
    roots = Roots((Anchor(ark.fingerprint(hashes.SHA256()), MILAN, True),))
    for authority in authorities[:-1]:
        message = "intermediate: (revocation list at|extension 2.5.29.31 missing)"
        refused(authority.report(), authority.chain(), CertificateRejected, message, roots=roots)
    seen = verify_evidence(authorities[-1].report(), authorities[-1].chain(), roots=roots, at=NOW)
    assert seen.is_hardware


def test_every_failure_is_listed() -> None:
    authority = Authority(spoil_leaf=spoil(last=OLD, extensions=()))
    chain = authority.chain()
    report = authority.report(vmpl=1, policy=0xB001F, flags=7 << 2)
    failed = examine_evidence(report, chain, roots=Roots.amd(), at=NOW).failed
    assert [check.name for check in failed] == [
        "signing key",
        "root",
        "intermediate",
        "leaf",
        "validity",
        "product line",
        "leaf TCB",
        "chip id",
        "vmpl",
        "debug",
    ]


def test_policy_is_judged_after_the_signature() -> None:
    authority = Authority()
    refused(authority.report(vmpl=1), authority.chain(), PolicyRejected, "vmpl: 1, wanted 0")
    report = bytearray(authority.report(vmpl=1))
    report[0x50] ^= 1
    refused(bytes(report), authority.chain(), SignatureRejected, "report signature")


def test_a_signature_by_a_key_outside_the_chain() -> None:
    authority = Authority()
    report = sign(parse_report(authority.report()), leaf_key("stranger"))
    refused(report, authority.chain(), SignatureRejected, "report signature: does not match")


def test_zero_signatures_are_wrong_not_a_crash() -> None:
    authority = Authority()
    report = authority.report()[:0x2A0].ljust(REPORT_SIZE, b"\0")
    refused(report, authority.chain(), SignatureRejected, "report signature: does not match")


def test_time_needs_a_zone() -> None:
    chain = Authority().chain()
    with pytest.raises(TypeError):
        verify_chain(chain, roots=Roots.of(chain.ark), at=datetime(2026, 1, 1))
