"""Import a key into a vault under a release policy, from the predecessor's configuration.

    {"key": {"kid", "kty"?, "key_ops"?, "authority": {"endpoint"}, "akv": {"endpoint", "bearer_token"?}},
     "key_derivation": {"salt"?, "label"?}, "claims": [[{"claim", "equals"}]], "identity": {"client_id"}?}

`claims` is a list of alternatives, each a list of claims that must all hold. `kty` is oct-HSM by default;
RSA-HSM keys yield the passphrase by HKDF, and then a salt must be known at import and at mount: a missing
one is made here, shown, and has to be recorded.

Kind: composition
"""

from __future__ import annotations

import hmac
import re
import secrets
from dataclasses import dataclass, field, replace

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from sidecar.akv import parse_key_ref
from sidecar.akvkeys import Attributes, ImportRequest, KeyBundle, PolicyEnvelope, parse_key_bundle
from sidecar.errors import MalformedInput, UsageError
from sidecar.jwk import CURVES, Jwk, jwk_of_private, jwk_of_secret
from sidecar.releasepolicy import ReleasePolicy, build_policy, parse_policy
from sidecar.services import Vault
from sidecar.strictjson import (
    JsonObject,
    as_list,
    as_object,
    as_text,
    load_object,
    member,
    object_member,
    optional_text,
    text_member,
)

HOST_DATA = "x-ms-sevsnpvm-hostdata"
KEY_SIZE = 32
DEFAULT_LABEL = "Symmetric Encryption Key"
KTYS = ("oct-HSM", "RSA-HSM", "EC-HSM")
_CHECK_MESSAGE = b"attested-volumes key check value v1"
_RSA_BITS = 2048
_DEFAULT_OPS = {
    "oct-HSM": ("encrypt", "decrypt"),
    "RSA-HSM": ("encrypt", "decrypt"),
    "EC-HSM": ("sign", "verify"),
}
Scalar = str | int | float | bool


@dataclass(frozen=True, slots=True)
class ImportConfig:
    """What to import, where, and who may have it; `bearer_token` is secret.

    Attributes:
        kid: key name.
        salt: for RSA, 1 byte or more; empty when not given.
        clauses: alternatives of claims.
    """

    kid: str
    kty: str
    key_ops: tuple[str, ...]
    maa_endpoint: str
    akv_endpoint: str
    salt: bytes
    label: str
    clauses: tuple[tuple[tuple[str, Scalar], ...], ...]
    client_id: str = ""
    bearer_token: str = field(default="", repr=False)

    def policy(self) -> ReleasePolicy:
        """The release policy: this authority, any of the clauses."""
        return build_policy([f"https://{self.maa_endpoint}"], self.clauses)

    def with_host_data(self, digest: bytes) -> ImportConfig:
        """The same with HOST_DATA demanded in every clause, in place of what was there."""
        wanted = (HOST_DATA, digest.hex())
        clauses = self.clauses or ((),)
        return replace(
            self, clauses=tuple((wanted, *(c for c in clause if c[0] != HOST_DATA)) for clause in clauses)
        )


def parse_import_config(data: bytes) -> ImportConfig:
    """Read a configuration.

    Raises:
        MalformedInput: not JSON, or a member is missing or wrong; the message says which.
    """
    what = "import configuration"
    top = load_object(data, what=what)
    key = object_member(top, "key", what)
    akv = object_member(key, "akv", f"{what}: key")
    derivation = as_object(top.get("key_derivation") or {}, f"{what}: key_derivation")
    kty = optional_text(key, "kty", what) or "oct-HSM"
    if kty not in KTYS:
        raise MalformedInput(f"{what}: kty is {kty[:32]!r}, wanted one of {', '.join(KTYS)}")
    ops = [as_text(op, f"{what}: key_ops") for op in as_list(key.get("key_ops") or [], f"{what}: key_ops")]
    identity = as_object(top.get("identity") or {}, f"{what}: identity")
    return ImportConfig(
        kid=parse_key_ref(text_member(key, "kid", what)).name,
        kty=kty,
        key_ops=tuple(ops) or _DEFAULT_OPS[kty],
        maa_endpoint=text_member(object_member(key, "authority", what), "endpoint", f"{what}: authority"),
        akv_endpoint=text_member(akv, "endpoint", f"{what}: akv"),
        salt=_hex(optional_text(derivation, "salt", what) or "", f"{what}: salt"),
        label=optional_text(derivation, "label", what) or DEFAULT_LABEL,
        clauses=tuple(_clause(item, what) for item in as_list(top.get("claims") or [], f"{what}: claims")),
        client_id=optional_text(identity, "client_id", what) or "",
        bearer_token=optional_text(akv, "bearer_token", what) or "",
    )


def _clause(value: object, what: str) -> tuple[tuple[str, Scalar], ...]:
    found: list[tuple[str, Scalar]] = []
    for item in as_list(value, f"{what}: claims"):
        claim = as_object(item, f"{what}: claim")
        equals = member(claim, "equals", f"{what}: claim")
        if not isinstance(equals, str | int | float | bool):
            raise MalformedInput(f"{what}: claim: equals is not a string, number or boolean")
        found.append((text_member(claim, "claim", f"{what}: claim"), equals))
    return tuple(found)


def _hex(text: str, what: str) -> bytes:
    try:
        return bytes.fromhex(text)
    except ValueError:
        raise MalformedInput(f"{what}: not hex digits") from None


@dataclass(frozen=True, slots=True)
class Material:
    """A key to import, **secret**, and the 32-byte passphrase it stands for (None for EC keys)."""

    key: Jwk = field(repr=False)
    passphrase: bytes | None = field(repr=False)
    generated: bool
    salt: bytes = b""

    @property
    def check_value(self) -> str | None:
        """The public fingerprint of the passphrase; encfs shows the same one."""
        return None if self.passphrase is None else key_check_value(self.passphrase)


def key_check_value(passphrase: bytes) -> str:
    """First 8 bytes of HMAC-SHA-256 under the passphrase over a fixed text, as 16 hex digits; public."""
    return hmac.digest(passphrase, _CHECK_MESSAGE, "sha256")[:8].hex()


def parse_symmetric(data: bytes) -> bytes:
    """A symmetric key of 32 bytes, secret, from raw bytes or hex digits.

    Raises:
        UsageError: anything else.
    """
    if len(data) == KEY_SIZE:
        return data
    text = data.strip()
    if re.fullmatch(rb"[0-9A-Fa-f]{64}", text):
        return bytes.fromhex(text.decode())
    raise UsageError(f"key: {len(data)} bytes of no known form, wanted 32 raw bytes or 64 hex digits")


def make_material(config: ImportConfig, *, symmetric: bytes | None, pem: bytes | None) -> Material:
    """The key to import: the given one, or a new one of the configured kind.

    Args:
        config: says the kind.
        symmetric: 32 bytes, secret, for oct-HSM.
        pem: PKCS#8, secret, for RSA-HSM and EC-HSM.

    Raises:
        UsageError: a key of another kind was given, or none of use.
    """
    if config.kty == "oct-HSM":
        if pem is not None:
            raise UsageError(
                "a private key was given, but kty is oct-HSM", hint="set kty to RSA-HSM or EC-HSM"
            )
        secret = symmetric if symmetric is not None else secrets.token_bytes(KEY_SIZE)
        key = jwk_of_secret(secret, key_ops=config.key_ops, kty="oct-HSM")
        return Material(key, secret, symmetric is None)
    if symmetric is not None:
        raise UsageError(f"a symmetric key was given, but kty is {config.kty}", hint="set kty to oct-HSM")
    private = _load_pem(pem) if pem is not None else _generate(config.kty)
    if isinstance(private, rsa.RSAPrivateKey) != (config.kty == "RSA-HSM"):
        raise UsageError(f"the private key is not of the kind that kty says, {config.kty}")
    key = jwk_of_private(private, key_ops=config.key_ops, kty=config.kty)
    if isinstance(private, ec.EllipticCurvePrivateKey):
        return Material(key, None, pem is None)
    salt = config.salt or secrets.token_bytes(32)
    return Material(key, derive_passphrase(private, salt, config.label), pem is None, salt)


def derive_passphrase(private: rsa.RSAPrivateKey, salt: bytes, label: str) -> bytes:
    """HKDF-SHA-256 over the private exponent, as encfs derives it from the released key; 32 bytes, secret."""
    exponent = private.private_numbers().d
    material = exponent.to_bytes((exponent.bit_length() + 7) // 8, "big")
    return HKDF(hashes.SHA256(), KEY_SIZE, salt, label.encode()).derive(material)


def _load_pem(data: bytes) -> rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey:
    try:
        key = load_pem_private_key(data, password=None)
    except (ValueError, TypeError) as exc:
        raise UsageError("private key: not an unencrypted PEM private key") from exc
    if not isinstance(key, rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey):
        raise UsageError("private key: neither RSA nor EC")
    return key


def _generate(kty: str) -> rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey:
    if kty == "RSA-HSM":
        return rsa.generate_private_key(public_exponent=65537, key_size=_RSA_BITS)
    return ec.generate_private_key(CURVES["P-256"])


def import_request(config: ImportConfig, material: Material) -> ImportRequest:
    """The request, **secret**: an exportable HSM key under the release policy."""
    return ImportRequest(
        material.key,
        True,
        Attributes(exportable=True),
        release_policy=PolicyEnvelope.of(config.policy()),
    )


def without_secret(config: ImportConfig) -> JsonObject:
    """The request as it may be shown."""
    return {"kty": config.kty, "key_ops": list(config.key_ops), "release_policy": config.policy().to_dict()}


async def import_key(vault: Vault, config: ImportConfig, material: Material) -> KeyBundle:
    """Import the key.

    Raises:
        ReleaseRefused: the vault refused; the message says why.
        SidecarError: no token, or no answer.
    """
    request = import_request(config, material).to_bytes()
    bundle = parse_key_bundle(await vault.call("PUT", f"/keys/{config.kid}", request))
    if bundle.release_policy is None or parse_policy(bundle.release_policy.data) != config.policy():
        raise MalformedInput(f"vault {vault.host.name}: the key's release policy is not the one sent")
    return bundle
