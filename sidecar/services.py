"""The two services a release needs, as objects: the attestation authority and the vault.

Every answer that is not a success becomes an error that names the service, the status, its code and words,
and what to check. A 401 of a vault drops the cached token and asks once more.

Kind: composition
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import urlencode

from sidecar import akv, maa
from sidecar.akvkeys import KeyBundle, parse_key_bundle
from sidecar.config import DEFAULTS, USER_AGENT, SidecarSettings
from sidecar.errors import (
    AttestationRefused,
    AttestationRejected,
    IdentityError,
    ReleaseRefused,
    ServiceError,
)
from sidecar.hosts import Host, Hosts, ServiceKind
from sidecar.http import CA_VARIABLE, Http, Response, tls_context, trusted_roots
from sidecar.identity import AccessToken, GivenToken, TokenSource, choose_identity, describe_token
from sidecar.jwk import Jwk, parse_jwks
from sidecar.serverchain import Roots, store_of
from sidecar.serviceerror import ErrorBody, parse_error_body

_JSON = {"content-type": "application/json"}


@dataclass(frozen=True, slots=True)
class Authority:
    """An attestation authority."""

    http: Http
    host: Host
    user_agent: str = USER_AGENT

    async def attest(self, request: maa.AttestRequest) -> str:
        """Trade evidence for a token, not yet verified.

        Raises:
            AttestationRefused: the authority says no; its code and words are in the message.
            ServiceError: no answer, or not a sensible one.
        """
        url = f"{self.host.url}{maa.ATTEST_PATH}?api-version={maa.API_VERSION}"
        headers = _JSON | {"user-agent": self.user_agent}
        answer = await self.http.send("POST", url, headers=headers, body=maa.build_attest_request(request))
        if answer.status != 200:
            raise _attestation_error(self.host, answer)
        return maa.parse_attest_response(answer.body)

    async def keys(self) -> tuple[Jwk, ...]:
        """The keys it signs with, from itself over TLS."""
        answer = await self.http.send("GET", f"{self.host.url}/certs")
        if answer.status != 200:
            raise ServiceError(f"{self.host.kind} {self.host.name}: signing keys: {_said(answer)}")
        return parse_jwks(answer.body, what=f"keys of {self.host.name}")


def _attestation_error(host: Host, answer: Response) -> ServiceError:
    message = f"{host.kind} {host.name}: {_said(answer)}"
    if answer.status >= 500 or answer.status == 429:
        return ServiceError(message, hint="the authority is overloaded or failing; try again later")
    code = parse_error_body(answer.body).code
    hint = {
        "PolicyEvaluationError": "the authority's own policy denied the evidence: see its SevSnpVm policy",
        "InvalidParameter": "report, certificates or runtime data do not fit: are the certificates for "
        "this chip and TCB, and is the runtime data JSON?",
    }.get(code, "check the name of the authority")
    return AttestationRefused(message, hint=hint)


@dataclass(frozen=True, slots=True)
class Vault:
    """A vault or managed HSM, the identity that asks it, and the roots its signed answers must lead to."""

    http: Http
    host: Host
    tokens: TokenSource
    roots: Roots

    async def call(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        *,
        query: Mapping[str, str] | None = None,
    ) -> bytes:
        """One request with a bearer token; the body of its success.

        Args:
            method: upper case.
            path: from a checked key reference, like `/keys/name`.
            body: JSON, may be secret (an import).
            query: parameters besides api-version.

        Raises:
            ReleaseRefused: the vault says no; status, code and words are in the message.
            IdentityError: no token, or one that the vault does not accept.
            ServiceError: no answer, throttled, or failing.
        """
        token = await self.tokens.access_token(self.host.audience)
        answer = await self._send(token, method, path, body, query)
        if answer.status == 401:
            self.tokens.forget(self.host.audience)
            token = await self.tokens.access_token(self.host.audience)
            answer = await self._send(token, method, path, body, query)
        if not 200 <= answer.status < 300:
            raise _vault_error(self.host, path, answer, token)
        return answer.body

    async def _send(
        self, token: AccessToken, method: str, path: str, body: bytes | None, query: Mapping[str, str] | None
    ) -> Response:
        parameters = urlencode({"api-version": akv.API_VERSION, **(query or {})})
        headers = {"authorization": f"Bearer {token.text}"} | (_JSON if body is not None else {})
        return await self.http.send(method, f"{self.host.url}{path}?{parameters}", headers=headers, body=body)

    async def key_bundle(self, ref: akv.KeyRef) -> KeyBundle:
        """A key's public half, attributes and release policy."""
        return parse_key_bundle(await self.call("GET", ref.path))


_ROLE_MISSING = ("ForbiddenByRbac", "AccessDenied")
_FIREWALL = ("ForbiddenByFirewall", "ForbiddenByConnection")
# Causes of a 403 that have nothing to do with the attestation token.
_NOT_ATTESTATION = (*_ROLE_MISSING, *_FIREWALL)


def _vault_error(host: Host, path: str, answer: Response, token: AccessToken) -> ServiceError | IdentityError:
    said = parse_error_body(answer.body)
    message = f"{host.kind} {host.name}: {path}: {_said(answer)}"
    if answer.status == 401:
        return IdentityError(
            message,
            hint=f"the vault was asked with {describe_token(token)}; it wants one for {host.audience} that "
            "has not expired, of the vault's own tenant",
        )
    if answer.status == 429 or answer.status >= 500:
        return ServiceError(
            message, hint="the vault is throttling or failing; HSM keys of a vault allow 10 releases in 10 s"
        )
    if answer.status == 403 and path.endswith("/release") and said.inner_code not in _NOT_ATTESTATION:
        return AttestationRejected(message, hint=_role_hint(host, token))
    return ReleaseRefused(message, hint=_vault_hint(host, said, answer.status, token))


def _vault_hint(host: Host, said: ErrorBody, status: int, token: AccessToken) -> str:
    if said.inner_code in _ROLE_MISSING:
        return _role_hint(host, token)
    if said.inner_code in _FIREWALL:
        return "the vault's firewall refuses this network; allow it, or use a private endpoint"
    if said.inner_code == "ObjectIsDeletedButRecoverable":
        return "a deleted key has that name: recover or purge it"
    if status == 404:
        return "check the key's name and version, and that it was not deleted"
    return ""


def _role_hint(host: Host, token: AccessToken) -> str:
    role = (
        "Managed HSM Crypto Service Release User"
        if host.kind is ServiceKind.MANAGED_HSM
        else "Key Vault Crypto Service Release User"
    )
    return (
        f"the vault was asked with {describe_token(token)}; to release, that identity needs the role "
        f"'{role}' (or the access policy permission 'release') on this key"
    )


def _said(answer: Response) -> str:
    """Status, code and words of an error answer."""
    said = parse_error_body(answer.body)
    words = " ".join(part for part in (said.code, said.inner_code and f"({said.inner_code})") if part)
    return f"status {answer.status} {words}{': ' if said.message else ''}{said.message}".strip()


@dataclass(frozen=True, slots=True)
class Services:
    """What a release needs of the outside, opened once and shared."""

    http: Http
    hosts: Hosts
    tokens: TokenSource
    roots: Roots
    user_agent: str = USER_AGENT

    def authority(self, text: str) -> Authority:
        """The authority at a host; HostNotAllowed before anything is sent."""
        return Authority(self.http, self.hosts.authority(text), self.user_agent)

    def vault(self, text: str, *, access_token: str = "") -> Vault:
        """The vault at a host, asked with the caller's token where there is one."""
        tokens = GivenToken(access_token) if access_token else self.tokens
        return Vault(self.http, self.hosts.vault(text), tokens, self.roots)


@asynccontextmanager
async def open_services(
    environ: Mapping[str, str],
    settings: SidecarSettings = DEFAULTS,
    *,
    access_token: str = "",
    patience: float = 0.0,
) -> AsyncIterator[Services]:
    """Open the services that environment and settings name, for as long as the block runs.

    Args:
        environ: SIDECAR_CA_FILE and the variables of `Hosts.of`.
        settings: identity, allowed hosts, user agent.
        access_token: the caller's own, secret, in place of the identity.
        patience: seconds to wait for an identity service that is not there yet.
    """
    ca_file = Path(environ[CA_VARIABLE]) if environ.get(CA_VARIABLE) else None
    hosts = replace(
        Hosts.of(environ), vaults=settings.allowed.vaults, authorities=settings.allowed.authorities
    )
    tokens: TokenSource
    if access_token:
        tokens = GivenToken(access_token)
    else:
        tokens = choose_identity(environ, settings.identity, patience=patience)
    async with Http(tls_context(ca_file)) as http:
        yield Services(http, hosts, tokens, store_of(trusted_roots(ca_file)), settings.user_agent)
