"""COSE_Sign1: one signed payload with its headers, as used for UVM endorsements and policy fragments.

Strategy: parse keeps the protected header's bytes as received, because they are what is signed; verify takes
the key from the caller and the algorithm from the protected header, where it must be one we allow and fit the
key. Which key may sign is decided elsewhere (see `didx509`).

Rules: tag 18 is required; a header appears in one of the two maps only; `crit` is refused, because we know no
critical header; nothing in the unprotected map is believed.

Spec: RFC 9052 (COSE) sections 3, 4.2 and 4.4; RFC 9053 sections 2.1 (ECDSA) and 2.2 (EdDSA); RFC 8230
    (RSASSA-PSS); RFC 9360 (x5chain, x5t).

Kind: pure
"""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256, SHA384, SHA512, HashAlgorithm

from sidecar.cbor import Key, Tagged, Value, decode, encode
from sidecar.errors import EndorsementRejected, MalformedInput
from sidecar.x509load import load_der

TAG_SIGN1 = 18
ALG, CRIT, CONTENT_TYPE, KID, X5CHAIN, X5T = 1, 2, 3, 4, 33, 34
MAX_CERTIFICATES = 10
_X5T_SHA256 = -16
PublicKey = rsa.RSAPublicKey | ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey
PrivateKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey

# IANA COSE algorithms. RSASSA-PKCS1-v1_5 and everything with SHA-1 are left out on purpose.
_PSS: Mapping[int, type[HashAlgorithm]] = {-37: SHA256, -38: SHA384, -39: SHA512}
_ECDSA: Mapping[int, tuple[type[HashAlgorithm], type[ec.EllipticCurve]]] = {
    -7: (SHA256, ec.SECP256R1),
    -35: (SHA384, ec.SECP384R1),
    -36: (SHA512, ec.SECP521R1),
}
_EDDSA = -8
_MIN_RSA_BITS = 2048
# The names of RFC 9053 and RFC 8230.
ALGORITHMS: Mapping[str, int] = {
    "PS256": -37,
    "PS384": -38,
    "PS512": -39,
    "ES256": -7,
    "ES384": -35,
    "ES512": -36,
    "EdDSA": -8,
}


@dataclass(frozen=True, slots=True)
class Sign1:
    """A message as received; nothing verified.

    Attributes:
        protected_raw: the protected header's bytes, part of what is signed.
        protected, unprotected: the two header maps; only the first is covered by the signature.
    """

    protected_raw: bytes
    protected: Mapping[Key, Value]
    unprotected: Mapping[Key, Value]
    payload: bytes
    signature: bytes

    @property
    def signed(self) -> bytes:
        """Sig_structure, RFC 9052 section 4.4, without external data."""
        return encode(["Signature1", self.protected_raw, b"", self.payload])

    @property
    def algorithm(self) -> int:
        """IANA number; MalformedInput when the protected header has none."""
        value = self.protected.get(ALG)
        if not isinstance(value, int) or isinstance(value, bool):
            raise MalformedInput("COSE message: protected header has no algorithm number")
        return value


def parse_sign1(data: bytes) -> Sign1:
    """Read a tagged COSE_Sign1 with an attached payload.

    Args:
        data: at most 1 MiB, from an untrusted party.

    Raises:
        MalformedInput: not that structure, `crit` present, or a header in both maps.
    """
    message = decode(data, what="COSE message")
    if not isinstance(message, Tagged) or message.tag != TAG_SIGN1:
        raise MalformedInput("COSE message: no tag 18 (COSE_Sign1)")
    parts = message.value
    if not isinstance(parts, list) or len(parts) != 4:
        raise MalformedInput("COSE message: wanted an array of four")
    protected_raw, unprotected, payload, signature = parts
    if not (isinstance(protected_raw, bytes) and isinstance(unprotected, dict)):
        raise MalformedInput("COSE message: headers are not bytes and map")
    if not (isinstance(payload, bytes) and isinstance(signature, bytes)):
        raise MalformedInput("COSE message: payload and signature are not bytes")
    protected = decode(protected_raw, what="COSE protected header") if protected_raw else {}
    if not isinstance(protected, dict):
        raise MalformedInput("COSE protected header: not a map")
    if CRIT in protected or CRIT in unprotected:
        raise MalformedInput("COSE message: critical headers are not supported")
    if both := protected.keys() & unprotected.keys():
        raise MalformedInput(f"COSE message: header {str(min(both, key=str))[:32]!r} is in both maps")
    return Sign1(
        protected_raw, MappingProxyType(protected), MappingProxyType(unprotected), payload, signature
    )


def verify_sign1(message: Sign1, key: PublicKey) -> None:
    """Check the signature with a key the caller trusts.

    Raises:
        EndorsementRejected: wrong signature, or an algorithm that is not allowed or not the key's.
        MalformedInput: no algorithm in the protected header.
    """
    algorithm = message.algorithm
    try:
        if algorithm in _PSS and isinstance(key, rsa.RSAPublicKey) and key.key_size >= _MIN_RSA_BITS:
            digest = _PSS[algorithm]()
            pss = padding.PSS(padding.MGF1(digest), digest.digest_size)
            key.verify(message.signature, message.signed, pss, digest)
        elif algorithm in _ECDSA and isinstance(key, ec.EllipticCurvePublicKey):
            hash_type, curve = _ECDSA[algorithm]
            if not isinstance(key.curve, curve):
                raise EndorsementRejected(f"COSE signature: algorithm {algorithm} on {key.curve.name}")
            key.verify(_ecdsa_der(message.signature, key), message.signed, ec.ECDSA(hash_type()))
        elif algorithm == _EDDSA and isinstance(key, ed25519.Ed25519PublicKey):
            key.verify(message.signature, message.signed)
        else:
            raise EndorsementRejected(
                f"COSE signature: algorithm {algorithm} is not allowed, or not for this kind of key"
            )
    except InvalidSignature:
        raise EndorsementRejected("COSE signature: wrong") from None


def sign_sign1(
    protected: Mapping[Key, Value],
    payload: bytes,
    key: PrivateKey,
    *,
    unprotected: Mapping[Key, Value] | None = None,
    algorithm: int | None = None,
) -> bytes:
    """Sign a payload.

    Args:
        protected: headers without the algorithm, which is put first.
        key: secret; RSA of at least 2048 bits, EC on P-256, P-384 or P-521, or Ed25519.
        algorithm: IANA number; by default PS384 for RSA, the curve's own for the others.

    Raises:
        MalformedInput: a key of another kind, or one that the algorithm is not for.
    """
    algorithm = algorithm_for(key, algorithm)
    raw = encode({ALG: algorithm, **protected})
    signature = _signature(Sign1(raw, {}, {}, payload, b"").signed, key, algorithm)
    return encode(Tagged(TAG_SIGN1, [raw, dict(unprotected or {}), payload, signature]))


def algorithm_for(key: PrivateKey, wanted: int | None = None) -> int:
    """The wanted algorithm, or a key's usual one; MalformedInput when the key cannot sign by it."""
    if isinstance(key, rsa.RSAPrivateKey):
        kind, possible, usual = "RSA", list(_PSS), ALGORITHMS["PS384"]
    elif isinstance(key, ed25519.Ed25519PrivateKey):
        kind, possible, usual = "Ed25519", [_EDDSA], _EDDSA
    else:
        kind = key.curve.name
        possible = [number for number, (_, curve) in _ECDSA.items() if isinstance(key.curve, curve)]
        usual = possible[0] if possible else 0
    if not possible:
        raise MalformedInput(f"COSE signature: no algorithm for {kind}")
    if wanted is not None and wanted not in possible:
        names = [name for name, number in ALGORITHMS.items() if number in possible]
        raise MalformedInput(f"COSE signature: algorithm {wanted} with a key on {kind}, wanted {names}")
    return usual if wanted is None else wanted


def _signature(signed: bytes, key: PrivateKey, algorithm: int) -> bytes:
    if isinstance(key, rsa.RSAPrivateKey):
        digest = _PSS[algorithm]()
        return key.sign(signed, padding.PSS(padding.MGF1(digest), digest.digest_size), digest)
    if isinstance(key, ed25519.Ed25519PrivateKey):
        return key.sign(signed)
    r, s = decode_dss_signature(key.sign(signed, ec.ECDSA(_ECDSA[algorithm][0]())))
    size = (key.key_size + 7) // 8
    return r.to_bytes(size, "big") + s.to_bytes(size, "big")


def certificates_of(message: Sign1) -> list[x509.Certificate]:
    """The chain of the protected header, leaf first; `x5t`, when there, must be the leaf's.

    Raises:
        MalformedInput: no chain, too long, or it does not parse.
        EndorsementRejected: the thumbprint is another certificate's.
    """
    value = message.protected.get(X5CHAIN)
    items = [value] if isinstance(value, bytes) else value
    if not isinstance(items, list) or not 1 <= len(items) <= MAX_CERTIFICATES:
        raise MalformedInput(f"COSE message: protected header has no x5chain of 1 to {MAX_CERTIFICATES}")
    chain = [_certificate(item) for item in items]
    if X5T in message.protected:
        _require_thumbprint(message.protected[X5T], chain[0])
    return chain


def _certificate(item: Value) -> x509.Certificate:
    if not isinstance(item, bytes):
        raise MalformedInput("COSE message: x5chain holds something else than bytes")
    return load_der(item, what="COSE message: a certificate of x5chain")


def _require_thumbprint(value: Value, leaf: x509.Certificate) -> None:
    if not isinstance(value, list) or len(value) != 2 or value[0] != _X5T_SHA256:
        raise MalformedInput("COSE message: x5t is not a SHA-256 thumbprint")
    seen = value[1]
    if not isinstance(seen, bytes) or not hmac.compare_digest(seen, leaf.fingerprint(SHA256())):
        raise EndorsementRejected("COSE message: x5t is not the thumbprint of the first certificate")


def _ecdsa_der(signature: bytes, key: ec.EllipticCurvePublicKey) -> bytes:
    size = (key.key_size + 7) // 8
    if len(signature) != 2 * size:
        raise EndorsementRejected(f"COSE signature: {len(signature)} bytes, wanted {2 * size}")
    return encode_dss_signature(
        int.from_bytes(signature[:size], "big"), int.from_bytes(signature[size:], "big")
    )
