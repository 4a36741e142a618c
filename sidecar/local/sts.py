"""The local tenant's token endpoint, for workload identity: a cluster's token in, an access token out.

Strategy: the client credentials grant with a client assertion. The assertion is verified for real: signed
by the local cluster, meant for token exchange, alive, and its subject is the identity asked for.

Spec: Microsoft identity platform, client credentials flow, third case (federated credential); RFC 7523.

Kind: composition
"""

from __future__ import annotations

from sidecar.errors import SidecarError
from sidecar.local.faults import FaultScript
from sidecar.local.metadata import EXPIRED
from sidecar.local.refusal import Refusal
from sidecar.local.service import Clock, Service
from sidecar.local.tokens import EXCHANGE_AUDIENCE, TOKEN_LIFE, Identity, TokenSigner
from sidecar.strictjson import JsonObject, dump_json
from sidecar.web import Router, WebRequest, WebResponse, json_response, parse_query

ASSERTION_TYPE = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
SUFFIX = "/.default"


class TokenEndpoint:
    """One tenant.

    Args:
        base: its address, `https://host:port`, without the tenant.
        tokens: signer of access tokens. cluster: signer of the tokens that workloads bring.
        workload: the identity federated with the cluster's workload.
    """

    def __init__(
        self,
        *,
        base: str,
        tenant: str,
        tokens: TokenSigner,
        cluster: TokenSigner,
        workload: Identity,
        clock: Clock,
    ) -> None:
        self._base = base
        self._tenant = tenant
        self._tokens = tokens
        self._cluster = cluster
        self._workload = workload
        self._clock = clock

    def service(self, faults: FaultScript) -> Service:
        """The routes as a service that obeys a fault script."""
        router = Router()
        router.add("token", "POST", "/{tenant}/oauth2/v2.0/token", self._token)
        router.add("openid", "GET", "/{tenant}/v2.0/.well-known/openid-configuration", self._openid)
        router.add("discovery", "GET", "/common/discovery/instance", self._discovery)
        router.add("keys", "GET", "/{tenant}/discovery/v2.0/keys", self._keys)
        return Service("sts", router, faults, _render, unreadable="invalid_request")

    def workload_token(self) -> str:
        """What the cluster projects into its workload, **secret** while it lives."""
        now = int(self._clock().timestamp())
        return self._cluster.sign(
            {
                "aud": EXCHANGE_AUDIENCE,
                "iat": now,
                "nbf": now,
                "exp": now + TOKEN_LIFE,
                "sub": f"system:serviceaccount:default:{self._workload.client_id}",
            }
        )

    async def _token(self, request: WebRequest) -> WebResponse:
        self._check_tenant(request)
        form = parse_query(request.body.decode("latin-1"))
        if form.get("grant_type") != "client_credentials":
            raise Refusal(400, "unsupported_grant_type", "AADSTS70003: only client_credentials is supported")
        if form.get("client_assertion_type") != ASSERTION_TYPE:
            raise Refusal(400, "invalid_request", "AADSTS900144: client_assertion_type is missing or unknown")
        self._check_assertion(form)
        scope = form.get("scope", "").split(" ")[0]
        if not scope.endswith(SUFFIX):
            raise Refusal(400, "invalid_scope", f"AADSTS1002012: scope {scope[:200]!r} must end in {SUFFIX}")
        life = EXPIRED if "expired" in request.flags else TOKEN_LIFE
        audience = scope.removesuffix(SUFFIX)
        token = self._tokens.access_token(self._workload, audience, self._tenant, self._clock(), life=life)
        seconds = max(life, 0)
        return json_response(
            {"token_type": "Bearer", "expires_in": seconds, "ext_expires_in": seconds, "access_token": token}
        )

    def _check_assertion(self, form: dict[str, str]) -> None:
        if form.get("client_id", "").lower() != self._workload.client_id:
            raise Refusal(
                400, "unauthorized_client", "AADSTS700016: the application was not found in this tenant"
            )
        try:
            claims = self._cluster.verify(
                form.get("client_assertion", ""), [EXCHANGE_AUDIENCE], self._clock()
            )
        except SidecarError as exc:
            raise Refusal(401, "invalid_client", f"AADSTS700027: client assertion refused: {exc}") from exc
        if claims.get("sub") != f"system:serviceaccount:default:{self._workload.client_id}":
            raise Refusal(401, "invalid_client", "AADSTS700213: no matching federated identity record found")

    async def _openid(self, request: WebRequest) -> WebResponse:
        self._check_tenant(request)
        root = f"{self._base}/{self._tenant}"
        return json_response(
            {
                "issuer": f"{root}/v2.0",
                "authorization_endpoint": f"{root}/oauth2/v2.0/authorize",
                "token_endpoint": f"{root}/oauth2/v2.0/token",
                "device_authorization_endpoint": f"{root}/oauth2/v2.0/devicecode",
                "jwks_uri": f"{root}/discovery/v2.0/keys",
                "response_types_supported": ["code", "id_token"],
                "subject_types_supported": ["pairwise"],
                "id_token_signing_alg_values_supported": ["RS256"],
            }
        )

    async def _discovery(self, request: WebRequest) -> WebResponse:
        endpoint = f"{self._base}/{self._tenant}/v2.0/.well-known/openid-configuration"
        host = self._base.removeprefix("https://")
        names: JsonObject = {"preferred_network": host, "preferred_cache": host, "aliases": [host]}
        return json_response(
            {"tenant_discovery_endpoint": endpoint, "api-version": "1.1", "metadata": [names]}
        )

    async def _keys(self, request: WebRequest) -> WebResponse:
        self._check_tenant(request)
        return json_response({"keys": [self._tokens.jwk.to_dict()]})

    def _check_tenant(self, request: WebRequest) -> None:
        if request.parameters["tenant"].lower() != self._tenant:
            raise Refusal(400, "invalid_request", "AADSTS90002: the tenant was not found")


def _render(refusal: Refusal) -> WebResponse:
    number = refusal.message.partition(":")[0].removeprefix("AADSTS")
    body: JsonObject = {"error": refusal.code, "error_description": refusal.message}
    if number.isdigit():
        body["error_codes"] = [int(number)]
    return WebResponse(refusal.status, dump_json(body), refusal.headers)
