"""What a vault lets one do with a key: import, create and update, as functions from request to key.

Strategy: each function takes what is asked and what is there and returns the key to store, or raises the
refusal that the real service gives.

Spec: Key Vault error table for secure key release (AKV.SKR.10xx), key types by service.

Kind: pure
"""

from __future__ import annotations

import os
from dataclasses import replace

from cryptography.hazmat.primitives.asymmetric import ec, rsa

from sidecar.akvkeys import Attributes, CreateRequest, ImportRequest, PolicyEnvelope, UpdateRequest
from sidecar.errors import MalformedInput
from sidecar.jwk import CURVES, Jwk, jwk_of_private, jwk_of_secret
from sidecar.local.dialect import RECOVERABLE_DAYS, RECOVERY_LEVEL, Dialect, hsm_kty, new_version
from sidecar.local.storedkey import StoredKey

DEFAULT_OPS = {
    "RSA": ("encrypt", "decrypt", "sign", "verify", "wrapKey", "unwrapKey"),
    "EC": ("sign", "verify"),
    "oct": ("encrypt", "decrypt", "wrapKey", "unwrapKey"),
}
RSA_SIZES = (2048, 3072, 4096)
OCT_SIZES = (128, 192, 256)
MAX_OCT = 64  # bytes


def accept_import(
    dialect: Dialect, name: str, request: ImportRequest, existing: StoredKey | None, now: int
) -> StoredKey:
    """The key that an import stores.

    Args:
        name: the key's name. existing: its newest version, or None.
        now: Unix seconds.

    Raises:
        Refusal: the service would not take it.
    """
    _check_private(dialect, request.key)
    as_hsm = dialect.is_hsm or bool(request.hsm) or request.key.kty.endswith("-HSM")
    key = hsm_kty(request.key) if as_hsm else request.key
    key = replace(key, kid="", use="", alg="", x5c=(), key_ops=key.key_ops or DEFAULT_OPS[key.family])
    return _new_key(
        dialect, name, key, request.attributes, dict(request.tags), request.release_policy, existing, now
    )


def accept_create(
    dialect: Dialect, name: str, request: CreateRequest, existing: StoredKey | None, now: int
) -> StoredKey:
    """The key that a create stores; draws it, which takes up to seconds. Raises as `accept_import`."""
    key = _generate(dialect, request)
    if dialect.is_hsm:
        key = hsm_kty(key)
    key = replace(key, key_ops=request.key_ops or DEFAULT_OPS[key.family])
    return _new_key(
        dialect, name, key, request.attributes, dict(request.tags), request.release_policy, existing, now
    )


def accept_update(
    dialect: Dialect, key: StoredKey, request: UpdateRequest, now: int, *, versioned: bool
) -> StoredKey:
    """The key that an update stores; `versioned` says that the request named a version. Raises Refusal."""
    exportable = request.attributes.exportable
    if exportable is not None and exportable != bool(key.attributes.exportable):
        raise dialect.refuse(
            400, "BadParameter", "Cannot modify the exportable state of a key.", number="AKV.SKR.1014"
        )
    policy = key.policy
    if request.release_policy is not None:
        if versioned and not dialect.is_hsm:
            raise dialect.refuse(
                400,
                "BadParameter",
                "Key Release Policy can only be set on versionless key.",
                number="AKV.SKR.1016",
            )
        policy = _policy_for(dialect, key.jwk, bool(key.attributes.exportable), request.release_policy, key)
    return replace(
        key,
        jwk=key.jwk if request.key_ops is None else replace(key.jwk, key_ops=request.key_ops),
        attributes=replace(key.attributes.merged(request.attributes), updated=now),
        tags=key.tags if request.tags is None else dict(request.tags),
        policy=policy,
    )


def _new_key(
    dialect: Dialect,
    name: str,
    jwk: Jwk,
    wanted: Attributes,
    tags: dict[str, str],
    envelope: PolicyEnvelope | None,
    existing: StoredKey | None,
    now: int,
) -> StoredKey:
    exportable = bool(wanted.exportable)
    if existing is not None and bool(existing.attributes.exportable) != exportable:
        raise dialect.refuse(
            400,
            "BadParameter",
            "The exportable attribute of an existing key cannot be changed.",
            number="AKV.SKR.1003",
        )
    attributes = Attributes(
        enabled=wanted.enabled is not False,
        nbf=wanted.nbf,
        exp=wanted.exp,
        created=now,
        updated=now,
        recovery_level=RECOVERY_LEVEL,
        recoverable_days=RECOVERABLE_DAYS,
        exportable=True if exportable else wanted.exportable,
    )
    policy = _policy_for(dialect, jwk, exportable, envelope, existing)
    return StoredKey(name, new_version(), jwk, attributes, tags, policy)


def _policy_for(
    dialect: Dialect, jwk: Jwk, exportable: bool, envelope: PolicyEnvelope | None, existing: StoredKey | None
) -> PolicyEnvelope | None:
    """The policy to keep, after the rules that tie it to `exportable`."""
    if exportable and (envelope is None or not envelope.data):
        text = "Exportable keys must have release policy."
        raise dialect.refuse(400, "BadParameter", text, number="AKV.SKR.1004")
    if envelope is None:
        return None
    if not exportable:
        text = "Non-exportable keys must not have release policy."
        raise dialect.refuse(400, "BadParameter", text, number="AKV.SKR.1005")
    if not jwk.kty.endswith("-HSM"):
        text = "Exportable keys must be HSM keys."
        raise dialect.refuse(400, "BadParameter", text, number="AKV.SKR.1006")
    try:
        kept = dialect.policy(envelope)
    except MalformedInput as exc:
        raise dialect.refuse(400, "BadParameter", f"Release policy is invalid: {exc}") from exc
    before = None if existing is None else existing.policy
    if before is not None and before.immutable and (kept.data != before.data or not kept.immutable):
        text = "Immutable Key Release Policy cannot be modified."
        raise dialect.refuse(400, "BadParameter", text, number="AKV.SKR.1020")
    return kept


def _check_private(dialect: Dialect, jwk: Jwk) -> None:
    if not dialect.holds(jwk.family):
        raise dialect.refuse(
            400, "BadParameter", f"Key type {jwk.kty} is not supported by vaults; use a managed HSM."
        )
    if jwk.family == "oct":
        if len(jwk.secret["k"]) > MAX_OCT:
            text = f"JSON Web Key: k property of oct key is too large, maximum size is {MAX_OCT}"
            raise dialect.refuse(400, "BadParameter", text)
        return
    jwk.private_key()  # raises MalformedInput, which becomes BadParameter, when the parts do not fit


def _generate(dialect: Dialect, request: CreateRequest) -> Jwk:
    family = request.kty.removesuffix("-HSM")
    if family not in DEFAULT_OPS or not dialect.holds(family):
        raise dialect.refuse(400, "BadParameter", f"Property kty has invalid value {request.kty}.")
    if family == "RSA":
        size = _choose(dialect, "key_size", request.key_size or 2048, RSA_SIZES)
        exponent = _choose(dialect, "public_exponent", request.public_exponent or 65537, (65537,))
        return jwk_of_private(rsa.generate_private_key(exponent, size), kty=request.kty)
    if family == "EC":
        curve = request.crv or "P-256"
        if curve not in CURVES:
            raise dialect.refuse(400, "BadParameter", f"Property crv has invalid value {curve[:32]}.")
        return jwk_of_private(ec.generate_private_key(CURVES[curve]), kty=request.kty)
    size = _choose(dialect, "key_size", request.key_size or 256, OCT_SIZES)
    return jwk_of_secret(os.urandom(size // 8), kty=request.kty)


def _choose(dialect: Dialect, name: str, value: int, allowed: tuple[int, ...]) -> int:
    if value not in allowed:
        raise dialect.refuse(400, "BadParameter", f"Property {name} has invalid value {value}.")
    return value
