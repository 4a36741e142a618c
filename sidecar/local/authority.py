"""The local attestation authority: verifies evidence for real, and signs what it found.

Strategy: parse the request, verify report and chain with `sidecar.snp.verify` against the roots given,
compare the hashes of runtime and init time data with what the report commits to, hold the claims against
the attestation policy, sign. The key set it publishes is the one document that vaults check its tokens by.

Rules: roots are the software processor's and AMD's; nothing else is ever accepted. A compliance claim needs
an endorsement of the measurement by Microsoft, or the operator of the box asking for it by name: the
software processor runs no utility VM that could be endorsed.

Spec: Azure Attestation REST API 2022-08-01; troubleshooting guide, error codes.

Kind: composition
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import secrets
from collections.abc import Sequence

import trio

from sidecar.endorsement import AZURE_UVM_ISSUERS, UvmIssuer, verify_uvm_endorsement
from sidecar.errors import SidecarError, VerificationFailed
from sidecar.jose import b64_encode, x5c_of
from sidecar.jwk import Jwk, parse_jwks
from sidecar.local.attestpolicy import evaluate
from sidecar.local.ca import Issued
from sidecar.local.faults import FaultScript
from sidecar.local.policyroutes import Policies
from sidecar.local.refusal import Refusal
from sidecar.local.service import Clock, Service
from sidecar.local.store import Store
from sidecar.local.tokens import TokenSigner
from sidecar.maa import (
    TOKEN_LIFE,
    AttestRequest,
    parse_attest_request,
    policy_hash,
    report_data_for,
    sign_token,
    token_claims,
)
from sidecar.releasepolicy import same_authority
from sidecar.snp.certs import parse_chain_pem
from sidecar.snp.report import Report
from sidecar.snp.roots import Roots
from sidecar.snp.verify import VerifyPolicy, verify_evidence
from sidecar.strictjson import JsonObject, dump_json
from sidecar.web import Router, WebRequest, WebResponse, json_response

log = logging.getLogger("sidecar.local")

API_VERSIONS = frozenset({"2020-10-01", "2022-08-01", "2022-09-01-preview", "2025-06-01"})
# By the endorsement's feed: container instances, and confidential containers on AKS.
_COMPLIANCE_OF = {
    "ContainerPlat-AMD-UVM": "azure-compliant-uvm",
    "ConfAKS-AMD-UVM": "azure-signed-katacc-uvm",
}
# The authority reports what it sees; what is acceptable is for release policies to say.
_GENUINE_ONLY = VerifyPolicy(vmpl=None, allow_debug=True, allow_migration=True)


class Authority:
    """One attestation authority.

    Args:
        issuer: its address, `https://host:port`.
        signer: its self-signed signing certificate.
        roots: whose reports it accepts.
        store: where its policy is kept. tokens: who may change the policy.
        compliance: `x-ms-compliance-status` to assert for software evidence, or None.
        endorsers: whose endorsements of a utility VM count.
    """

    def __init__(
        self,
        *,
        issuer: str,
        signer: Issued,
        roots: Roots,
        store: Store,
        tokens: TokenSigner,
        clock: Clock,
        compliance: str | None = None,
        endorsers: Sequence[UvmIssuer] = AZURE_UVM_ISSUERS,
    ) -> None:
        self.issuer = issuer
        self._signer = signer
        self._roots = roots
        self._clock = clock
        self._compliance = compliance
        self._endorsers = endorsers
        digest = hashlib.sha256(signer.chain_pem()).digest()
        self._kid = b64_encode(digest)
        self._policies = Policies(store, tokens, self._sign_statement, clock)

    def service(self, faults: FaultScript) -> Service:
        """The routes as a service that obeys a fault script."""
        router = Router()
        router.add("attest", "POST", "/attest/SevSnpVm", self._attest)
        router.add("certs", "GET", "/certs", self._certs)
        router.add("openid", "GET", "/.well-known/openid-configuration", self._openid)
        self._policies.add_to(router)
        return Service("maa", router, faults, unreadable="InvalidParameter")

    def key_set(self) -> bytes:
        """The published key set: keys live in certificates, without n and e."""
        item = {"alg": "RS256", "kid": self._kid, "kty": "RSA", "use": "sig"}
        return dump_json({"keys": [item | {"x5c": x5c_of([self._signer.certificate])}]})

    async def published_keys(self, issuer: str) -> tuple[Jwk, ...] | None:
        """Its keys, read back from what it publishes; None for another issuer."""
        return parse_jwks(self.key_set()) if same_authority(self.issuer, issuer) else None

    # -- routes ---------------------------------------------------------------------------------

    async def _attest(self, request: WebRequest) -> WebResponse:
        version = request.query.get("api-version")
        if version not in API_VERSIONS:
            raise Refusal(400, "InvalidParameter", f"api-version is {str(version)[:32]!r}, which is unknown")
        expired = "expired" in request.flags
        body = request.body
        return json_response(
            {"token": await trio.to_thread.run_sync(lambda: self.attest(body, expired=expired))}
        )

    async def _certs(self, request: WebRequest) -> WebResponse:
        return WebResponse(200, self.key_set(), content_type="application/jwk+json")

    async def _openid(self, request: WebRequest) -> WebResponse:
        return json_response(
            {
                "claims_supported": ["is-debuggable", "x-ms-sevsnpvm-hostdata", "x-ms-runtime", "iss", "exp"],
                "id_token_signing_alg_values_supported": ["RS256"],
                "issuer": self.issuer,
                "jwks_uri": f"{self.issuer}/certs",
                "response_types_supported": ["token", "none"],
                "revocation_endpoint": f"{self.issuer}/revoke",
            }
        )

    # -- attestation ----------------------------------------------------------------------------

    def attest(self, body: bytes, *, expired: bool = False) -> str:
        """Verify a request and sign a token; takes some milliseconds.

        Args:
            body: the request. expired: make a token whose life is over (a scripted fault).

        Raises:
            Refusal: 400 with what is wrong.
        """
        policy = self._policies.current
        try:
            claims = self._claims(parse_attest_request(body), policy.text)
        except SidecarError as exc:
            raise Refusal(400, "InvalidParameter", f"evidence refused: {exc}") from exc
        outcome = evaluate(policy, claims)
        if not outcome.permitted:
            raise Refusal(400, "PolicyEvaluationError", outcome.reason)
        claims |= outcome.issued
        if expired:
            claims = _aged(claims, 2 * TOKEN_LIFE)
        return sign_token(claims, self._signer.key, kid=self._kid, issuer=self.issuer)

    def _claims(self, request: AttestRequest, policy: str) -> JsonObject:
        """The claims of evidence that verifies."""
        report, is_hardware = self._verify(request)
        compliance, endorsement = self._endorsed(request, report)
        return token_claims(
            report,
            request,
            issuer=self.issuer,
            at=self._clock(),
            token_id=secrets.token_hex(32),
            policy_hash=policy_hash(policy),
            compliance=compliance or (None if is_hardware else self._compliance),
            endorsement=endorsement,
        )

    def _endorsed(self, request: AttestRequest, report: Report) -> tuple[str | None, JsonObject | None]:
        """Compliance status and claims by the first endorsement that fits; None without one."""
        for document in request.endorsements:
            try:
                found = verify_uvm_endorsement(
                    document, measurement=report.measurement, at=self._clock(), issuers=self._endorsers
                )
            except SidecarError as exc:
                log.info("endorsement passed over: %s", exc)
                continue
            claims: JsonObject = {
                "x-ms-sevsnpvm-guestsvn": str(found.svn),
                "x-ms-sevsnpvm-launchmeasurement": found.measurement.hex(),
            }
            return _COMPLIANCE_OF.get(found.feed), claims
        return None, None

    def _sign_statement(self, claims: JsonObject) -> str:
        now = int(self._clock().timestamp())
        times = {"iss": self.issuer, "iat": now, "nbf": now, "exp": now + TOKEN_LIFE}
        return sign_token({**times, **claims}, self._signer.key, kid=self._kid, issuer=self.issuer)

    def _verify(self, request: AttestRequest) -> tuple[Report, bool]:
        chain = parse_chain_pem(request.certificate_chain)
        verified = verify_evidence(
            request.report, chain, roots=self._roots, at=self._clock(), policy=_GENUINE_ONLY
        )
        report = verified.report
        if request.runtime_data is not None:
            _check_commitment("report data", report.report_data, report_data_for(request.runtime_data))
        if request.init_time_data is not None:
            digest = hashlib.sha256(request.init_time_data).digest()
            _check_commitment("host data", report.host_data, digest)
        return report, verified.is_hardware


def _check_commitment(what: str, seen: bytes, wanted: bytes) -> None:
    if not hmac.compare_digest(seen, wanted):
        raise VerificationFailed(
            f"{what} of the report is {seen.hex()}, wanted the data's digest {wanted.hex()}"
        )


def _aged(claims: JsonObject, seconds: int) -> JsonObject:
    times = {name: claims[name] for name in ("iat", "nbf", "exp")}
    return claims | {name: value - seconds for name, value in times.items() if isinstance(value, int)}
