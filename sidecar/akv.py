"""Key release by a vault or managed HSM: request and signed answer, both directions.

Strategy: the client builds the request and takes the answer apart in three steps, each with its own value:
the signed answer (`Jws`), the verified release (`VerifiedRelease`), the key (`ReleasedKey`). The local
vault uses the other half.

Rules: the signature is checked with the leaf of a chain that leads to a root of ours and names the host we
asked; the key must be the one we asked for; it must be wrapped to our key with the algorithm we asked for;
the public half of what comes out must be the one the vault signed. `enc` is always sent: the services'
default is SHA-1.

Spec: Azure Key Vault REST API 7.4, Release; recorded answers of both services (member order, dialects).

Kind: pure
"""

from __future__ import annotations

import hmac
import re
from dataclasses import dataclass, field
from datetime import datetime
from typing import NoReturn
from urllib.parse import urlsplit

from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_der_private_key,
)

from sidecar.errors import MalformedInput, VerificationFailed
from sidecar.jose import (
    Jws,
    b64u_decode,
    b64u_encode,
    certificates_of_x5c,
    parse_jws,
    payload_object,
    verify_jws,
)
from sidecar.jwk import Jwk, jwk_of_private, jwk_of_secret, parse_jwk
from sidecar.serverchain import Roots, verify_server_chain
from sidecar.strictjson import (
    JsonObject,
    dump_json,
    load_object,
    object_member,
    optional_text,
    text_member,
)
from sidecar.wrapping import WrapAlgorithm, WrappingKey, parse_enc

API_VERSION = "7.4"
# Set by the local vault only: base64url JSON saying why, {"failures": [...]} or {"reason": ...}.
REFUSAL_HEADER = "x-local-refusal"
# RS256 is what both services use; the others fit the same kind of key.
SIGNATURE_ALGORITHMS = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512")
MAX_NONCE = 64  # characters; the vault documents no limit, we send 32
_NAME = re.compile(r"[0-9A-Za-z-]{1,127}", re.ASCII)
_VERSION = re.compile(r"[0-9a-f]{32}", re.ASCII)


# -- which key ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class KeyRef:
    """A key by name, and by version unless the newest is meant (then empty)."""

    name: str
    version: str = ""

    def __str__(self) -> str:
        return f"{self.name}/{self.version}" if self.version else self.name

    @property
    def path(self) -> str:
        """Its path on the service."""
        return f"/keys/{self}"

    def is_met_by(self, other: KeyRef) -> bool:
        """Whether `other`, which has a version, is what this reference asks for."""
        return self.name.lower() == other.name.lower() and self.version in ("", other.version)


def parse_key_ref(text: str) -> KeyRef:
    """Read `name` or `name/version`, the form the settings carry.

    Raises:
        MalformedInput: characters a key name cannot have; so a reference never needs escaping in a URL.
    """
    name, _, version = text.partition("/")
    if not _NAME.fullmatch(name):
        raise MalformedInput(f"key name {name[:128]!r}: wanted 1 to 127 letters, digits and dashes")
    if version and not _VERSION.fullmatch(version):
        raise MalformedInput(f"key version {version[:64]!r}: wanted 32 lower-case hexadecimal digits")
    return KeyRef(name, version)


def parse_kid(url: str) -> tuple[str, KeyRef]:
    """Read `https://host[:port]/keys/name[/version]` into `host:port` and the reference."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port or 443
    except ValueError:
        raise MalformedInput("key identifier: not a URL") from None
    if parts.scheme != "https" or not host or not parts.path.startswith("/keys/"):
        raise MalformedInput(f"key identifier {url[:200]!r}: wanted https://host/keys/name/version")
    return f"{host}:{port}", parse_key_ref(parts.path.removeprefix("/keys/").strip("/"))


# -- request --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ReleaseRequest:
    """A release request; `target` is the attestation token."""

    target: str
    enc: WrapAlgorithm | None = None
    nonce: str | None = None


def build_release_request(request: ReleaseRequest) -> bytes:
    """Write the request body. Public, but the token in it is nobody else's business."""
    body: JsonObject = {"target": request.target}
    if request.nonce is not None:
        body["nonce"] = request.nonce
    if request.enc is not None:
        body["enc"] = request.enc.value
    return dump_json(body)


def parse_release_request(data: bytes) -> ReleaseRequest:
    """Read a request body, as the vault does; MalformedInput when it is not one."""
    body = load_object(data, what="release request")
    enc, nonce = (
        optional_text(body, "enc", "release request"),
        optional_text(body, "nonce", "release request"),
    )
    if nonce is not None and len(nonce) > MAX_NONCE:
        raise MalformedInput(f"release request: nonce of {len(nonce)} characters, at most {MAX_NONCE}")
    target = text_member(body, "target", "release request")
    return ReleaseRequest(target, None if enc is None else parse_enc(enc), nonce)


# -- answer ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class WrappedKey:
    """`key_hsm`: the ciphertext and what it was made for; public."""

    wrapping_kid: str
    enc: WrapAlgorithm
    ciphertext: bytes

    def to_text(self) -> str:
        """The base64url JSON that goes into the answer."""
        header = {"kid": self.wrapping_kid, "alg": "dir", "enc": self.enc.value}
        body = {"schema_version": "1.0", "header": header, "ciphertext": b64u_encode(self.ciphertext)}
        return b64u_encode(dump_json(body))


def parse_key_hsm(text: str) -> WrappedKey:
    """Read `key_hsm`; MalformedInput when it is not one."""
    what = "key_hsm"
    body = load_object(b64u_decode(text, what=what), what=what)
    if body.get("schema_version") != "1.0":
        raise MalformedInput(
            f"{what}: schema_version is {str(body.get('schema_version'))[:32]!r}, wanted '1.0'"
        )
    header = object_member(body, "header", what)
    if header.get("alg") != "dir":
        raise MalformedInput(f"{what}: alg is {str(header.get('alg'))[:32]!r}, wanted 'dir'")
    return WrappedKey(
        wrapping_kid=text_member(header, "kid", what),
        enc=parse_enc(text_member(header, "enc", what)),
        ciphertext=b64u_decode(text_member(body, "ciphertext", what), what=f"{what}: ciphertext"),
    )


def parse_release_response(data: bytes) -> Jws:
    """The signed answer of a success body, not yet verified; MalformedInput otherwise."""
    body = load_object(data, what="release response")
    return parse_jws(text_member(body, "value", "release response"), what="release response")


@dataclass(frozen=True, slots=True)
class VerifiedRelease:
    """A release whose signature, host, key and wrapping have been checked.

    Attributes:
        kid: identifier of the key with its version, as the vault signed it.
        ref: the same as name and version.
        public: the key's signed public half (no numbers for oct).
        wrapped: what to unwrap.
        nonce_echoed: the answer carried our nonce; False where the service does not echo it.
    """

    kid: str
    ref: KeyRef
    public: Jwk
    wrapped: WrappedKey
    nonce_echoed: bool


def verify_release(
    jws: Jws,
    *,
    host: str,
    roots: Roots,
    at: datetime,
    key: KeyRef,
    wrapping_kid: str,
    enc: WrapAlgorithm,
    nonce: str | None = None,
) -> VerifiedRelease:
    """Check a signed answer.

    Args:
        jws: the answer.
        host: the vault we asked, with its port where it is not 443.
        roots: roots we trust for services.
        at: the time to judge by, aware.
        key: the key we asked for.
        wrapping_kid: the kid of our wrapping key.
        enc: the wrap algorithm we asked for.
        nonce: the nonce we sent. An answer may leave it out; it may not carry another one.

    Raises:
        MalformedInput: the answer is not of the shape.
        VerificationFailed: it is not signed by this host, or is about another key, guest or request.
    """
    what = "release response"
    dns_name = urlsplit(f"//{host}").hostname or host
    chain = certificates_of_x5c(jws.header.get("x5c"), what=f"{what}: x5c")
    leaf = verify_server_chain(chain, host=dns_name, roots=roots, at=at, what=f"{what}: x5c")
    leaf_key = leaf.public_key()
    if not isinstance(leaf_key, rsa.RSAPublicKey):
        raise VerificationFailed(f"{what}: the leaf certificate's key is not RSA")
    verify_jws(jws, leaf_key, algorithms=SIGNATURE_ALGORITHMS, what=what)
    payload = payload_object(jws, what)
    signed = object_member(object_member(object_member(payload, "response", what), "key", what), "key", what)
    kid = text_member(signed, "kid", what)
    ref = _check_identity(kid, host, key)
    wrapped = parse_key_hsm(text_member(signed, "key_hsm", what))
    _check_wrapping(wrapped, wrapping_kid, enc)
    echoed = _check_nonce(object_member(payload, "request", what), nonce)
    public = parse_jwk(_without_secrets(signed), what=f"{what}: key")
    return VerifiedRelease(kid, ref, public, wrapped, echoed)


def _check_identity(kid: str, host: str, wanted: KeyRef) -> KeyRef:
    seen_host, ref = parse_kid(kid)
    if seen_host != parse_kid(f"https://{host}/keys/x")[0]:
        raise VerificationFailed(f"release response: key of {seen_host}, wanted one of {host}")
    if not ref.version or not wanted.is_met_by(ref):
        raise VerificationFailed(f"release response: key {ref}, wanted {wanted}")
    return ref


def _check_wrapping(wrapped: WrappedKey, kid: str, enc: WrapAlgorithm) -> None:
    if not hmac.compare_digest(wrapped.wrapping_kid.encode(), kid.encode()):
        raise VerificationFailed(
            f"release response: wrapped to key {wrapped.wrapping_kid[:64]!r}, wanted ours, {kid!r}"
        )
    if wrapped.enc is not enc:
        raise VerificationFailed(f"release response: wrapped with {wrapped.enc}, wanted {enc}")


def _check_nonce(request: JsonObject, nonce: str | None) -> bool:
    seen = optional_text(request, "nonce", "release response: request")
    if nonce is None or seen is None:
        return False
    if not hmac.compare_digest(seen.encode(), nonce.encode()):
        raise VerificationFailed("release response: nonce is not the one we sent", hint="a replayed answer")
    return True


def _without_secrets(signed: JsonObject) -> JsonObject:
    """The public members only: an answer has no business to carry private ones in the clear."""
    public = ("kty", "crv", "n", "e", "x", "y", "key_ops")
    return {name: value for name, value in signed.items() if name in public}


# -- the key --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, eq=False)
class ReleasedKey:
    """A released key; secret. Shows its identifier and nothing else, and cannot be pickled.

    Attributes:
        kid: identifier with version. ref: the same as name and version.
        kty: oct, RSA or EC.
        key_ops: what the key may be used for.
    """

    kid: str
    ref: KeyRef
    kty: str
    key_ops: tuple[str, ...]
    _key: Jwk = field(repr=False)

    def jwk(self) -> JsonObject:
        """The private key as a JWK, **secret**: kty oct, RSA or EC, private members, key_ops, no kid."""
        return self._key.to_dict(private=True)

    def __reduce__(self) -> NoReturn:
        raise TypeError("a released key cannot be pickled")


def unwrap_release(release: VerifiedRelease, wrapping_key: WrappingKey) -> ReleasedKey:
    """Unwrap a verified release.

    Raises:
        VerificationFailed: does not unwrap, or is not the key whose public half the vault signed.
        MalformedInput: what comes out is no key of the kind announced.
    """
    material = wrapping_key.unwrap(release.wrapped.ciphertext, release.wrapped.enc)
    public = release.public
    if public.family == "oct":
        key = jwk_of_secret(material, key_ops=public.key_ops)
    else:
        key = jwk_of_private(_load_private(material), key_ops=public.key_ops)
        if key.family != public.family or key.numbers != public.numbers or key.crv != public.crv:
            raise VerificationFailed("released key: not the one whose public half the vault signed")
    return ReleasedKey(release.kid, release.ref, public.family, public.key_ops, key)


def key_material(key: Jwk) -> bytes:
    """What a vault wraps: the raw bytes of an oct key, PKCS#8 DER of any other. Secret."""
    if key.family == "oct":
        return key.secret["k"]
    return key.private_key().private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())


def _load_private(material: bytes) -> rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey:
    try:
        key = load_der_private_key(material, password=None)
    except (ValueError, TypeError):
        # No `from`: the lower error may quote what it read.
        raise MalformedInput("released key: not a PKCS#8 private key") from None
    if not isinstance(key, rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey):
        raise MalformedInput("released key: neither an RSA nor an EC key")
    return key
