"""Access tokens for vaults, through azure-identity: managed identity, workload identity, a caller's own.

azure-identity blocks, so it runs in a thread. Tokens are kept until five minutes before they expire, one
cache for all; callers that ask for the same audience at once share one request.

The only user of azure-identity.

Kind: adapter
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol
from urllib.parse import urlsplit

import trio

from sidecar.errors import IdentityError

if TYPE_CHECKING:
    from azure.core.credentials import TokenCredential

MARGIN_SECONDS = 300
_WORKLOAD = ("AZURE_CLIENT_ID", "AZURE_TENANT_ID", "AZURE_FEDERATED_TOKEN_FILE")
_DEADLINE = 120
# Spec: Azure documentation, authentication endpoints of the clouds.
_LOGIN_HOSTS = (
    "login.microsoftonline.com",
    "login.microsoftonline.us",
    "login.partner.microsoftonline.cn",
    "login.chinacloudapi.cn",
)


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


class GivenToken:
    """The caller's own token, used for whatever audience."""

    def __init__(self, text: str) -> None:
        self._token = AccessToken(text)

    async def access_token(self, audience: str) -> AccessToken:
        return self._token

    def forget(self, audience: str) -> None:
        """There is no other one."""


class AzureIdentity:
    """Tokens from azure-identity.

    Args:
        make: makes the credential; called once, in a thread.
        now: Unix seconds.
    """

    def __init__(self, make: Callable[[], TokenCredential], *, now: Callable[[], float] = time.time) -> None:
        self._make = make
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

    async def _fetch(self, audience: str) -> AccessToken:
        try:
            with trio.fail_after(_DEADLINE):
                return await trio.to_thread.run_sync(self._fetch_blocking, audience, abandon_on_cancel=True)
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
            raise IdentityError(
                f"access token for {audience}: {reason}",
                hint="give the container group a managed identity (name it with client_id when there are "
                "several), or set up workload identity, or pass an access token",
            ) from exc
        return AccessToken(token.token, token.expires_on)


def choose_identity(
    environ: Mapping[str, str], *, client_id: str = "", access_token: str = ""
) -> TokenSource:
    """A caller's token, else workload identity when its variables are all set, else managed identity."""
    if access_token:
        return GivenToken(access_token)
    return AzureIdentity(lambda: _credential(environ, client_id))


def _login_host(environ: Mapping[str, str]) -> str:
    """Host of the token authority, from AZURE_AUTHORITY_HOST with or without scheme."""
    text = environ.get("AZURE_AUTHORITY_HOST") or _LOGIN_HOSTS[0]
    return urlsplit(text if "//" in text else f"//{text}").hostname or ""


def _credential(environ: Mapping[str, str], client_id: str) -> TokenCredential:
    from azure.identity import ManagedIdentityCredential, WorkloadIdentityCredential

    if all(environ.get(name) for name in _WORKLOAD):
        # Looking an authority up at the public cloud only works, and only makes sense, for Azure's own.
        private = _login_host(environ) not in _LOGIN_HOSTS
        return WorkloadIdentityCredential(disable_instance_discovery=private)
    return ManagedIdentityCredential(client_id=client_id) if client_id else ManagedIdentityCredential()
