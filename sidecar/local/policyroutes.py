"""Attestation policies over HTTP: show, set and reset the policy of the local authority.

Strategy: a policy is kept as its text in the store and parsed again when the box starts. Answers are tokens
signed by the authority, as on Azure.

Rules: every route wants an access token for the attestation resource; a policy that does not parse is
refused with the line; signed policies are not part of the subset.

Spec: Azure Attestation REST API 2022-08-01, policies; how to author a policy (unsigned JWS form).

Kind: composition
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable

from sidecar.errors import MalformedInput, VerificationFailed
from sidecar.jose import b64u_decode, b64u_encode, parse_jws, payload_object
from sidecar.local.attestpolicy import AttestationPolicy, parse_policy
from sidecar.local.refusal import Refusal
from sidecar.local.service import Clock
from sidecar.local.store import Store
from sidecar.local.tokens import TokenSigner
from sidecar.strictjson import JsonObject, dump_json, text_member
from sidecar.web import Handler, Router, WebRequest, WebResponse, json_response

RESOURCE = "https://attest.azure.net"
SETTING = "policy:sevsnpvm"
DEFAULT_POLICY = "version= 1.0;\nauthorizationrules\n{\n\t=> permit();\n};\nissuancerules\n{\n};"

Sign = Callable[[JsonObject], str]


class Policies:
    """The policy of one authority.

    Args:
        store: where it is kept. tokens: whose access tokens are accepted.
        sign: makes an answer's token.
    """

    def __init__(self, store: Store, tokens: TokenSigner, sign: Sign, clock: Clock) -> None:
        self._store = store
        self._tokens = tokens
        self._sign = sign
        self._clock = clock
        self.current = parse_policy(store.setting(SETTING) or DEFAULT_POLICY)

    def add_to(self, router: Router) -> None:
        """Add the routes."""
        router.add("get-policy", "GET", "/policies/SevSnpVm", self._guarded(self._get))
        router.add("set-policy", "PUT", "/policies/SevSnpVm", self._guarded(self._set))
        router.add("reset-policy", "POST", "/policies/SevSnpVm:reset", self._guarded(self._reset))

    def _guarded(self, handler: Handler) -> Handler:
        async def guarded(request: WebRequest) -> WebResponse:
            scheme, _, token = request.headers.get("authorization", "").partition(" ")
            try:
                if scheme.lower() != "bearer":
                    raise MalformedInput("no Bearer token")
                self._tokens.verify(token, [RESOURCE], self._clock())
            except (MalformedInput, VerificationFailed) as exc:
                raise Refusal(401, "Unauthorized", f"Authentication failed: {exc}") from exc
            return await handler(request)

        return guarded

    async def _get(self, request: WebRequest) -> WebResponse:
        return self._answer({"x-ms-policy": _unsigned(self.current.text)})

    async def _set(self, request: WebRequest) -> WebResponse:
        text = _policy_text(request.body)
        try:
            policy = parse_policy(text)
        except MalformedInput as exc:
            raise Refusal(400, "PolicyParsingError", str(exc)) from exc
        return await self._changed(policy, text, "Updated")

    async def _reset(self, request: WebRequest) -> WebResponse:
        return await self._changed(parse_policy(DEFAULT_POLICY), None, "Removed")

    async def _changed(self, policy: AttestationPolicy, text: str | None, resolution: str) -> WebResponse:
        await self._store.run(lambda: self._store.remember(SETTING, text))
        self.current = policy
        digest = hashlib.sha256(_unsigned(policy.text).encode()).digest()
        return self._answer({"x-ms-policy-result": resolution, "x-ms-policy-token-hash": b64u_encode(digest)})

    def _answer(self, claims: JsonObject) -> WebResponse:
        return json_response({"token": self._sign(claims)})


def _policy_text(body: bytes) -> str:
    """The policy inside an unsigned JWS."""
    jws = parse_jws(body.strip(), what="policy")
    if jws.algorithm.lower() != "none" or jws.signature:
        raise Refusal(400, "InvalidOperation", "signed policies are not supported by this local authority")
    encoded = text_member(payload_object(jws, "policy"), "AttestationPolicy", "policy")
    try:
        return b64u_decode(encoded, what="policy").decode("utf-8")
    except UnicodeDecodeError:
        raise MalformedInput("policy: not UTF-8") from None


def _unsigned(text: str) -> str:
    payload = dump_json({"AttestationPolicy": b64u_encode(text.encode())})
    return f"{b64u_encode(dump_json({'alg': 'none'}))}.{b64u_encode(payload)}."
