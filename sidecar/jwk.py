"""JSON Web Keys of the kinds that key services hold: RSA, EC and oct, public or private.

Strategy: a frozen value holding the members as minimal big-endian bytes, checked for size and shape when
parsed; `public_key()` and `private_key()` hand them to `cryptography`, which checks that they belong
together.

Rules: secret members (d, p, q, dp, dq, qi, k) never show in `repr` and leave only through
`to_dict(private=True)` or `private_key()`. A key set item may lack n and e and carry its key in x5c only:
that is how the attestation authority publishes its keys. Key Vault adds `-HSM` to a kty; the family drops
it.

Kind: pure
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from sidecar.errors import MalformedInput
from sidecar.jose import (
    PrivateKey,
    PublicKey,
    b64u_decode,
    b64u_encode,
    certificates_of_x5c,
    x5c_of,
)
from sidecar.strictjson import JsonObject, as_list, as_object, as_text, dump_json, load_object, optional_text

FAMILIES = ("RSA", "EC", "oct")
# Key Vault's name for secp256k1 is P-256K, the RFC's secp256k1. RFC 8812 section 3.1.
CURVES: dict[str, ec.EllipticCurve] = {
    "P-256": ec.SECP256R1(),
    "P-384": ec.SECP384R1(),
    "P-521": ec.SECP521R1(),
    "P-256K": ec.SECP256K1(),
}
_CURVE_NAMES = {curve.name: name for name, curve in CURVES.items()}
_PUBLIC = {"RSA": ("n", "e"), "EC": ("x", "y"), "oct": ()}
_SECRET = {"RSA": ("d", "p", "q", "dp", "dq", "qi"), "EC": ("d",), "oct": ("k",)}

MIN_RSA_BITS, MAX_RSA_BITS = 2048, 8192
MAX_OCT = 1024  # bytes
MAX_EXPONENT = 8  # bytes; everyone uses 65537, a huge exponent only costs time
MAX_KEYS = 64


@dataclass(frozen=True, slots=True)
class Jwk:
    """One key.

    Attributes:
        kty: as written: RSA, RSA-HSM, EC, EC-HSM, oct, oct-HSM. numbers: public members, big-endian bytes
            without leading zeros (EC coordinates keep the curve's width). secret: private members in the
            same form; empty for a public key. crv: curve of an EC key. kid, use, alg, key_ops, x5c: as
            written; empty where absent.
    """

    kty: str
    numbers: Mapping[str, bytes]
    secret: Mapping[str, bytes] = field(default_factory=dict, repr=False)
    crv: str = ""
    kid: str = ""
    use: str = ""
    alg: str = ""
    key_ops: tuple[str, ...] = ()
    x5c: tuple[x509.Certificate, ...] = field(default=(), repr=False)

    @property
    def family(self) -> str:
        """RSA, EC or oct."""
        return self.kty.removesuffix("-HSM")

    @property
    def is_private(self) -> bool:
        """Whether the secret members are here."""
        return bool(self.secret)

    def public_key(self) -> PublicKey:
        """The public key, from the numbers or else from the first certificate.

        Raises:
            MalformedInput: an oct key, numbers that are no key, or a certificate of another kind.
        """
        try:
            if self.family == "RSA" and self.numbers:
                return rsa.RSAPublicNumbers(self._int("e"), self._int("n")).public_key()
            if self.family == "EC" and self.numbers:
                return self._ec_numbers().public_key()
        except ValueError:
            raise MalformedInput(f"key {self.kid!r}: its numbers are no {self.family} public key") from None
        if self.x5c:
            return _certificate_key(self.x5c[0], self.kid)
        raise MalformedInput(f"key {self.kid!r}: a {self.kty} key has no public part")

    def private_key(self) -> PrivateKey:
        """The private key, checked to belong to the public numbers.

        Raises:
            MalformedInput: no private part, or numbers that do not belong together.
        """
        try:
            if self.family == "RSA" and "d" in self.secret:
                return self._rsa_private()
            if self.family == "EC" and "d" in self.secret:
                return ec.EllipticCurvePrivateNumbers(self._int("d"), self._ec_numbers()).private_key()
        except ValueError:
            # No `from`: the lower error could quote a number of the key.
            raise MalformedInput(f"key {self.kid!r}: its numbers do not belong together") from None
        raise MalformedInput(f"key {self.kid!r}: no private {self.family} part")

    def thumbprint(self) -> str:
        """The SHA-256 thumbprint of an RSA or EC key, base64url.

        Spec: RFC 7638 section 3 (members in lexical order, minimal encodings, kty without Key Vault's
            suffix).
        """
        members: JsonObject = {name: b64u_encode(self.numbers[name]) for name in _PUBLIC[self.family]}
        if not members:
            raise MalformedInput(f"a thumbprint of a {self.family} key would reveal it")
        members["kty"] = self.family
        if self.family == "EC":
            members["crv"] = self.crv
        ordered = {name: members[name] for name in sorted(members)}
        return b64u_encode(hashlib.sha256(dump_json(ordered)).digest())

    def public(self) -> Jwk:
        """The same key without its secret members."""
        return replace(self, secret={})

    def to_dict(self, *, private: bool = False) -> JsonObject:
        """The members as JSON values; the secret ones only when asked for by name."""
        found: JsonObject = {"kty": self.kty}
        for name in ("kid", "use", "alg", "crv"):
            if value := getattr(self, name):
                found[name] = value
        if self.key_ops:
            found["key_ops"] = list(self.key_ops)
        found.update({name: b64u_encode(value) for name, value in self.numbers.items()})
        if private:
            found.update({name: b64u_encode(value) for name, value in self.secret.items()})
        if self.x5c:
            found["x5c"] = x5c_of(self.x5c)
        return found

    def _int(self, name: str) -> int:
        return int.from_bytes(self.secret.get(name) or self.numbers[name], "big")

    def _ec_numbers(self) -> ec.EllipticCurvePublicNumbers:
        return ec.EllipticCurvePublicNumbers(self._int("x"), self._int("y"), CURVES[self.crv])

    def _rsa_private(self) -> rsa.RSAPrivateKey:
        n, e, d = self._int("n"), self._int("e"), self._int("d")
        if "p" in self.secret and "q" in self.secret:
            p, q = self._int("p"), self._int("q")
        else:
            p, q = rsa.rsa_recover_prime_factors(n, e, d)
        if min(p, q) < 3:
            raise ValueError("not primes")
        # The CRT numbers follow from the others; what the sender wrote for them is not needed.
        return rsa.RSAPrivateNumbers(
            p,
            q,
            d,
            rsa.rsa_crt_dmp1(d, p),
            rsa.rsa_crt_dmq1(d, q),
            rsa.rsa_crt_iqmp(p, q),
            rsa.RSAPublicNumbers(e, n),
        ).private_key()


# -- parse -----------------------------------------------------------------------------------------


def parse_jwk(value: object, *, what: str = "key") -> Jwk:
    """Read one JWK.

    Args:
        value: the JSON object; may be secret.
        what: the words that name it in errors.

    Raises:
        MalformedInput: unknown kty or curve, a size out of range, members missing or of another type.

    Spec: RFC 7517 section 4, RFC 7518 section 6.
    """
    obj = as_object(value, what)
    kty = as_text(obj.get("kty"), f"{what}: member 'kty'", max_length=16)
    family = kty.removesuffix("-HSM")
    if family not in FAMILIES:
        raise MalformedInput(f"{what}: kty is {kty!r}, wanted RSA, EC or oct")
    x5c = () if obj.get("x5c") is None else certificates_of_x5c(obj["x5c"], what=f"{what}: x5c")
    crv = _curve_name(obj, what) if family == "EC" else ""
    jwk = Jwk(
        kty=kty,
        numbers=_members(obj, _PUBLIC[family], crv, what),
        secret=_members(obj, _SECRET[family], crv, what),
        crv=crv,
        kid=optional_text(obj, "kid", what) or "",
        use=optional_text(obj, "use", what) or "",
        alg=optional_text(obj, "alg", what) or "",
        key_ops=_key_ops(obj, what),
        x5c=x5c,
    )
    _check_sizes(jwk, what)
    return jwk


def parse_jwks(data: bytes, *, what: str = "key set") -> tuple[Jwk, ...]:
    """Read a key set; items of an unknown kty are passed over, as RFC 7517 section 5 asks.

    Raises:
        MalformedInput: not `{"keys": [...]}` of at most 64 keys, or one of ours that is broken.
    """
    keys = as_list(load_object(data, what=what).get("keys"), f"{what}: member 'keys'", max_items=MAX_KEYS)
    items = [as_object(item, f"{what}: key {i}") for i, item in enumerate(keys)]
    ours = [item for item in items if str(item.get("kty")).removesuffix("-HSM") in FAMILIES]
    return tuple(parse_jwk(item, what=f"{what}: key") for item in ours)


def jwk_of_public(key: PublicKey, *, kid: str = "", key_ops: Sequence[str] = (), kty: str = "") -> Jwk:
    """The JWK of a public key; kty says RSA or EC unless given."""
    if isinstance(key, rsa.RSAPublicKey):
        rsa_numbers = key.public_numbers()
        numbers = {"n": _minimal(rsa_numbers.n), "e": _minimal(rsa_numbers.e)}
        return Jwk(kty or "RSA", numbers, kid=kid, key_ops=tuple(key_ops))
    point = key.public_numbers()
    width = (key.curve.key_size + 7) // 8
    numbers = {"x": point.x.to_bytes(width, "big"), "y": point.y.to_bytes(width, "big")}
    return Jwk(kty or "EC", numbers, crv=curve_name(key), kid=kid, key_ops=tuple(key_ops))


def jwk_of_private(key: PrivateKey, *, kid: str = "", key_ops: Sequence[str] = (), kty: str = "") -> Jwk:
    """The JWK of a private key, secret members included."""
    public = jwk_of_public(key.public_key(), kid=kid, key_ops=key_ops, kty=kty)
    if isinstance(key, rsa.RSAPrivateKey):
        parts = key.private_numbers()
        values = {"d": parts.d, "p": parts.p, "q": parts.q}
        values |= {"dp": parts.dmp1, "dq": parts.dmq1, "qi": parts.iqmp}
        return replace(public, secret={name: _minimal(value) for name, value in values.items()})
    width = (key.curve.key_size + 7) // 8
    return replace(public, secret={"d": key.private_numbers().private_value.to_bytes(width, "big")})


def jwk_of_secret(secret: bytes, *, kid: str = "", key_ops: Sequence[str] = (), kty: str = "oct") -> Jwk:
    """The JWK of a symmetric key of 1 to 1024 bytes, secret."""
    if not 1 <= len(secret) <= MAX_OCT:
        raise MalformedInput(f"key {kid!r}: {len(secret)} bytes, wanted 1 to {MAX_OCT}")
    return Jwk(kty, {}, secret={"k": secret}, kid=kid, key_ops=tuple(key_ops))


def curve_name(key: ec.EllipticCurvePublicKey | ec.EllipticCurvePrivateKey) -> str:
    """Key Vault's name of a key's curve; MalformedInput for a curve it does not have."""
    if key.curve.name not in _CURVE_NAMES:
        raise MalformedInput(f"key: curve {key.curve.name}, wanted one of {', '.join(CURVES)}")
    return _CURVE_NAMES[key.curve.name]


def _minimal(number: int) -> bytes:
    return number.to_bytes((number.bit_length() + 7) // 8 or 1, "big")


def _curve_name(obj: JsonObject, what: str) -> str:
    crv = as_text(obj.get("crv"), f"{what}: member 'crv'", max_length=16)
    crv = "P-256K" if crv == "secp256k1" else crv
    if crv not in CURVES:
        raise MalformedInput(f"{what}: crv is {crv!r}, wanted one of {', '.join(CURVES)}")
    return crv


def _members(obj: JsonObject, names: Sequence[str], crv: str, what: str) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    for name in names:
        if obj.get(name) is None:
            continue
        text = as_text(obj[name], f"{what}: member {name!r}", max_length=4096)
        data = b64u_decode(text, what=f"{what}: member {name!r}")
        # The vault writes e as 00010001: leading zeros carry nothing, except in a symmetric key.
        found[name] = data if name == "k" else data.lstrip(b"\0") or b"\0"
        if crv:
            found[name] = _fixed(found[name], crv, f"{what}: member {name!r}")
    return found


def _fixed(data: bytes, crv: str, what: str) -> bytes:
    width = (CURVES[crv].key_size + 7) // 8
    if len(data) > width:
        raise MalformedInput(f"{what}: {len(data)} bytes, wanted {width} for {crv}")
    return data.rjust(width, b"\0")


def _key_ops(obj: JsonObject, what: str) -> tuple[str, ...]:
    if obj.get("key_ops") is None:
        return ()
    items = as_list(obj["key_ops"], f"{what}: key_ops", max_items=16)
    return tuple(as_text(item, f"{what}: key_ops", max_length=32) for item in items)


def _check_sizes(jwk: Jwk, what: str) -> None:
    family = jwk.family
    if family == "oct":
        if "k" in jwk.secret and not 1 <= len(jwk.secret["k"]) <= MAX_OCT:
            raise MalformedInput(f"{what}: k has {len(jwk.secret['k'])} bytes, wanted 1 to {MAX_OCT}")
        return
    missing = [name for name in _PUBLIC[family] if name not in jwk.numbers]
    if missing and (jwk.numbers or jwk.secret or not jwk.x5c):
        raise MalformedInput(f"{what}: member {missing[0]!r} is missing")
    if family == "RSA" and jwk.numbers:
        bits = int.from_bytes(jwk.numbers["n"], "big").bit_length()
        if not MIN_RSA_BITS <= bits <= MAX_RSA_BITS:
            raise MalformedInput(f"{what}: modulus of {bits} bits, wanted {MIN_RSA_BITS} to {MAX_RSA_BITS}")
        if len(jwk.numbers["e"]) > MAX_EXPONENT:
            raise MalformedInput(f"{what}: exponent of {len(jwk.numbers['e'])} bytes, wanted 3")
        if any(len(value) > MAX_RSA_BITS // 8 for value in jwk.secret.values()):
            raise MalformedInput(f"{what}: a private member is longer than any modulus accepted")


def _certificate_key(certificate: x509.Certificate, kid: str) -> PublicKey:
    try:
        key = certificate.public_key()
    except (ValueError, UnsupportedAlgorithm):
        raise MalformedInput(f"key {kid!r}: its certificate holds no usable key") from None
    if not isinstance(key, rsa.RSAPublicKey | ec.EllipticCurvePublicKey):
        raise MalformedInput(f"key {kid!r}: its certificate holds a key of another kind than RSA or EC")
    return key
