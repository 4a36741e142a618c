"""did:x509: an issuer named by a CA certificate's digest and by what its leaf certificates must say.

Strategy: `parse_did` reads the text; `resolve` walks the certificate chain that came with a message, checks
every link, finds the named CA among the authorities, and holds the predicates against the leaf.

Rules: the CA is looked for above the leaf only; a chain is valid as a whole or not at all; SHA-1 and weaker
signatures, unknown critical extensions and unknown predicates are refused, not skipped. The text is compared
by what it says, so whoever pins an issuer pins the whole text.

Spec: did:x509 method specification, version 0; RFC 5280 section 6 (path validation, the parts a chain without
    policies and name constraints needs).

Kind: pure
"""

from __future__ import annotations

import base64
import binascii
import hmac
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TypeVar
from urllib.parse import quote, unquote

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.hashes import SHA256, SHA384, SHA512, HashAlgorithm
from cryptography.x509.oid import ExtensionOID, NameOID

from sidecar.errors import EndorsementRejected, MalformedInput

Extension = TypeVar("Extension", bound=x509.ExtensionType)
PublicKey = rsa.RSAPublicKey | ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey

MAX_DID_LENGTH = 2048
MAX_CHAIN = 10
_HASHES: dict[str, type[HashAlgorithm]] = {"sha256": SHA256, "sha384": SHA384, "sha512": SHA512}
# What Go leaves as it is in a path: tools that write issuers leave it, and every reader takes it. A `+` is
# another thing to every reader, so it must be encoded.
_VALUE = re.compile(r"(?:[A-Za-z0-9._~$&=@-]|%[0-9A-Fa-f]{2})+")
_OID = re.compile(r"[0-9]+(\.[0-9]+)+")
_LABELS = {
    "CN": NameOID.COMMON_NAME,
    "L": NameOID.LOCALITY_NAME,
    "ST": NameOID.STATE_OR_PROVINCE_NAME,
    "O": NameOID.ORGANIZATION_NAME,
    "OU": NameOID.ORGANIZATIONAL_UNIT_NAME,
    "C": NameOID.COUNTRY_NAME,
    "STREET": NameOID.STREET_ADDRESS,
}
_SAN_TYPES = {"email": x509.RFC822Name, "dns": x509.DNSName, "uri": x509.UniformResourceIdentifier}
# Critical extensions that this module takes into account.
_UNDERSTOOD = {
    ExtensionOID.BASIC_CONSTRAINTS,
    ExtensionOID.KEY_USAGE,
    ExtensionOID.EXTENDED_KEY_USAGE,
    ExtensionOID.SUBJECT_ALTERNATIVE_NAME,
}


@dataclass(frozen=True, slots=True)
class DidX509:
    """A did:x509.

    Attributes:
        fingerprint: digest of a CA certificate's DER by `algorithm`.
        predicates: name and its values, in order, not yet percent-decoded.
    """

    algorithm: str
    fingerprint: bytes
    predicates: tuple[tuple[str, tuple[str, ...]], ...]


def parse_did(text: str) -> DidX509:
    """Read a did:x509 of version 0.

    Raises:
        MalformedInput: another method or version, or not the method's syntax.
    """
    head, *predicates = text[: MAX_DID_LENGTH + 1].split("::")
    match = re.fullmatch(r"did:x509:0:(sha256|sha384|sha512):([A-Za-z0-9_-]+)", head)
    if len(text) > MAX_DID_LENGTH or match is None or not predicates:
        raise MalformedInput(f"issuer {text[:80]!r}: not a did:x509 of version 0 with predicates")
    algorithm, encoded = match.groups()
    try:
        fingerprint = base64.urlsafe_b64decode(encoded + "=" * (-len(encoded) % 4))
    except binascii.Error:
        raise MalformedInput(f"issuer {text[:80]!r}: fingerprint is not base64url") from None
    if len(fingerprint) != _HASHES[algorithm]().digest_size:
        raise MalformedInput(f"issuer {text[:80]!r}: fingerprint of {len(fingerprint)} bytes")
    return DidX509(algorithm, fingerprint, tuple(_parse_predicate(p) for p in predicates))


def build_did(chain: Sequence[x509.Certificate]) -> str:
    """The did:x509 of a chain, as fragments are issued: the CA above the leaf, and the leaf's common name.

    Args:
        chain: leaf first, two certificates at least.

    Raises:
        MalformedInput: too short a chain, or a leaf without one common name.
    """
    if len(chain) < 2:
        raise MalformedInput(f"issuer chain: {len(chain)} certificates, wanted 2 at least")
    names = [a.value for a in chain[0].subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
    if len(names) != 1 or not isinstance(names[0], str) or not names[0]:
        raise MalformedInput(f"issuer chain: the leaf has {len(names)} common names, wanted one")
    fingerprint = base64.urlsafe_b64encode(chain[1].fingerprint(SHA256())).rstrip(b"=").decode()
    # Everything but letters, digits, '.', '-' and '_' is encoded: readers disagree on the rest.
    name = quote(names[0], safe="").replace("~", "%7E")
    return f"did:x509:0:sha256:{fingerprint}::subject:CN:{name}"


def resolve(
    did: DidX509,
    chain: Sequence[x509.Certificate],
    *,
    at: datetime,
    trust_last: bool = False,
    ed25519_too: bool = False,
) -> PublicKey:
    """Find the key that may sign in the name of `did`.

    Args:
        chain: leaf first, each certificate signed by the next, from an untrusted party.
        at: time at which the chain must be valid, with a time zone.
        trust_last: the last certificate need not be signed by itself.
        ed25519_too: the leaf may hold an Ed25519 key.

    Returns:
        The leaf's public key.

    Raises:
        EndorsementRejected: the chain is not valid, has no such CA, or a predicate does not hold.
    """
    if not 2 <= len(chain) <= MAX_CHAIN:
        raise EndorsementRejected(f"issuer chain: {len(chain)} certificates, wanted 2 to {MAX_CHAIN}")
    for position, certificate in enumerate(chain):
        _require_valid(certificate, at)
        if position:
            _require_authority(certificate, position - 1)
            _require_issued(chain[position - 1], certificate)
    if not trust_last:
        _require_issued(chain[-1], chain[-1])
    digest = _HASHES[did.algorithm]
    if not any(hmac.compare_digest(ca.fingerprint(digest()), did.fingerprint) for ca in chain[1:]):
        raise EndorsementRejected("issuer chain: the CA named by the issuer is not in it")
    for name, values in did.predicates:
        if not _PREDICATES[name](chain[0], values):
            raise EndorsementRejected(f"issuer chain: leaf does not satisfy {name}:{':'.join(values)[:80]}")
    usage = _extension(chain[0], x509.KeyUsage)
    if usage and not usage.digital_signature:
        raise EndorsementRejected("issuer chain: the leaf's key may not sign")
    return _public_key(chain[0], ed25519_too=ed25519_too)


def _parse_predicate(text: str) -> tuple[str, tuple[str, ...]]:
    name, *values = text.split(":")
    if name not in _PREDICATES or not values or not all(_VALUE.fullmatch(v) for v in values):
        raise MalformedInput(f"issuer predicate {text[:80]!r}: unknown or malformed")
    counts = {"eku": (1,), "san": (2,)}
    if name in counts and len(values) not in counts[name]:
        raise MalformedInput(f"issuer predicate {text[:80]!r}: wanted {counts[name][0]} values")
    if name == "subject" and (len(values) % 2 or len(set(values[::2])) * 2 != len(values)):
        raise MalformedInput(f"issuer predicate {text[:80]!r}: wanted pairs with different keys")
    return name, tuple(values)


def _has_eku(leaf: x509.Certificate, values: tuple[str, ...]) -> bool:
    usages = _extension(leaf, x509.ExtendedKeyUsage)
    return usages is not None and values[0] in {oid.dotted_string for oid in usages}


def _has_subject(leaf: x509.Certificate, values: tuple[str, ...]) -> bool:
    for key, value in zip(values[::2], values[1::2], strict=True):
        if key not in _LABELS and not _OID.fullmatch(key):
            return False
        oid = _LABELS.get(key) or x509.ObjectIdentifier(key)
        # An attribute that is there twice has no one value.
        if [a.value for a in leaf.subject.get_attributes_for_oid(oid)] != [unquote(value)]:
            return False
    return True


def _has_san(leaf: x509.Certificate, values: tuple[str, ...]) -> bool:
    kind, value = values
    names = _extension(leaf, x509.SubjectAlternativeName)
    if names is None or kind not in _SAN_TYPES:
        return False
    return unquote(value) in {n.value for n in names if isinstance(n, _SAN_TYPES[kind])}


_PREDICATES = {"eku": _has_eku, "subject": _has_subject, "san": _has_san}


def _require_valid(certificate: x509.Certificate, at: datetime) -> None:
    name = certificate.subject.rfc4514_string()[:80]
    first, last = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    if not first <= at <= last:
        raise EndorsementRejected(
            f"issuer chain: {name!r} is valid {first:%Y-%m-%d} to {last:%Y-%m-%d}, wanted {at:%Y-%m-%d}"
        )
    unknown = [e.oid.dotted_string for e in certificate.extensions if e.critical and e.oid not in _UNDERSTOOD]
    if unknown:
        raise EndorsementRejected(f"issuer chain: {name!r} has the critical extension {unknown[0]}")


def _require_authority(certificate: x509.Certificate, below: int) -> None:
    """A CA, allowed to have `below` further authorities between itself and the leaf."""
    name = certificate.subject.rfc4514_string()[:80]
    constraints = _extension(certificate, x509.BasicConstraints)
    usage = _extension(certificate, x509.KeyUsage)
    if constraints is None or not constraints.ca or (usage and not usage.key_cert_sign):
        raise EndorsementRejected(f"issuer chain: {name!r} is not a CA")
    if constraints.path_length is not None and constraints.path_length < below:
        raise EndorsementRejected(f"issuer chain: {name!r} allows no path of this length")


def _require_issued(certificate: x509.Certificate, issuer: x509.Certificate) -> None:
    name = certificate.subject.rfc4514_string()[:80]
    try:
        if not isinstance(certificate.signature_hash_algorithm, SHA256 | SHA384 | SHA512):
            raise EndorsementRejected(f"issuer chain: {name!r} is signed with a weak or unknown digest")
        certificate.verify_directly_issued_by(issuer)
    except (InvalidSignature, ValueError, TypeError, UnsupportedAlgorithm):
        raise EndorsementRejected(f"issuer chain: {name!r} is not issued by the next certificate") from None


def _public_key(leaf: x509.Certificate, *, ed25519_too: bool) -> PublicKey:
    try:
        key = leaf.public_key()
    except (ValueError, UnsupportedAlgorithm) as exc:
        raise MalformedInput(f"issuer chain: the leaf's key does not parse: {exc}") from exc
    if ed25519_too and isinstance(key, ed25519.Ed25519PublicKey):
        return key
    if not isinstance(key, rsa.RSAPublicKey | ec.EllipticCurvePublicKey):
        raise EndorsementRejected("issuer chain: the leaf's key is neither RSA nor EC")
    return key


def _extension(certificate: x509.Certificate, kind: type[Extension]) -> Extension | None:
    try:
        return certificate.extensions.get_extension_for_class(kind).value
    except x509.ExtensionNotFound:
        return None
