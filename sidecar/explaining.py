"""The explainer against live services: attest, read the key, hold its policy against the token, and try.

Strategy: what a policy says is only half of a release; the rest (roles, firewalls, dates, whether the token
of our identity is for this vault) only the vault knows. So where the policy is met, or cannot be read, the
release is tried, and what the vault answers is part of the explanation. The released key goes nowhere.

Kind: composition
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

import trio

from sidecar.advice import show_value
from sidecar.akv import KeyRef
from sidecar.akvkeys import KeyBundle
from sidecar.errors import IdentityError, MalformedInput, ReleaseRefused, SidecarError
from sidecar.explain import Explanation, explain
from sidecar.release import Guest, attest, release_with_token
from sidecar.releasepolicy import ReleasePolicy, build_policy
from sidecar.services import Authority, Vault
from sidecar.strictjson import JsonObject
from sidecar.wrapping import WrappingKey

# What a suggested policy demands of a guest: what it runs, and that nobody can look into it.
_SUGGESTED = (
    "x-ms-sevsnpvm-hostdata",
    "x-ms-attestation-type",
    "x-ms-compliance-status",
    "x-ms-sevsnpvm-is-debuggable",
    "x-ms-sevsnpvm-vmpl",
    "x-ms-sevsnpvm-migration-allowed",
)


@dataclass(frozen=True, slots=True)
class Finding:
    """One obstacle outside of the policy, in words, and what to do about it."""

    words: str
    hint: str = ""


@dataclass(frozen=True, slots=True)
class LiveExplanation:
    """What was found about a live key; public.

    Attributes:
        policy: the policy's part; None where the policy could not be had.
        findings: obstacles the policy says nothing about.
        tried: the release was tried.
        released: it succeeded.
    """

    policy: Explanation | None
    findings: tuple[Finding, ...] = ()
    tried: bool = False
    released: bool = False

    @property
    def granted(self) -> bool:
        """The key is released to this guest, or would be as far as is known without trying."""
        if self.tried:
            return self.released
        return self.policy is not None and self.policy.granted and not self.findings

    def to_text(self) -> str:
        """Several lines, without a line end at the last."""
        lines = [] if self.policy is None else [self.policy.to_text(), ""]
        for finding in self.findings:
            lines.append(f"FAIL {finding.words}")
            lines += [f"  - {finding.hint}"] if finding.hint else []
        if self.tried:
            lines.append(f"the release was tried, and {'succeeded' if self.released else 'refused'}")
        return "\n".join(lines).rstrip()

    def to_dict(self) -> JsonObject:
        """The same as JSON."""
        found: JsonObject = {} if self.policy is None else self.policy.to_dict()
        return found | {
            "released": self.granted,
            "tried": self.tried,
            "findings": [{"words": f.words, "hint": f.hint} for f in self.findings],
        }


async def explain_live(
    guest: Guest, authority: Authority, vault: Vault, key: KeyRef, *, at: datetime, attempt: bool = True
) -> LiveExplanation:
    """Explain whether a key is released to this guest.

    Args:
        guest, authority, vault, key: as `release_key`.
        at: now, aware.
        attempt: try the release where nothing is known that stands in its way.

    Raises:
        SidecarError: attestation did not succeed, so there is no token to hold a policy against.
    """
    wrapping_key = await trio.to_thread.run_sync(WrappingKey.generate)
    token = await attest(guest, authority, wrapping_key.runtime_data())
    explanation: Explanation | None = None
    findings: list[Finding] = []
    try:
        bundle = await vault.key_bundle(key)
        findings += _of_attributes(bundle, at)
        explanation = explain(_policy_of(bundle), token.claims, at=at)
    except (ReleaseRefused, IdentityError, MalformedInput) as exc:
        findings.append(Finding(f"the key's release policy cannot be read: {exc}", exc.hint))
    # Reading a key and releasing it want different permissions: the second may do where the first does not.
    in_the_way = findings if explanation is not None else []
    if not attempt or in_the_way or (explanation is not None and not explanation.granted):
        return LiveExplanation(explanation, tuple(findings))
    try:
        await release_with_token(vault, key, token, wrapping_key)
    except SidecarError as exc:
        findings.append(Finding(str(exc), exc.hint))
    else:
        return LiveExplanation(explanation, (), tried=True, released=True)
    return LiveExplanation(explanation, tuple(findings), tried=True)


def _policy_of(bundle: KeyBundle) -> ReleasePolicy:
    if bundle.release_policy is None:
        raise MalformedInput(f"key {bundle.kid}: no release policy", hint="import it with one")
    return bundle.release_policy.policy()


def _of_attributes(bundle: KeyBundle, at: datetime) -> list[Finding]:
    """Obstacles in the key itself."""
    found, now, attributes = [], at.timestamp(), bundle.attributes
    if attributes.enabled is False:
        found.append(Finding(f"key {bundle.kid} is disabled", "enable it in the vault"))
    if attributes.exportable is False:
        found.append(
            Finding(f"key {bundle.kid} is not exportable", "import it again with sidecar import-key")
        )
    if attributes.exp is not None and now >= attributes.exp:
        found.append(Finding(f"key {bundle.kid} expired", "import a new version, or move its expiry"))
    if attributes.nbf is not None and now < attributes.nbf:
        found.append(Finding(f"key {bundle.kid} is not valid yet", "wait, or move its start"))
    return found


def suggest_policy(claims: Mapping[str, object]) -> ReleasePolicy:
    """A release policy that this guest meets: what it runs, and that its host cannot look into it.

    Args:
        claims: of a verified attestation token.

    Raises:
        MalformedInput: the token names no issuer or none of the claims, or the guest can be debugged:
            no policy that such a guest meets protects anything.
    """
    if claims.get("x-ms-sevsnpvm-is-debuggable") is True:
        raise MalformedInput(
            "this guest can be debugged by its host: there is no policy to suggest for it",
            hint="start it without the debug bit in its SNP policy",
        )
    found = [(name, claims[name]) for name in _SUGGESTED if name in claims]
    wanted = [
        (name, show_value(value).lower() if isinstance(value, bool) else show_value(value))
        for name, value in found
        if isinstance(value, str | int)
    ]
    issuer = claims.get("iss")
    if not isinstance(issuer, str) or not wanted:
        raise MalformedInput("attestation token: no issuer, or none of the claims of an SNP guest")
    return build_policy([issuer], [wanted])
