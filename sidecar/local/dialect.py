"""Where vault and managed HSM differ: key types, spelling, policies, signatures, challenges, messages.

Strategy: one `Dialect` value for each; everything else of the local vault asks it. The differences are
those seen in recorded answers of both services.

Spec: recorded exchanges of both services (release, create, 401), 7.3-preview.

Kind: pure
"""

from __future__ import annotations

import hashlib
import uuid
from dataclasses import dataclass, replace

from cryptography.hazmat.primitives import hashes

from sidecar.akv import WrappedKey
from sidecar.akvkeys import PolicyEnvelope
from sidecar.jose import b64u_encode, certificate_thumbprint, x5c_of
from sidecar.jwk import Jwk
from sidecar.local.ca import Issued
from sidecar.local.refusal import Refusal
from sidecar.local.storedkey import StoredKey
from sidecar.releasepolicy import GroupKind, ReleasePolicy
from sidecar.strictjson import JsonObject, dump_json

RECOVERY_LEVEL = "CustomizedRecoverable+Purgeable"
RECOVERABLE_DAYS = 7


@dataclass(frozen=True, slots=True)
class Dialect:
    """One kind of service.

    Attributes:
        service: `akv` or `mhsm`.
        resource: audience of its access tokens.
    """

    service: str
    resource: str

    @property
    def is_hsm(self) -> bool:
        """A managed HSM."""
        return self.service == "mhsm"

    # -- keys -----------------------------------------------------------------------------------

    def holds(self, family: str) -> bool:
        """Whether it keeps keys of this family; vaults have no symmetric ones."""
        return self.is_hsm or family != "oct"

    def policy(self, envelope: PolicyEnvelope) -> PolicyEnvelope:
        """A release policy as the service keeps it: both write the policy anew, each in its own way."""
        policy = envelope.policy()
        if not self.is_hsm:
            return replace(envelope, data=policy.to_bytes())
        return replace(envelope, data=dump_json(_hsm_order(replace(policy, version="1.0.0"))))

    def bundle(self, base: str, key: StoredKey) -> JsonObject:
        """A key as answers show it."""
        found: JsonObject = {"key": self._public(base, key), "attributes": key.attributes.to_dict()}
        if key.tags:
            found["tags"] = dict(key.tags)
        if key.policy is not None:
            found["release_policy"] = key.policy.to_dict()
        return found

    def item(self, base: str, key: StoredKey, *, versioned: bool) -> JsonObject:
        """A key as lists show it."""
        kid = f"{base}/keys/{key.name}" + (f"/{key.version}" if versioned else "")
        return {"kid": kid, "attributes": key.attributes.to_dict(), "tags": dict(key.tags)}

    def _public(self, base: str, key: StoredKey) -> JsonObject:
        members = key.jwk.to_dict()
        found: JsonObject = {"kid": f"{base}/keys/{key.name}/{key.version}", "kty": key.jwk.kty}
        found["key_ops"] = list(key.jwk.key_ops)
        found.update({name: members[name] for name in ("crv", "x", "y", "n", "e") if name in members})
        if not self.is_hsm and key.jwk.family == "RSA":
            # The vault writes the exponent as a 32-bit number, leading zero and all.
            found["e"] = b64u_encode(key.jwk.numbers["e"].rjust(4, b"\0"))
        return found

    # -- release --------------------------------------------------------------------------------

    def release_payload(
        self, base: str, key: StoredKey, wrapped: WrappedKey, request: JsonObject
    ) -> JsonObject:
        """What a release answer signs."""
        inner = self._public(base, key) | {"key_hsm": wrapped.to_text()}
        if self.is_hsm:
            inner["kty"] = key.jwk.family
        policy = key.policy.to_dict() if key.policy else {}
        policy.pop("immutable", None)
        if not self.is_hsm:
            policy.pop("contentType", None)
        body = {"key": inner, "attributes": key.attributes.to_dict(), "release_policy": policy}
        return {"request": request, "response": {"key": body}}

    def signature_header(self, signer: Issued) -> JsonObject:
        """The header of a release answer's signature."""
        thumbprint = certificate_thumbprint(signer.certificate)
        chain = x5c_of(signer.chain)
        if self.is_hsm:
            return {"alg": "RS256", "kid": thumbprint, "x5c": chain, "x5t#S256": thumbprint}
        sha1 = signer.certificate.fingerprint(hashes.SHA1())  # noqa: S303 - the wire format's choice
        return {
            "alg": "RS256",
            "kid": sha1.hex().upper(),
            "x5t": b64u_encode(sha1),
            "typ": "JWT",
            "x5t#S256": thumbprint,
            "x5c": chain,
        }

    # -- refusals -------------------------------------------------------------------------------

    def refuse(self, status: int, code: str, message: str, *, number: str = "", inner: str = "") -> Refusal:
        """A refusal in the service's words; `number` is the vault's AKV.SKR code."""
        if self.is_hsm:
            message = f"{message} (Activity ID: {uuid.uuid4()})"
        elif number:
            message = f"{number}: {message}"
        return Refusal(status, code, message, inner=inner)

    def challenge(self, authorization: str, *, error: str = "") -> dict[str, str]:
        """The header that sends a client for a token."""
        text = f'Bearer authorization="{authorization}", resource="{self.resource}"'
        if error:
            text += f', error="invalid_token", error_description="{error}"'
        return {"www-authenticate": text}


VAULT = Dialect("akv", "https://vault.azure.net")
MANAGED_HSM = Dialect("mhsm", "https://managedhsm.azure.net")


def hsm_kty(jwk: Jwk) -> Jwk:
    """The same key as an HSM kind."""
    return replace(jwk, kty=f"{jwk.family}-HSM")


def new_version() -> str:
    """A version nobody has: 32 hexadecimal digits."""
    return hashlib.sha256(uuid.uuid4().bytes).hexdigest()[:32]


def _hsm_order(policy: ReleasePolicy) -> JsonObject:
    document = policy.to_dict()
    entries = document["anyOf"]
    assert isinstance(entries, list)
    kinds = [kind.value for kind in GroupKind]
    ordered = [{n: e[n] for n in (*kinds, "authority") if n in e} for e in entries]
    return {"anyOf": ordered, "version": document["version"]}
