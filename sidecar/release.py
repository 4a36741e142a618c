"""The flow on one screen: wrapping key -> report -> attestation token -> released key.

Nothing is believed because of where it came from: the token is verified against the authority's own keys
and must commit to our runtime data, the release must be signed by the vault we asked, about the key we asked
for, wrapped to our key. There is no fallback to a weaker wrap algorithm.

Kind: composition
"""

from __future__ import annotations

import logging
import secrets
from dataclasses import dataclass, field
from datetime import UTC, datetime

import trio

from sidecar import akv, maa
from sidecar.certstore import CertificateStore
from sidecar.collateral import Evidence, collect_evidence
from sidecar.errors import AttestationRejected, PolicyNotMet, SidecarError
from sidecar.explain import refusal_words
from sidecar.releasepolicy import evaluate
from sidecar.services import Authority, Vault
from sidecar.snp.source import ReportSource
from sidecar.strictjson import JsonObject, load_object
from sidecar.uvm import UvmInfo
from sidecar.wrapping import WrapAlgorithm, WrappingKey

log = logging.getLogger(__name__)

ENC = WrapAlgorithm.SHA256


@dataclass(frozen=True, slots=True)
class AttestationToken:
    """A verified attestation token. Not secret, but nobody else's business; `claims` are public."""

    text: str = field(repr=False)
    claims: JsonObject = field(repr=False)

    @property
    def expires_at(self) -> int:
        """Unix seconds."""
        expiry = self.claims.get("exp")
        return expiry if isinstance(expiry, int) else 0


@dataclass(frozen=True, slots=True)
class Guest:
    """This machine as attestation sees it: where reports and certificates come from."""

    source: ReportSource
    certificates: CertificateStore
    uvm: UvmInfo

    async def evidence(self, report_data: bytes) -> Evidence:
        """A report over `report_data`, 64 bytes, with its certificates."""
        return await collect_evidence(self.source, self.certificates, report_data)


async def attest(guest: Guest, authority: Authority, runtime_data: bytes) -> AttestationToken:
    """Attest this guest with runtime data, and verify the token.

    Args:
        guest: the machine.
        authority: whom to ask.
        runtime_data: JSON, public; the report commits to its SHA-256.

    Raises:
        MalformedInput: runtime data is not a JSON object.
        ReportUnavailable, AttestationRefused, VerificationFailed, ServiceError: what went wrong where.
    """
    load_object(runtime_data, what="runtime data")
    evidence = await guest.evidence(maa.report_data_for(runtime_data))
    nonce = str(secrets.randbits(63))
    request = maa.AttestRequest(
        report=evidence.raw.report,
        certificate_chain=evidence.collateral.chain.to_pem(),
        runtime_data=runtime_data,
        endorsements=(guest.uvm.reference_info,) if guest.uvm.reference_info else (),
        nonce=nonce,
    )
    text = await authority.attest(request)
    claims = maa.verify_token(
        text,
        await authority.keys(),
        issuer=authority.host.url,
        at=datetime.now(UTC),
        nonce=nonce,
        runtime_data=runtime_data,
    )
    log.info("attestation token of %s, expires %s", claims.get("iss"), claims.get("exp"))
    return AttestationToken(text, claims)


async def release_key(
    guest: Guest,
    authority: Authority,
    vault: Vault,
    key: akv.KeyRef,
    *,
    wrapping_key: WrappingKey | None = None,
) -> akv.ReleasedKey:
    """Attest, and release a key under that attestation.

    Args:
        guest, authority, vault: see their classes.
        key: name and version; without a version the newest.
        wrapping_key: RSA pair the key is wrapped to; a new one when None.

    Raises:
        ReleaseRefused: the vault refused; the message names the claim that failed where the policy is known.
        SidecarError: what else went wrong where.
    """
    if wrapping_key is None:
        wrapping_key = await trio.to_thread.run_sync(WrappingKey.generate)
    token = await attest(guest, authority, wrapping_key.runtime_data())
    return await release_with_token(vault, key, token, wrapping_key)


async def release_with_token(
    vault: Vault, key: akv.KeyRef, token: AttestationToken, wrapping_key: WrappingKey
) -> akv.ReleasedKey:
    """Release a key with a token that commits to `wrapping_key`; see `release_key`."""
    nonce = secrets.token_hex(16)
    request = akv.ReleaseRequest(token.text, enc=ENC, nonce=nonce)
    try:
        answer = await vault.call("POST", f"{key.path}/release", akv.build_release_request(request))
    except AttestationRejected as refused:
        raise await _explained(refused, vault, key, token) from refused
    release = akv.verify_release(
        akv.parse_release_response(answer),
        host=vault.host.name,
        roots=vault.roots,
        at=datetime.now(UTC),
        key=key,
        wrapping_kid=wrapping_key.kid,
        enc=ENC,
        nonce=nonce,
    )
    log.info("released %s", release.kid)
    return akv.unwrap_release(release, wrapping_key)


async def _explained(
    refused: AttestationRejected, vault: Vault, key: akv.KeyRef, token: AttestationToken
) -> AttestationRejected:
    """The refusal with the claims that failed, where the key's policy can be read."""
    try:
        bundle = await vault.key_bundle(key)
        if bundle.release_policy is None:
            return PolicyNotMet(f"{refused}; the key has no release policy", hint="import it with one")
        evaluation = evaluate(bundle.release_policy.policy(), token.claims)
    except SidecarError as exc:
        log.info("the key's release policy cannot be read: %s", exc)
        return AttestationRejected(
            f"{refused}; which claim failed is not known, because this identity may not read the key",
            hint="try `sidecar explain --maa HOST --policy FILE` here, or let the identity get keys; "
            f"{refused.hint}",
        )
    if evaluation.granted:
        return AttestationRejected(f"{refused}; the token meets the key's release policy", hint=refused.hint)
    words, hint = refusal_words(evaluation)
    return PolicyNotMet(f"{refused}; {words}", hint=hint or refused.hint)
