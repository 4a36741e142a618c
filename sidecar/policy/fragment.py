"""A signed fragment: COSE_Sign1 around a fragment's text, with its issuer, feed and certificate chain.

Protected header: algorithm, content type, the chain (leaf first), and `iss` and `feed` as text; newer signers
write CWT claims (label 15) instead, which then hide the two. Nothing unprotected is believed.

Strategy of `verify_fragment`: what the utility VM does, in its order. The chain is valid at the leaf's own
last day, so that an expired signer's fragments go on working; its last certificate is its root, whoever
that is, because the issuer's text names a CA of the chain by digest, and the policy names the issuer's
text.

Rules where we are stricter than the utility VM: at most ten certificates, every authority is a CA that may
sign certificates, no SHA-1, a leaf with a key usage must allow digital signatures.

Spec: hcsshim, internal/guest (InjectFragment); cosesign1go, UnpackAndValidateCOSE1CertChain; didx509go; RFC
    9052; RFC 9597 (CWT claims in COSE headers); hcsshim framework.rego, load_fragment.

Kind: pure
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_private_key,
)

from sidecar.cbor import Key, Value
from sidecar.cose import (
    ALGORITHMS,
    CONTENT_TYPE,
    X5CHAIN,
    PrivateKey,
    PublicKey,
    Sign1,
    algorithm_for,
    certificates_of,
    parse_sign1,
    sign_sign1,
    verify_sign1,
)
from sidecar.didx509 import build_did, parse_did, resolve
from sidecar.errors import EndorsementRejected, MalformedInput, UsageError
from sidecar.policy.fragment_text import svn_at_least
from sidecar.policy.parse import parse_fragment_text
from sidecar.policy.parse_model import FragmentImport, FragmentText
from sidecar.x509load import load_pem

MEDIA_TYPE = "application/unknown+rego"
_CWT_CLAIMS, _CWT_ISSUER, _CWT_SUBJECT = 15, 1, 2
_MIN_RSA_BITS = 2048
_WHAT = "fragment"


@dataclass(frozen=True, slots=True)
class Signer:
    """Who signs: a key, **secret**, and the chain that vouches for it, leaf first.

    Attributes:
        issuer: did:x509 of the chain.
        algorithm: IANA number.
    """

    key: PrivateKey
    chain: tuple[x509.Certificate, ...]
    issuer: str
    algorithm: int

    def __repr__(self) -> str:
        return f"Signer({self.issuer!r})"


@dataclass(frozen=True, slots=True)
class Fragment:
    """A verified fragment.

    Attributes:
        text: the Rego that was signed.
        header_svn: security version of the header, "" when it has none.
        algorithm: name of the signature's algorithm.
    """

    issuer: str
    feed: str
    text: bytes
    content: FragmentText
    header_svn: str
    algorithm: str
    chain: tuple[x509.Certificate, ...]


def load_signer(key_pem: bytes, chain_pem: bytes, *, algorithm: str | None = None) -> Signer:
    """Read a signer's key and chain, and make sure that what they sign will be accepted.

    Args:
        key_pem: PKCS#8, PKCS#1 or SEC1, not encrypted, secret.
        chain_pem: certificates, leaf first.
        algorithm: a name such as ES384; by default the key's usual one.

    Raises:
        UsageError: the key is unreadable or of no use, or is not the leaf's.
        MalformedInput: the chain does not parse, or the key cannot sign by the algorithm.
        EndorsementRejected: the chain is out of order or would not be accepted.
    """
    try:
        key = load_pem_private_key(key_pem, password=None)
    except (ValueError, TypeError) as exc:
        raise UsageError("signing key: not an unencrypted PEM private key") from exc
    if not isinstance(key, rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey):
        raise UsageError("signing key: neither RSA nor EC nor Ed25519")
    if isinstance(key, rsa.RSAPrivateKey) and key.key_size < _MIN_RSA_BITS:
        raise UsageError(f"signing key: RSA of {key.key_size} bits, wanted {_MIN_RSA_BITS} at least")
    chain = tuple(load_pem(chain_pem, what="certificate chain"))
    if _public_bytes(key) != _public_bytes(chain[0]):
        raise UsageError(
            "signing key: not the key of the chain's first certificate",
            hint="the chain starts with the leaf, whose key this is, and ends with the root",
        )
    number = algorithm_for(key, ALGORITHMS[algorithm] if algorithm else None)
    issuer = build_did(chain)
    _resolve(issuer, chain)
    return Signer(key, chain, issuer, number)


def sign_fragment(text: bytes, signer: Signer, *, feed: str) -> bytes:
    """Sign a fragment's text.

    Raises:
        UsageError: an empty feed.
        MalformedInput: the text is no fragment.
    """
    parse_fragment_text(text)
    if not feed:
        raise UsageError("fragment: no feed", hint="name the image or repository it belongs to: --feed")
    headers: dict[Key, Value] = {
        CONTENT_TYPE: MEDIA_TYPE,
        X5CHAIN: [certificate.public_bytes(Encoding.DER) for certificate in signer.chain],
        "iss": signer.issuer,
        "feed": feed,
    }
    return sign_sign1(headers, text, signer.key, algorithm=signer.algorithm)


def verify_fragment(data: bytes, *, accept: Sequence[FragmentImport] | None = None) -> Fragment:
    """Decide whether the utility VM would load a fragment.

    Args:
        data: COSE_Sign1, at most 1 MiB, from an untrusted party.
        accept: the imports of the policy; None to check the signature alone.

    Raises:
        MalformedInput: it does not parse.
        EndorsementRejected: chain, signature, issuer, feed or security version is not one that is accepted.
    """
    message = parse_sign1(data)
    issuer, feed, header_svn = _names(message)
    chain = tuple(certificates_of(message))
    verify_sign1(message, _resolve(issuer, chain))
    content = parse_fragment_text(message.payload)
    if header_svn and header_svn != content.svn:
        raise EndorsementRejected(f"{_WHAT}: svn {header_svn} in the header, {content.svn} in the text")
    if accept is not None:
        _require_import(issuer, feed, content.svn, accept)
    name = next(name for name, number in ALGORITHMS.items() if number == message.algorithm)
    return Fragment(issuer, feed, message.payload, content, header_svn, name, chain)


def _require_import(issuer: str, feed: str, svn: str, accept: Sequence[FragmentImport]) -> None:
    """One import must fit; else the reason that the framework would give."""
    by_issuer = [one for one in accept if one.issuer == issuer]
    if not by_issuer:
        wanted = "; ".join(dict.fromkeys(one.issuer[:160] for one in accept)) or "none: there are no imports"
        raise EndorsementRejected(f"{_WHAT}: issuer {issuer[:160]}, wanted {wanted}")
    by_feed = [one for one in by_issuer if one.feed == feed]
    if not by_feed:
        wanted = "; ".join(dict.fromkeys(one.feed[:160] for one in by_issuer))
        raise EndorsementRejected(f"{_WHAT}: feed {feed[:160]!r}, wanted {wanted!r}")
    if not any(svn_at_least(svn, one.minimum_svn) for one in by_feed):
        lowest = ", ".join(one.minimum_svn for one in by_feed)
        raise EndorsementRejected(
            f"{_WHAT}: svn {svn}, wanted at least {lowest}",
            hint="" if "." not in svn + lowest else "plain numbers and dotted versions never compare",
        )


def _names(message: Sign1) -> tuple[str, str, str]:
    """Issuer, feed and svn of the header: from the CWT claims when there are any, else from the two texts."""
    claims = message.protected.get(_CWT_CLAIMS)
    if claims is None:
        issuer, feed = message.protected.get("iss"), message.protected.get("feed")
        svn = message.protected.get("svn")
    elif isinstance(claims, Mapping):
        issuer, feed = claims.get(_CWT_ISSUER), claims.get(_CWT_SUBJECT)
        svn = claims.get("svn")
    else:
        raise MalformedInput(f"{_WHAT}: CWT claims are not a map")
    for name, value in (("issuer", issuer), ("feed", feed)):
        if not isinstance(value, str) or not value:
            raise MalformedInput(f"{_WHAT}: the protected header names no {name}")
    return str(issuer), str(feed), _svn(svn)


def _svn(value: Value) -> str:
    if value is None:
        return ""
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise MalformedInput(f"{_WHAT}: svn in the header is neither a number nor text")
    return str(value)


def _resolve(issuer: str, chain: Sequence[x509.Certificate]) -> PublicKey:
    at = chain[0].not_valid_after_utc
    return resolve(parse_did(issuer), chain, at=at, trust_last=True, ed25519_too=True)


def _public_bytes(holder: PrivateKey | x509.Certificate) -> bytes:
    return holder.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
