"""Is this report genuine: signature over the raw bytes, chain to a pinned root, leaf bound to the report.

Strategy: each step is one named check; `examine_evidence` runs them all and lists the outcomes, for people;
`verify_evidence` runs the same list and raises at the first failure, for programs.

Rules: no clock and no I/O, the time is an argument; the root used is the one pinned (see `roots`); which
intermediate and which leaf are wanted follows from the report's SIGNING_KEY, never from what was supplied;
something missing is a failure, never a skipped check.

Spec: AMD 56860 (SNP firmware ABI), ATTESTATION_REPORT and its signature; AMD 57230, certificate chain.

Kind: pure
"""

from __future__ import annotations

import hmac
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA384

from sidecar.endorsement import AZURE_UVM_ISSUERS, UvmIssuer, verify_uvm_endorsement
from sidecar.errors import EndorsementRejected, MalformedInput
from sidecar.snp.certs import CertificateChain
from sidecar.snp.chain import examine_chain, leaf_key, verify_chain
from sidecar.snp.check import Cause, Check, Refused, run
from sidecar.snp.leaf import Leaf, LeafKind, parse_leaf
from sidecar.snp.report import ALGORITHM_ECDSA_P384_SHA384, Report, SigningKey, parse_report
from sidecar.snp.revocation import RevocationList, check_revocation
from sidecar.snp.roots import Anchor, Roots
from sidecar.snp.tcb import ProductLine
from sidecar.snp.validate import VerifyPolicy, validate

__all__ = [
    "Examination",
    "UvmWish",
    "Verified",
    "VerifyPolicy",
    "examine_evidence",
    "verify_chain",
    "verify_evidence",
]


@dataclass(frozen=True, slots=True)
class UvmWish:
    """An endorsement of the measurement, and who may have signed it.

    Attributes:
        document: COSE_Sign1 as the host gave it (decoded reference info), b"" when it gave none: that fails.
    """

    document: bytes
    issuers: Sequence[UvmIssuer] = AZURE_UVM_ISSUERS


@dataclass(frozen=True, slots=True)
class Verified:
    """A report that passed.

    Attributes:
        is_hardware: the chain ends at a root of AMD's; false for the software processor.
        checks: every check that was made, all passed.
    """

    report: Report
    leaf: Leaf
    line: ProductLine
    is_hardware: bool
    checks: tuple[Check, ...]


@dataclass(frozen=True, slots=True)
class Examination:
    """Every check with its outcome, for a reader; `failed` is empty exactly when the evidence verifies."""

    report: Report
    leaf: Leaf | None
    anchor: Anchor | None
    checks: tuple[Check, ...]

    @property
    def failed(self) -> tuple[Check, ...]:
        """Failed checks, in order; the first one is the cause to report."""
        return tuple(check for check in self.checks if not check.ok)


def verify_evidence(
    report: bytes,
    chain: CertificateChain,
    *,
    roots: Roots,
    at: datetime,
    policy: VerifyPolicy | None = None,
    revocation: Sequence[RevocationList] = (),
    uvm: UvmWish | None = None,
) -> Verified:
    """Decide whether a report is genuine and says what is wanted.

    Args:
        report: 1184 bytes as received, public, from an untrusted party.
        chain: leaf, ASK or ASVK, and ARK, from an untrusted party.
        roots: who may end the chain.
        at: time at which the certificates must be valid, with a time zone.
        policy: wishes on the fields; the default is VMPL 0, no debugging, no migration.
        revocation: lists to hold the chain against; when given, the chain's line must be among them.
        uvm: endorsement that the measurement must have; None asks for none.

    Raises:
        MalformedInput: the report does not parse.
        VerificationFailed: the first failed check, as the subclass of its cause.
    """
    seen = examine_evidence(report, chain, roots=roots, at=at, policy=policy, revocation=revocation, uvm=uvm)
    for check in seen.failed:
        raise check.error()
    if seen.leaf is None or seen.anchor is None:
        raise AssertionError("evidence passed without leaf or anchor")
    return Verified(seen.report, seen.leaf, seen.anchor.line, seen.anchor.is_hardware, seen.checks)


def examine_evidence(
    report: bytes,
    chain: CertificateChain,
    *,
    roots: Roots,
    at: datetime,
    policy: VerifyPolicy | None = None,
    revocation: Sequence[RevocationList] = (),
    uvm: UvmWish | None = None,
) -> Examination:
    """Run every check of `verify_evidence` and list the outcomes instead of raising.

    Raises:
        MalformedInput: the report does not parse, so there is nothing to check.
    """
    parsed = parse_report(report)
    wanted = policy or VerifyPolicy()
    anchor = roots.find(chain.ark)
    line = anchor.line if anchor else None
    kind = _LEAF_KINDS.get(parsed.signing_key)
    leaf = _parse_leaf_or_none(chain.leaf)
    checks = [
        run("signature algorithm", Cause.SIGNATURE, lambda: _algorithm(parsed)),
        run("signing key", Cause.SIGNATURE, lambda: _signing_key(parsed)),
        *examine_chain(chain, anchor, kind, at),
        run("product line", Cause.CERTIFICATE, lambda: _product_line(parsed, line)),
        run("report signature", Cause.SIGNATURE, lambda: _report_signature(parsed, chain.leaf)),
        run("leaf TCB", Cause.CERTIFICATE, lambda: _leaf_tcb(parsed, leaf), hint=_TCB_HINT),
        run("chip id", Cause.CERTIFICATE, lambda: _chip_id(parsed, leaf, wanted)),
    ]
    if revocation:
        checks.append(
            run("revocation", Cause.REVOCATION, lambda: check_revocation(chain, line, revocation, at))
        )
    checks += validate(parsed, line, wanted)
    if uvm:
        checks.append(
            run("UVM endorsement", Cause.ENDORSEMENT, lambda: _endorsement(parsed, uvm, at), hint=_UVM_HINT)
        )
    return Examination(parsed, leaf, anchor, tuple(checks))


_LEAF_KINDS: dict[int, LeafKind] = {SigningKey.VCEK: LeafKind.VCEK, SigningKey.VLEK: LeafKind.VLEK}
_UVM_HINT = "the host's reference info belongs to another utility VM, or comes from an issuer not accepted"
_TCB_HINT = "the certificates are for another firmware level; fetch them again for the report's REPORTED_TCB"


def _algorithm(report: Report) -> str:
    if report.signature_algorithm != ALGORITHM_ECDSA_P384_SHA384:
        raise Refused(f"{report.signature_algorithm}, wanted 1 (ECDSA P-384 with SHA-384)")
    return "ECDSA P-384 with SHA-384"


def _signing_key(report: Report) -> str:
    key = report.signing_key
    if report.chip_key_masked:
        raise Refused("the firmware was told not to sign (MASK_CHIP_KEY), wanted a signature")
    if key not in _LEAF_KINDS:
        raise Refused(f"{key:d}, wanted 0 (VCEK) or 1 (VLEK)")
    return _LEAF_KINDS[key]


def _product_line(report: Report, line: ProductLine | None) -> str:
    if line is None:
        raise Refused("no trusted root names one, wanted Milan, Genoa or Turin")
    if report.cpuid is None:
        return f"{line} (by the root; version 2 reports name no processor)"
    if report.product_line is not line:
        cpuid = report.cpuid
        seen = report.product_line or "unknown"
        where = f"CPUID {cpuid.family:02x}/{cpuid.model:02x}/{cpuid.stepping:02x}"
        raise Refused(f"{seen} by {where}, wanted {line}, the root's")
    return line


def _report_signature(report: Report, leaf: x509.Certificate) -> str:
    try:
        leaf_key(leaf).verify(report.signature_der, report.signed, ec.ECDSA(SHA384()))
    except InvalidSignature:
        raise Refused("does not match the leaf's key, wanted a signature over bytes 0x000 to 0x29f") from None
    return "matches the leaf's key"


def _leaf_tcb(report: Report, leaf: Leaf | None) -> str:
    if leaf is None:
        raise Refused("unreadable, wanted the report's REPORTED_TCB")
    if leaf.tcb.raw != report.reported_tcb.raw:
        raise Refused(f"{leaf.tcb}, wanted REPORTED_TCB {report.reported_tcb}")
    return str(leaf.tcb)


def _chip_id(report: Report, leaf: Leaf | None, policy: VerifyPolicy) -> str:
    if leaf is None:
        raise Refused("the leaf's hardware id is unreadable, wanted the report's CHIP_ID")
    if leaf.hwid is None:
        # parse_leaf let this through for a VLEK only: its key belongs to a provider, not to a chip.
        return f"not bound: VLEK of {leaf.csp_id}"
    if policy.allow_masked_chip_id and not any(report.chip_id):
        return "masked by the host, accepted by policy"
    if not hmac.compare_digest(leaf.hwid.ljust(len(report.chip_id), b"\0"), report.chip_id):
        raise Refused(f"leaf {leaf.hwid.hex()}, wanted the report's {report.chip_id.hex()}")
    return leaf.hwid.hex()


def _endorsement(report: Report, uvm: UvmWish, at: datetime) -> str:
    if not uvm.document:
        raise Refused("none given, wanted one")
    try:
        found = verify_uvm_endorsement(
            uvm.document, measurement=report.measurement, at=at, issuers=uvm.issuers
        )
    except EndorsementRejected as exc:
        raise Refused(str(exc)) from exc
    return f"{found.feed}, SVN {found.svn}"


def _parse_leaf_or_none(certificate: x509.Certificate) -> Leaf | None:
    """For the later checks; the check named "leaf" says why it does not parse."""
    try:
        return parse_leaf(certificate)
    except MalformedInput:
        return None
