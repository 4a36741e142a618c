"""Bearer tokens for a registry: from its token service, as a user, as nobody, or as a managed identity.

A token service is named by the registry itself and is told what the user's login for this registry is, as
every client does; it must be spoken to over TLS, or be on this machine.

Spec: the distribution project's token and OAuth2 authentication specifications; Azure Container Registry,
"authentication overview" (the exchange of an Entra token for a refresh token).

Kind: composition
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from urllib.parse import urlencode, urlsplit

import trio

from sidecar.errors import ServiceError
from sidecar.http import Http, Response
from sidecar.identity import TokenSource
from sidecar.policy.images_names import RegistryName
from sidecar.policy.registry_challenge import Challenge
from sidecar.policy.registry_credentials import Credentials
from sidecar.strictjson import load_object, optional_text

log = logging.getLogger(__name__)

_FORM = {"content-type": "application/x-www-form-urlencoded"}
_CLIENT = "attested-volumes"
# Registries that take tokens of managed identities, and the audience of these.
_ACR_AUDIENCES = {
    ".azurecr.io": "https://containerregistry.azure.net",
    ".azurecr.cn": "https://management.chinacloudapi.cn",
    ".azurecr.us": "https://management.usgovcloudapi.net",
}
_LOOPBACK = ("localhost", "127.0.0.1", "::1")


def is_loopback(url: str) -> bool:
    """Whether an address is of this machine, spelt as such."""
    try:
        return urlsplit(url).hostname in _LOOPBACK
    except ValueError:
        return False


def audience_of(host: str) -> str:
    """The audience of tokens for an Azure registry; empty for any other."""
    name = host.partition(":")[0].lower()
    return next((found for suffix, found in _ACR_AUDIENCES.items() if name.endswith(suffix)), "")


class Authorizer:
    """Knows what to put into the authorization header for one repository.

    Args:
        http: the client.
        name: the image.
        credentials: the user's login, None for nobody.
        identity: asked for a token when nobody may not read an Azure registry.
    """

    def __init__(
        self, http: Http, name: RegistryName, credentials: Credentials | None, identity: TokenSource
    ) -> None:
        self._http = http
        self._name = name
        self._credentials = credentials
        self._identity = identity
        self._header = ""
        self._as_identity = False
        # Reading and writing are asked for apart: each scope once as the user, once as the identity.
        self._asked: set[str] = set()
        self._exchanged: set[str] = set()
        self._lock = trio.Lock()

    def headers(self) -> Mapping[str, str]:
        """What to send along, secret; nothing before a registry has asked."""
        return {"authorization": self._header} if self._header else {}

    async def answer(self, challenge: Challenge, tried: Mapping[str, str]) -> bool:
        """After a refusal: find something better than what was `tried`; False when there is nothing.

        Raises:
            ServiceError: the token service could not be reached or is not to be told a secret.
            IdentityError: no token of the managed identity could be had.
        """
        async with self._lock:
            if dict(self.headers()) != dict(tried):
                return True  # another request was quicker
            if challenge.scheme == "basic":
                return self._use_basic()
            if challenge.scheme == "bearer":
                return await self._use_bearer(challenge)
            return False

    def _use_basic(self) -> bool:
        if self._credentials is None or self._header:
            return False
        self._header = self._credentials.basic()
        return True

    async def _use_bearer(self, challenge: Challenge) -> bool:
        scope = challenge.scope or f"repository:{self._name.path}:pull"
        if scope not in self._asked and not self._as_identity:
            self._asked.add(scope)
            token = await self._fetch(challenge, scope)
            if token:
                self._header = f"Bearer {token}"
                return True
        audience = audience_of(self._name.host)
        if self._credentials is None and audience and scope not in self._exchanged:
            self._exchanged.add(scope)
            self._as_identity = True
            self._header = f"Bearer {await self._exchange(audience, scope)}"
            return True
        return False

    async def _fetch(self, challenge: Challenge, scope: str) -> str:
        """A token of the registry's token service; empty when it refuses."""
        _check_safe(challenge.realm, self._name)
        login = self._credentials
        if login is not None and login.identity_token:
            body = {
                "grant_type": "refresh_token",
                "service": challenge.service,
                "scope": scope,
                "client_id": _CLIENT,
                "refresh_token": login.identity_token,
            }
            return _token_in(await self._post(challenge.realm, body))
        query = urlencode({"service": challenge.service, "scope": scope})
        separator = "&" if "?" in challenge.realm else "?"
        headers = {} if login is None else {"authorization": login.basic()}
        return _token_in(
            await self._http.send("GET", f"{challenge.realm}{separator}{query}", headers=headers)
        )

    async def _exchange(self, audience: str, scope: str) -> str:
        """A token for a managed identity: its Entra token buys a refresh token, that an access token."""
        host = self._name.host
        entra = await self._identity.access_token(audience)
        form = {"grant_type": "access_token", "service": host, "access_token": entra.text}
        refresh = _member(await self._post(f"https://{host}/oauth2/exchange", form), "refresh_token")
        if not refresh:
            raise ServiceError(
                f"registry {host}: refused the identity's token",
                hint="give the identity the role AcrPull on the registry",
            )
        form = {"grant_type": "refresh_token", "service": host, "scope": scope, "refresh_token": refresh}
        return _member(await self._post(f"https://{host}/oauth2/token", form), "access_token")

    async def _post(self, url: str, form: Mapping[str, str]) -> Response:
        return await self._http.send("POST", url, headers=_FORM, body=urlencode(form).encode())


def _check_safe(realm: str, name: RegistryName) -> None:
    if not realm.startswith("https://") and not (realm.startswith("http://") and is_loopback(realm)):
        raise ServiceError(
            f"registry {name.host}: its token service {realm[:200]!r} is not spoken to over TLS"
        )


def _token_in(answer: Response) -> str:
    return _member(answer, "token") or _member(answer, "access_token")


def _member(answer: Response, key: str) -> str:
    if answer.status != 200:
        log.debug("token service: status %d", answer.status)
        return ""
    what = "answer of the token service"
    token = optional_text(load_object(answer.body, what=what), key, what) or ""
    # It becomes part of a header.
    return token if token.isascii() and token.isprintable() else ""
