"""The vault's decision to release a key, and the signed answer: pure functions over claims, policy and key.

Strategy: `judge_token` checks the attestation token, `judge_policy` the key's policy, `wrapping_key` finds
the guest's key in the token, `release_answer` wraps and signs. The vault calls them in this order.

Rules: each failure is the real service's refusal; what was wanted and seen goes into a header that real
clients pass over and our explainer reads.

Spec: Key Vault secure key release: order of checks, choice of the wrapping key, answer.

Kind: pure
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from cryptography.hazmat.primitives.asymmetric import rsa

from sidecar.akv import REFUSAL_HEADER, ReleaseRequest, WrappedKey, key_material
from sidecar.errors import MalformedInput, SidecarError
from sidecar.jose import b64u_encode, parse_jws, payload_object, sign_jws
from sidecar.jwk import Jwk, parse_jwk
from sidecar.local.ca import Issued
from sidecar.local.dialect import Dialect
from sidecar.local.refusal import Refusal
from sidecar.local.storedkey import StoredKey
from sidecar.maa import verify_token
from sidecar.releasepolicy import ABSENT, Evaluation, evaluate
from sidecar.strictjson import JsonObject, as_list, dump_json
from sidecar.wrapping import WrapAlgorithm, wrap_key_material

NOT_VERIFIED = "Target environment attestation statement cannot be verified."
NOT_MET = "Target environment attestation does not meet key release policy requirements."
MAX_EXPLANATION = 3000  # characters of the header


def issuer_of(token: str, dialect: Dialect) -> str:
    """The issuer a token claims, to look up its keys; nothing is trusted yet. Raises Refusal."""
    try:
        issuer = payload_object(parse_jws(token)).get("iss")
    except MalformedInput as exc:
        raise _unverified(dialect, str(exc)) from exc
    if not isinstance(issuer, str):
        raise _unverified(dialect, "the token names no issuer")
    return issuer


def judge_token(dialect: Dialect, token: str, issuer: str, keys: Sequence[Jwk], at: datetime) -> JsonObject:
    """The claims of a token that the authority's published keys vouch for. Raises Refusal."""
    try:
        return verify_token(token, keys, issuer=issuer, at=at)
    except SidecarError as exc:
        raise _unverified(dialect, str(exc)) from exc


def judge_policy(dialect: Dialect, key: StoredKey, claims: JsonObject) -> None:
    """Let the claims pass, or refuse with the conditions that failed."""
    if key.policy is None:
        raise dialect.refuse(400, "BadParameter", "The key is not exportable and cannot be released.")
    outcome = evaluate(key.policy.policy(), claims)
    if not outcome.granted:
        refusal = dialect.refuse(403, "Forbidden", NOT_MET)
        refusal.headers[REFUSAL_HEADER] = _explanation(outcome)
        raise refusal


def wrapping_key(dialect: Dialect, claims: JsonObject) -> tuple[str, rsa.RSAPublicKey]:
    """The guest's key: the first RSA key of the runtime claims that is for encryption. Raises Refusal."""
    runtime = claims.get("x-ms-runtime")
    items = runtime.get("keys") if isinstance(runtime, dict) else None
    for item in as_list(items or [], "x-ms-runtime: keys"):
        if not isinstance(item, dict) or str(item.get("kty")).removesuffix("-HSM") != "RSA":
            continue
        jwk = parse_jwk(item, what="x-ms-runtime: key")
        public = jwk.public_key()
        if (
            jwk.kid
            and (jwk.use == "enc" or "encrypt" in jwk.key_ops)
            and isinstance(public, rsa.RSAPublicKey)
        ):
            return jwk.kid, public
    raise dialect.refuse(400, "BadParameter", "The attestation token has no RSA key to encrypt the key to.")


def release_answer(
    dialect: Dialect,
    base: str,
    key: StoredKey,
    asked: JsonObject,
    request: ReleaseRequest,
    target: tuple[str, rsa.RSAPublicKey],
    signer: Issued,
) -> str:
    """Wrap and sign: takes some milliseconds.

    Args:
        base: address of the vault. asked: api-version and kid as asked.
        target: kid and public key of the guest.

    Returns:
        the compact JWS; public.
    """
    kid, public = target
    enc = request.enc or WrapAlgorithm.SHA1
    wrapped = WrappedKey(kid, enc, wrap_key_material(public, key_material(key.jwk), enc))
    echo: JsonObject = {"api-version": asked["api-version"], "enc": enc.value, "kid": asked["kid"]}
    if request.nonce is not None:
        echo["nonce"] = request.nonce
    payload = dialect.release_payload(base, key, wrapped, echo)
    return sign_jws(dialect.signature_header(signer), dump_json(payload), signer.key)


def _unverified(dialect: Dialect, reason: str) -> Refusal:
    refusal = dialect.refuse(403, "Forbidden", NOT_VERIFIED)
    refusal.headers[REFUSAL_HEADER] = b64u_encode(dump_json({"reason": reason[:1000]}))
    return refusal


def _explanation(outcome: Evaluation) -> str:
    failures: list[JsonObject] = [
        {
            "authority": authority.authority,
            "claim": miss.claim,
            "wanted": miss.wanted,
            "seen": "absent" if miss.seen is ABSENT else _short(miss.seen),
        }
        for authority, miss in outcome.failures()
    ]
    if not any(a.matches for a in outcome.authorities):
        failures = [
            {"claim": "iss", "wanted": a.authority, "seen": outcome.issuer} for a in outcome.authorities
        ]
    while True:
        text = b64u_encode(dump_json({"failures": failures}))
        if len(text) <= MAX_EXPLANATION or not failures:
            return text
        failures = failures[:-1]


def _short(value: object) -> object:
    return value if isinstance(value, bool | int | float) else str(value)[:200]
