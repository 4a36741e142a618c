"""Does a certificate chain lead from a trusted root to a leaf that may sign reports.

Strategy: four named checks: the root is pinned, the intermediate is the one for this kind of leaf, the leaf
is AMD's in every detail, all three are valid at the given time.

Rules: the root used is the one pinned (see `roots`); RSASSA-PSS parameters are ours, not the certificate's;
each certificate is verified with the key of the one above, names, CA bit and path length included.

Spec: AMD 57230 (VCEK certificate and KDS interface), ARK, ASK, ASVK, VCEK and VLEK certificates.

Kind: pure
"""

from __future__ import annotations

from datetime import datetime
from typing import TypeVar

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.hashes import SHA384
from cryptography.x509.oid import NameOID, SignatureAlgorithmOID

from sidecar.errors import MalformedInput
from sidecar.snp.certs import VCEK_NAME, VLEK_NAME, CertificateChain, common_name, line_of_name
from sidecar.snp.check import Cause, Check, Refused, run
from sidecar.snp.leaf import Leaf, LeafKind, parse_leaf
from sidecar.snp.roots import Anchor, Roots
from sidecar.snp.tcb import ProductLine

Extension = TypeVar("Extension", bound=x509.ExtensionType)

# AMD 57230: every certificate is signed RSASSA-PSS, SHA-384, MGF1 with SHA-384, salt of 48 bytes.
PSS = padding.PSS(padding.MGF1(SHA384()), 48)
_LEAF_NAMES = {LeafKind.VCEK: VCEK_NAME, LeafKind.VLEK: VLEK_NAME}
_CA_PREFIXES = {LeafKind.VCEK: "SEV-", LeafKind.VLEK: "SEV-VLEK-"}
_ROOT_HINT = "reports of the software processor verify only against its own root, passed by name"
_VALIDITY_HINT = "check this machine's clock, or fetch the certificates again"


def examine_chain(
    chain: CertificateChain, anchor: Anchor | None, kind: LeafKind | None, at: datetime
) -> list[Check]:
    """Run the four checks.

    Args:
        anchor: the trusted root that `chain.ark` is, None when it is none.
        kind: the leaf that is wanted, None when the report names none; that fails.
        at: with a time zone.
    """
    line = anchor.line if anchor else None
    return [
        run("root", Cause.CERTIFICATE, lambda: _root(chain.ark, anchor), hint=_ROOT_HINT),
        run("intermediate", Cause.CERTIFICATE, lambda: _intermediate(chain, kind, anchor)),
        run("leaf", Cause.CERTIFICATE, lambda: _leaf(chain, kind, line)),
        run("validity", Cause.CERTIFICATE, lambda: _validity(chain, at), hint=_VALIDITY_HINT),
    ]


def verify_chain(chain: CertificateChain, *, roots: Roots, at: datetime) -> Leaf:
    """Check a chain without a report: a source of certificates is judged before its answer is kept.

    Raises:
        VerificationFailed: the first failed check.
        MalformedInput: the leaf's extensions do not parse.
    """
    anchor = roots.find(chain.ark)
    leaf = parse_leaf(chain.leaf)
    for check in examine_chain(chain, anchor, leaf.kind, at):
        if not check.ok:
            raise check.error()
    return leaf


def _root(ark: x509.Certificate, anchor: Anchor | None) -> str:
    if anchor is None:
        raise Refused(f"{common_name(ark.subject)[:64]!r} is not a trusted root, wanted a pinned ARK")
    require_signed(ark, ark)
    return (
        f"{common_name(ark.subject)}, {'pinned' if anchor.is_hardware else 'NOT hardware, trusted by name'}"
    )


def _intermediate(chain: CertificateChain, kind: LeafKind | None, anchor: Anchor | None) -> str:
    ask, ark = chain.ask, chain.ark
    if kind is None or anchor is None:
        raise Refused("cannot be chosen without a signing key and a trusted root")
    _require_name(ask, f"{_CA_PREFIXES[kind]}{anchor.line}", ark)
    require_signed(ask, ark)
    constraints = _extension(ask, x509.BasicConstraints)
    usage = _extension(ask, x509.KeyUsage)
    if not constraints.ca or constraints.path_length != 0 or not usage.key_cert_sign:
        raise Refused("not a CA for leaves only, wanted CA with path length 0 and keyCertSign")
    if anchor.is_hardware:
        _require_crl_location(ask, f"https://kdsintf.amd.com/{kind.lower()}/v1/{anchor.line}/crl")
    return common_name(ask.subject)


def _leaf(chain: CertificateChain, kind: LeafKind | None, line: ProductLine | None) -> str:
    leaf = chain.leaf
    if kind is None or line is None:
        raise Refused("cannot be judged without a signing key and a trusted root")
    _require_name(leaf, _LEAF_NAMES[kind], chain.ask)
    require_signed(leaf, chain.ask)
    content = parse_leaf(leaf)
    leaf_key(leaf)
    if content.tcb.layout is not line.layout or line_of_name(content.product_name) is not line:
        raise Refused(
            f"product {content.product_name!r}, structVersion {content.struct_version}, wanted {line}'s"
        )
    return f"{kind} for {content.product_name}"


def _validity(chain: CertificateChain, at: datetime) -> str:
    certificates = (chain.leaf, chain.ask, chain.ark)
    for certificate in certificates:
        first, last = certificate.not_valid_before_utc, certificate.not_valid_after_utc
        if not first <= at <= last:
            name = common_name(certificate.subject)
            raise Refused(f"{name} is valid {first:%Y-%m-%d} to {last:%Y-%m-%d}, wanted {at:%Y-%m-%d %H:%M}Z")
    return f"until {min(c.not_valid_after_utc for c in certificates):%Y-%m-%d}"


def _require_name(certificate: x509.Certificate, name: str, issuer: x509.Certificate) -> None:
    """Common name as wanted, issuer's name as is, and the same organisation as the issuer's."""
    seen = common_name(certificate.subject)
    if seen != name:
        raise Refused(f"{seen[:64]!r}, wanted {name!r}")
    if certificate.issuer != issuer.subject:
        raise Refused(
            f"issued by {common_name(certificate.issuer)[:64]!r}, wanted {common_name(issuer.subject)!r}"
        )
    if _organisation(certificate.subject) != _organisation(issuer.subject):
        raise Refused("organisation differs from the issuer's")


def _organisation(name: x509.Name) -> list[tuple[str, object]]:
    return sorted(
        (a.oid.dotted_string, a.value) for a in name if a.oid != NameOID.COMMON_NAME
    )  # fmt: skip


def require_signed(certificate: x509.Certificate, issuer: x509.Certificate) -> None:
    if certificate.version is not x509.Version.v3:
        raise Refused(f"X.509 {certificate.version.name}, wanted v3")
    if certificate.signature_algorithm_oid != SignatureAlgorithmOID.RSASSA_PSS:
        raise Refused(f"signed with {certificate.signature_algorithm_oid.dotted_string}, wanted RSASSA-PSS")
    name = common_name(issuer.subject)[:64]
    try:
        key = issuer.public_key()
        if not isinstance(key, rsa.RSAPublicKey):
            raise Refused("the issuer's key is not RSA")
        key.verify(certificate.signature, certificate.tbs_certificate_bytes, PSS, SHA384())
        # The algorithm is stated twice, once outside of what is signed; this compares the two.
        certificate.verify_directly_issued_by(issuer)
    except InvalidSignature:
        raise Refused(f"not signed by the key of {name!r}") from None
    except (ValueError, TypeError, UnsupportedAlgorithm) as exc:
        raise Refused(f"signature of {name!r} cannot be judged: {exc}") from exc


def leaf_key(leaf: x509.Certificate) -> ec.EllipticCurvePublicKey:
    try:
        key = leaf.public_key()
    except (ValueError, UnsupportedAlgorithm) as exc:
        raise MalformedInput(f"leaf key: does not parse: {exc}") from exc
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP384R1):
        raise Refused("the leaf's key is not on P-384")
    return key


def _require_crl_location(certificate: x509.Certificate, wanted: str) -> None:
    """AMD's authorities name exactly one revocation list: their product line's. AMD 57230."""
    points = _extension(certificate, x509.CRLDistributionPoints)
    seen = [str(name.value) for point in points for name in point.full_name or ()]
    if seen != [wanted]:
        raise Refused(f"revocation list at {', '.join(seen)[:128] or 'no address'}, wanted {wanted}")


def _extension(certificate: x509.Certificate, kind: type[Extension]) -> Extension:
    try:
        return certificate.extensions.get_extension_for_class(kind).value
    except x509.ExtensionNotFound:
        raise Refused(f"extension {kind.oid.dotted_string} missing") from None
