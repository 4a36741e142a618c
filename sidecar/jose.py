"""JOSE: base64url, JSON Web Keys and compact JSON Web Signatures, as the key services use them.

Strategy: small values and functions over `cryptography`; no registry of algorithms that a header could pick
from. The caller of `verify_jws` says which algorithms it accepts and which key it trusts; the header may
only agree.

Rules: "none" and HMAC do not exist here, `crit` is always refused, an algorithm fits exactly one kind of
key, a base64 text has one spelling (no stray bits, no foreign characters). Key Vault's spelling `RSA-HSM`
means the family `RSA`.

Kind: pure
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding

from sidecar.errors import MalformedInput, VerificationFailed
from sidecar.strictjson import (
    JsonObject,
    as_list,
    as_object,
    as_text,
    dump_json,
    load_json,
    load_object,
    text_member,
)
from sidecar.x509load import load_der

__all__ = [
    "Jws",
    "PrivateKey",
    "PublicKey",
    "b64_any_decode",
    "b64_decode",
    "b64_encode",
    "b64u_decode",
    "b64u_encode",
    "certificate_thumbprint",
    "certificates_of_x5c",
    "load_json",
    "parse_jws",
    "payload_object",
    "sign_jws",
    "verify_jws",
    "x5c_of",
]

PublicKey = rsa.RSAPublicKey | ec.EllipticCurvePublicKey
PrivateKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey

MAX_JWS = 1 << 20  # bytes
MAX_CHAIN = 8  # certificates in one x5c
MAX_CERTIFICATE = 16 << 10  # bytes of DER

_URL_ALPHABET = re.compile(r"[A-Za-z0-9_-]*={0,2}", re.ASCII)
_STD_ALPHABET = re.compile(r"[A-Za-z0-9+/]*={0,2}", re.ASCII)


# -- base64 ----------------------------------------------------------------------------------------


def b64u_encode(data: bytes, *, padded: bool = False) -> str:
    """Base64url text of bytes; unpadded unless asked (the attestation request is customarily padded)."""
    text = base64.urlsafe_b64encode(data).decode("ascii")
    return text if padded else text.rstrip("=")


def b64u_decode(text: str, *, what: str = "base64url text") -> bytes:
    """Bytes of a base64url text, padded or not.

    Raises:
        MalformedInput: a character outside the alphabet, wrong padding, or bits left over that are not zero.

    Spec: RFC 4648 section 5, with section 3.5 (canonical encoding) enforced.
    """
    if not _URL_ALPHABET.fullmatch(text):
        raise MalformedInput(f"{what}: not base64url")
    return _decode(text.translate({ord("-"): "+", ord("_"): "/"}), what)


def b64_encode(data: bytes) -> str:
    """Standard, padded base64 text of bytes."""
    return base64.b64encode(data).decode("ascii")


def b64_decode(text: str, *, what: str = "base64 text") -> bytes:
    """Bytes of a standard base64 text, padded or not; raises as `b64u_decode`. Spec: RFC 4648 section 4."""
    if not _STD_ALPHABET.fullmatch(text):
        raise MalformedInput(f"{what}: not base64")
    return _decode(text, what)


def b64_any_decode(text: str, *, what: str = "base64 text") -> bytes:
    """Bytes of a base64 text of either alphabet, padded or not, but not of both alphabets at once."""
    if _STD_ALPHABET.fullmatch(text):
        return _decode(text, what)
    return b64u_decode(text, what=what)


def _decode(text: str, what: str) -> bytes:
    body = text.rstrip("=")
    whole = body + "=" * (-len(body) % 4)
    if text not in (body, whole):
        raise MalformedInput(f"{what}: wrong base64 padding")
    try:
        data = base64.b64decode(whole, validate=True)
    except (binascii.Error, ValueError):
        raise MalformedInput(f"{what}: not base64: {len(body)} characters cannot be right") from None
    # One value, one spelling: otherwise two texts that differ could carry the same signature.
    if base64.b64encode(data).decode("ascii") != whole:
        raise MalformedInput(f"{what}: base64 with stray bits at its end")
    return data


# -- JSON Web Signature ----------------------------------------------------------------------------

_HASHES: dict[str, hashes.HashAlgorithm] = {
    "256": hashes.SHA256(),
    "384": hashes.SHA384(),
    "512": hashes.SHA512(),
}
# ES512 goes with P-521: the one pair whose numbers differ. RFC 7518 section 3.4.
_CURVE_OF = {"ES256": "secp256r1", "ES384": "secp384r1", "ES512": "secp521r1"}
ALGORITHMS = tuple(f"{family}{size}" for family in ("RS", "PS", "ES") for size in _HASHES)


@dataclass(frozen=True, slots=True)
class Jws:
    """A compact signature, taken apart but not yet verified.

    Attributes:
        header: the protected header.
        payload: what is signed, bytes; may be secret, so it stays out of `repr`.
        signing_input: the bytes under the signature.
        signature: bytes.
    """

    header: JsonObject
    payload: bytes
    signing_input: bytes
    signature: bytes

    def __repr__(self) -> str:
        return f"Jws(alg={self.header.get('alg')!r}, kid={self.header.get('kid')!r})"

    @property
    def algorithm(self) -> str:
        """The header's `alg`; only a claim until `verify_jws` has agreed."""
        return text_member(self.header, "alg", "signature header", max_length=32)

    @property
    def kid(self) -> str | None:
        """The header's `kid`, when there is one and it is a string."""
        kid = self.header.get("kid")
        return kid if isinstance(kid, str) else None


def parse_jws(compact: str | bytes, *, what: str = "signed token") -> Jws:
    """Take a compact JWS apart.

    Args:
        compact: `header.payload.signature`, at most 1 MiB; may be secret.
        what: the words that name it in errors.

    Raises:
        MalformedInput: not three base64url parts, header not a strict JSON object, or `crit`/`b64` in it.

    Spec: RFC 7515 section 5.2.
    """
    if len(compact) > MAX_JWS:
        raise MalformedInput(f"{what}: {len(compact)} bytes, at most {MAX_JWS} are accepted")
    try:
        text = compact.decode("ascii") if isinstance(compact, bytes) else compact
    except UnicodeDecodeError:
        raise MalformedInput(f"{what}: not ASCII") from None
    parts = text.split(".")
    if len(parts) != 3:
        raise MalformedInput(f"{what}: {len(parts)} parts, wanted 3 (header.payload.signature)")
    header = load_object(b64u_decode(parts[0], what=f"{what}: header"), what=f"{what}: header")
    for name in ("crit", "b64"):
        if name in header:
            raise MalformedInput(f"{what}: header member {name!r} is not supported")
    payload = b64u_decode(parts[1], what=f"{what}: payload")
    signature = b64u_decode(parts[2], what=f"{what}: signature")
    return Jws(header, payload, f"{parts[0]}.{parts[1]}".encode("ascii"), signature)


def verify_jws(
    jws: Jws, key: PublicKey, *, algorithms: Sequence[str] = ("RS256",), what: str = "signed token"
) -> None:
    """Check the signature with a key the caller already trusts.

    Args:
        jws: the parsed signature.
        key: public key; RSA below 2048 bits is refused.
        algorithms: what the caller accepts; the header's own word counts for nothing beyond this list.
        what: the words that name it in errors.

    Raises:
        VerificationFailed: algorithm not accepted, key of another kind, or signature wrong.

    Spec: RFC 7515 section 5.2, RFC 7518 section 3, RFC 8725 section 3.1.
    """
    algorithm = jws.algorithm
    if algorithm not in algorithms or algorithm not in ALGORITHMS:
        raise VerificationFailed(f"{what}: signed with {algorithm!r}, wanted one of {', '.join(algorithms)}")
    hashed = _HASHES[algorithm[2:]]
    try:
        if isinstance(key, rsa.RSAPublicKey) and algorithm[:2] in ("RS", "PS"):
            if key.key_size < 2048:
                raise VerificationFailed(f"{what}: key of {key.key_size} bits, wanted at least 2048")
            key.verify(jws.signature, jws.signing_input, _rsa_padding(algorithm, hashed), hashed)
        elif isinstance(key, ec.EllipticCurvePublicKey) and _CURVE_OF.get(algorithm) == key.curve.name:
            key.verify(_to_der(jws.signature, key, what), jws.signing_input, ec.ECDSA(hashed))
        else:
            raise VerificationFailed(f"{what}: algorithm {algorithm} does not fit the kind of the key")
    except InvalidSignature:
        raise VerificationFailed(f"{what}: the {algorithm} signature is wrong") from None


def sign_jws(header: Mapping[str, object], payload: bytes, key: PrivateKey) -> str:
    """Sign a payload; the algorithm is the header's `alg`.

    Args:
        header: protected header, written in the order given.
        payload: bytes to sign.
        key: private key that fits the algorithm; ValueError otherwise (a bug of ours, not bad input).

    Returns:
        the compact form.

    Spec: RFC 7515 section 5.1.
    """
    algorithm = header.get("alg")
    if algorithm not in ALGORITHMS:
        raise ValueError(f"unknown signature algorithm {algorithm!r}")
    hashed = _HASHES[algorithm[2:]]
    signing_input = f"{b64u_encode(dump_json(dict(header)))}.{b64u_encode(payload)}".encode("ascii")
    if isinstance(key, rsa.RSAPrivateKey) and algorithm[:2] in ("RS", "PS"):
        signature = key.sign(signing_input, _rsa_padding(algorithm, hashed), hashed)
    elif isinstance(key, ec.EllipticCurvePrivateKey) and _CURVE_OF.get(algorithm) == key.curve.name:
        width = (key.curve.key_size + 7) // 8
        r, s = decode_dss_signature(key.sign(signing_input, ec.ECDSA(hashed)))
        signature = r.to_bytes(width, "big") + s.to_bytes(width, "big")
    else:
        raise ValueError(f"algorithm {algorithm} does not fit the kind of the key")
    return f"{signing_input.decode('ascii')}.{b64u_encode(signature)}"


def _rsa_padding(algorithm: str, hashed: hashes.HashAlgorithm) -> padding.PKCS1v15 | padding.PSS:
    if algorithm.startswith("RS"):
        return padding.PKCS1v15()
    return padding.PSS(mgf=padding.MGF1(hashed), salt_length=hashed.digest_size)


def _to_der(signature: bytes, key: ec.EllipticCurvePublicKey, what: str) -> bytes:
    width = (key.curve.key_size + 7) // 8
    if len(signature) != 2 * width:
        raise VerificationFailed(f"{what}: signature of {len(signature)} bytes, wanted {2 * width}")
    return encode_dss_signature(
        int.from_bytes(signature[:width], "big"), int.from_bytes(signature[width:], "big")
    )


# -- certificates in headers -----------------------------------------------------------------------


def certificates_of_x5c(value: object, *, what: str = "x5c") -> tuple[x509.Certificate, ...]:
    """The certificates of an `x5c` member, leaf first; none of them is trusted yet.

    Raises:
        MalformedInput: not 1 to 8 standard base64 strings of DER certificates.

    Spec: RFC 7515 section 4.1.6, RFC 7517 section 4.7.
    """
    items = as_list(value, what, max_items=MAX_CHAIN)
    if not items:
        raise MalformedInput(f"{what}: no certificate, wanted at least one")
    return tuple(_certificate(item, f"{what}[{i}]") for i, item in enumerate(items))


def _certificate(item: object, what: str) -> x509.Certificate:
    return _certificate_of(as_text(item, what, max_length=2 * MAX_CERTIFICATE), what)


@lru_cache(maxsize=64)
def _certificate_of(text: str, what: str) -> x509.Certificate:
    """A certificate from base64; services send the same few with every answer. Kept does not mean trusted."""
    return load_der(b64_decode(text, what=what), what=what)


def x5c_of(certificates: Sequence[x509.Certificate]) -> list[str]:
    """The `x5c` member for a chain, leaf first."""
    return [b64_encode(c.public_bytes(Encoding.DER)) for c in certificates]


def certificate_thumbprint(certificate: x509.Certificate) -> str:
    """`x5t#S256` of a certificate. Spec: RFC 7515 section 4.1.8."""
    return b64u_encode(hashlib.sha256(certificate.public_bytes(Encoding.DER)).digest())


def payload_object(jws: Jws, what: str = "signed token") -> JsonObject:
    """The payload as a JSON object; MalformedInput otherwise."""
    return as_object(load_json(jws.payload, what=f"{what}: payload"), f"{what}: payload")
