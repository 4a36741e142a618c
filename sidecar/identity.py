"""Access tokens for vaults, through azure-identity, or a caller's own.

azure-identity blocks, so it runs in a thread. Tokens are kept until five minutes before they expire, one
cache for all; callers that ask for the same audience at once share one request. A long-running process waits
a while for an identity that is not there yet: a container group's identity service starts beside it.

The only user of azure-identity.

Kind: adapter
"""

from __future__ import annotations

import logging
import random
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol
from urllib.parse import urlsplit

import trio

from sidecar.config import ANY_IDENTITY, IdentityKind, IdentitySettings, parse_identity_kind
from sidecar.errors import IdentityError, MalformedInput
from sidecar.http import CA_VARIABLE
from sidecar.jose import parse_jws, payload_object

if TYPE_CHECKING:
    from azure.core.credentials import TokenCredential

IDENTITY_VARIABLE = "SIDECAR_IDENTITY"
MARGIN_SECONDS = 300
MAX_TOKEN = 16 << 10  # characters
# Spec: RFC 6750 section 2.1 has fewer; nothing here could end the header it is sent in.
_TOKEN = re.compile(rf"[!-~]{{1,{MAX_TOKEN}}}")
_WORKLOAD = ("AZURE_CLIENT_ID", "AZURE_TENANT_ID", "AZURE_FEDERATED_TOKEN_FILE")
_DEADLINE = 120
# Spec: Azure documentation, authentication endpoints of the clouds.
_LOGIN_HOSTS = (
    "login.microsoftonline.com",
    "login.microsoftonline.us",
    "login.partner.microsoftonline.cn",
    "login.chinacloudapi.cn",
)
_HINTS = {
    IdentityKind.CLI: "log in with `az login`, for the tenant of the vault",
    IdentityKind.ENVIRONMENT: "set AZURE_TENANT_ID, AZURE_CLIENT_ID and AZURE_CLIENT_SECRET "
    "or AZURE_CLIENT_CERTIFICATE_PATH",
    IdentityKind.WORKLOAD: "set AZURE_CLIENT_ID, AZURE_TENANT_ID and AZURE_FEDERATED_TOKEN_FILE, as the "
    "workload identity webhook does",
}
_HINT = (
    "give the container group a managed identity (name it with client_id when there are several), or set up "
    "workload identity, or pass an access token; on your own machine: az login, and --identity cli"
)
_SHOWN_CLAIMS = ("appid", "azp", "oid", "upn", "tid", "aud")

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class AccessToken:
    """A bearer token, secret; `expires_at` in Unix seconds, 0 when unknown."""

    text: str = field(repr=False)
    expires_at: int = 0


class TokenSource(Protocol):
    """Yields access tokens."""

    async def access_token(self, audience: str) -> AccessToken:
        """A token for a resource like `https://vault.azure.net`.

        Raises:
            IdentityError: none could be had.
        """
        ...

    def forget(self, audience: str) -> None:
        """Drop a token that a service did not accept."""
        ...

    def expiries(self) -> Mapping[str, int]:
        """When the tokens at hand expire, by audience, in Unix seconds; for metrics."""
        ...


class GivenToken:
    """The caller's own token, used for whatever audience.

    Args:
        text: secret.

    Raises:
        MalformedInput: characters that no token has, or too many; nothing of it is in the error.
    """

    def __init__(self, text: str) -> None:
        if not _TOKEN.fullmatch(text):
            raise MalformedInput(
                f"access token of {len(text)} characters: wanted 1 to {MAX_TOKEN}, printable ASCII, no space"
            )
        self._token = AccessToken(text)

    async def access_token(self, audience: str) -> AccessToken:
        return self._token

    def forget(self, audience: str) -> None:
        """There is no other one."""

    def expiries(self) -> Mapping[str, int]:
        return {}


class AzureIdentity:
    """Tokens from azure-identity.

    Args:
        make: makes the credential; called once, in a thread.
        hint: what to do when there is no token.
        patience: seconds to go on asking an identity service that is not there yet, for the first token.
        now: Unix seconds.
    """

    def __init__(
        self,
        make: Callable[[], TokenCredential],
        *,
        hint: str = _HINT,
        patience: float = 0.0,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._make = make
        self._hint = hint
        self._patience = patience
        self._now = now
        self._credential: TokenCredential | None = None
        self._tokens: dict[str, AccessToken] = {}
        self._locks: dict[str, trio.Lock] = {}

    async def access_token(self, audience: str) -> AccessToken:
        async with self._locks.setdefault(audience, trio.Lock()):
            token = self._tokens.get(audience)
            if token is None or token.expires_at - MARGIN_SECONDS <= self._now():
                token = await self._fetch(audience)
                self._tokens[audience] = token
            return token

    def forget(self, audience: str) -> None:
        self._tokens.pop(audience, None)
        # It has a cache of its own, and would answer with the same token.
        self._credential = None

    def expiries(self) -> Mapping[str, int]:
        return {audience: token.expires_at for audience, token in self._tokens.items()}

    async def _fetch(self, audience: str) -> AccessToken:
        last_try = trio.current_time() + self._patience
        try:
            with trio.fail_after(_DEADLINE):
                while True:
                    try:
                        token = await trio.to_thread.run_sync(
                            self._fetch_blocking, audience, abandon_on_cancel=True
                        )
                    except IdentityError as exc:
                        if trio.current_time() >= last_try:
                            raise
                        log.info("%s; asking again", exc)
                        # Not in step with the other containers that start now.
                        await trio.sleep(random.uniform(1.0, 3.0))  # noqa: S311
                    else:
                        self._patience = 0.0
                        return token
        except trio.TooSlowError:
            raise IdentityError(f"access token for {audience}: none within {_DEADLINE} s") from None

    def _fetch_blocking(self, audience: str) -> AccessToken:
        from azure.core.exceptions import AzureError

        try:
            if self._credential is None:
                self._credential = self._make()
            token = self._credential.get_token(audience + "/.default")
        except (AzureError, ValueError, OSError) as exc:
            reason = str(exc).strip().splitlines()[0][:300] if str(exc).strip() else type(exc).__name__
            raise IdentityError(f"access token for {audience}: {reason}", hint=self._hint) from exc
        return AccessToken(token.token, token.expires_on)


def choose_identity(
    environ: Mapping[str, str],
    settings: IdentitySettings = ANY_IDENTITY,
    *,
    patience: float = 0.0,
) -> TokenSource:
    """The token source that the settings name, else SIDECAR_IDENTITY; `patience` as `AzureIdentity`.

    Raises:
        UsageError: SIDECAR_IDENTITY is no word of `IdentityKind`.
    """
    kind = settings.kind
    if kind is IdentityKind.AUTO:
        kind = parse_identity_kind(environ.get(IDENTITY_VARIABLE, ""))
    if kind is IdentityKind.AUTO:
        # As the predecessor: workload identity wins over a client id in the settings.
        workload = all(environ.get(name) for name in _WORKLOAD)
        workload = workload and not (settings.object_id or settings.resource_id)
        kind = IdentityKind.WORKLOAD if workload else IdentityKind.MANAGED
    return AzureIdentity(
        lambda: _credential(kind, settings, environ), hint=_HINTS.get(kind, _HINT), patience=patience
    )


def describe_token(token: AccessToken) -> str:
    """Whose token it is, in words for a hint: names of identities and tenants, nothing secret.

    The token is not verified; it only ever says who we are ourselves.
    """
    try:
        claims = payload_object(parse_jws(token.text))
    except MalformedInput:
        return "a token that is no JWT"
    shown = {name: str(claims[name])[:100] for name in _SHOWN_CLAIMS if name in claims}
    words = ", ".join(f"{name} {value}" for name, value in shown.items() if value.isprintable())
    return f"a token of {words}" if words else "a token that names nobody"


def _login_host(environ: Mapping[str, str]) -> str:
    """Host of the token authority, from AZURE_AUTHORITY_HOST with or without scheme."""
    text = environ.get("AZURE_AUTHORITY_HOST") or _LOGIN_HOSTS[0]
    try:
        return urlsplit(text if "//" in text else f"//{text}").hostname or ""
    except ValueError:
        return ""


def _credential(
    kind: IdentityKind, settings: IdentitySettings, environ: Mapping[str, str]
) -> TokenCredential:
    from azure import identity

    # Looking an authority up at the public cloud only works, and only makes sense, for Azure's own.
    private = _login_host(environ) not in _LOGIN_HOSTS
    # Such an authority has a certificate of the configured CA, which the library must be told.
    verify = {"connection_verify": ca} if private and (ca := environ.get(CA_VARIABLE)) else {}
    if kind is IdentityKind.WORKLOAD:
        return identity.WorkloadIdentityCredential(disable_instance_discovery=private, **verify)
    if kind is IdentityKind.CLI:
        return identity.AzureCliCredential()
    if kind is IdentityKind.ENVIRONMENT:
        return identity.EnvironmentCredential(disable_instance_discovery=private, **verify)
    if settings.client_id:
        return identity.ManagedIdentityCredential(client_id=settings.client_id)
    ids = {"object_id": settings.object_id, "resource_id": settings.resource_id}
    given = {name: value for name, value in ids.items() if value}
    return identity.ManagedIdentityCredential(identity_config=given or None)
