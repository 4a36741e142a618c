"""The host's metadata services: access tokens of managed identities (IMDS) and AMD certificates (THIM).

Strategy: one plain HTTP service, as on Azure's link-local address. Tokens are signed by the local tenant;
certificates are the software processor's for its current TCB.

Rules: the header `Metadata: true` is demanded; all values of a token answer are strings; with several
identities and none chosen, the answer is 400, as on Azure.

Spec: managed identities, how to use a VM token (request, answer, error table); Azure THIM, certification
route.

Kind: composition
"""

from __future__ import annotations

from collections.abc import Sequence

import trio

from sidecar.local.faults import FaultScript
from sidecar.local.refusal import Refusal
from sidecar.local.service import Clock, Service
from sidecar.local.tokens import TOKEN_LIFE, Identity, TokenSigner
from sidecar.snp.software import SoftwareProcessor
from sidecar.strictjson import dump_json
from sidecar.web import Router, WebRequest, WebResponse, json_response

API_VERSIONS = frozenset({"2018-02-01", "2019-08-01", "2019-11-01", "2020-06-01", "2021-02-01"})
THIM_PATH = "/metadata/THIM/amd/certification"
TOKEN_PATH = "/metadata/identity/oauth2/token"  # noqa: S105 - a path
EXPIRED = -60  # seconds of life of a token that a fault script wants expired


class Metadata:
    """IMDS and THIM of one host."""

    def __init__(
        self,
        *,
        processor: SoftwareProcessor,
        tokens: TokenSigner,
        tenant: str,
        identities: Sequence[Identity],
        clock: Clock,
    ) -> None:
        self._processor = processor
        self._tokens = tokens
        self._tenant = tenant
        self._identities = tuple(identities)
        self._clock = clock

    def service(self, faults: FaultScript) -> Service:
        """The routes as a service that obeys a fault script."""
        router = Router()
        router.add("token", "GET", TOKEN_PATH, self._token)
        router.add("thim", "GET", THIM_PATH, self._thim)
        return Service("imds", router, faults, _render)

    async def _thim(self, request: WebRequest) -> WebResponse:
        _demand_header(request)
        return WebResponse(200, await trio.to_thread.run_sync(self._processor.thim_json))

    async def _token(self, request: WebRequest) -> WebResponse:
        _demand_header(request)
        if request.query.get("api-version") not in API_VERSIONS:
            raise Refusal(400, "invalid_request", "api-version is missing or unknown")
        resource = request.query.get("resource", "")
        if not resource.startswith(("https://", "api://")):
            raise Refusal(
                400, "invalid_resource", f"AADSTS500011: no resource principal named {resource[:200]!r}"
            )
        identity = self._choose(request)
        life = EXPIRED if "expired" in request.flags else TOKEN_LIFE
        now = self._clock()
        token = self._tokens.access_token(identity, resource, self._tenant, now, life=life)
        start = int(now.timestamp())
        return json_response(
            {
                "access_token": token,
                "client_id": identity.client_id,
                "expires_in": str(max(life, 0)),
                "expires_on": str(start + life),
                "ext_expires_in": str(max(life, 0)),
                "not_before": str(start),
                "refresh_token": "",
                "resource": resource,
                "token_type": "Bearer",
            }
        )

    def _choose(self, request: WebRequest) -> Identity:
        asked = {n: request.query[n] for n in ("client_id", "object_id", "msi_res_id") if n in request.query}
        fitting = [
            i
            for i in self._identities
            if asked.get("client_id", i.client_id).lower() == i.client_id
            and asked.get("object_id", i.object_id).lower() == i.object_id
            and asked.get("msi_res_id", i.resource_id).lower() == i.resource_id.lower()
        ]
        if not fitting:
            raise Refusal(400, "invalid_request", "Identity not found")
        if len(fitting) > 1:
            text = "Multiple user assigned identities exist, please specify the clientId / resourceId"
            raise Refusal(400, "invalid_request", text)
        return fitting[0]


def _demand_header(request: WebRequest) -> None:
    if request.headers.get("metadata") != "true":
        raise Refusal(400, "bad_request_102", "Required metadata header not specified")


def _render(refusal: Refusal) -> WebResponse:
    body = {"error": refusal.code, "error_description": refusal.message}
    return WebResponse(refusal.status, dump_json(body), refusal.headers)
