"""The only bridge to `sidecar`: a key source that attests and releases, tokens and TLS for blobs.

Its errors are put into our words. A bearer token is only ever made for a host on the allow-list.

Kind: composition
"""

from __future__ import annotations

import os
import socket
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import trio

from encfs import errors as ours
from encfs.config import MAX_CONFIG, KeyConfig, parse_key_config
from encfs.keys import Secret, passphrase_from_jwk
from sidecar import errors as theirs
from sidecar.hosts import Hosts
from sidecar.http import CA_VARIABLE, tls_context
from sidecar.identities import IdentitySettings
from sidecar.identity import TokenSource, choose_identity
from sidecar.redact import redact as redact
from sidecar.web import Handler
from sidecar.web import Router as Router
from sidecar.web import WebRequest as WebRequest
from sidecar.web import WebResponse as WebResponse
from sidecar.web import json_response as json_response

if TYPE_CHECKING:
    from encfs.settings import CertCache
    from sidecar.client import ReleaseClient
    from sidecar.services import Vault

# The most specific class first.
_SAME = (
    (theirs.ReleaseRefused, ours.ReleaseRefused),
    (theirs.AttestationRefused, ours.AttestationRefused),
    (theirs.ReportUnavailable, ours.ReportUnavailable),
    (theirs.HostNotAllowed, ours.HostNotAllowed),
    (theirs.UsageError, ours.UsageError),
)
# Settings that identity, allow-list and trust are read from; some may be secret.
_STORE_PREFIXES = ("AZURE_", "IDENTITY_", "MSI_", "IMDS_", "SIDECAR_CA_", "SIDECAR_ALLOWED_", "SSL_CERT_")
_STORE_NAMES = {"HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "REQUESTS_CA_BUNDLE"}  # what azure-identity reads


class ReleasedKeySource:
    """A key that a vault releases under attestation of this machine."""

    def __init__(self, config: KeyConfig) -> None:
        self.config = config

    async def passphrase(self) -> Secret:
        """Attest, release, derive; see `KeySource`."""
        from sidecar.client import ReleaseSettings, release  # a driver, which only wants tokens, goes without

        config = self.config
        settings = ReleaseSettings(config.maa_endpoint, config.akv_endpoint, config.kid)
        try:
            released = await release(settings, os.environ)
        except theirs.SidecarError as exc:
            raise _translated(exc) from exc
        return passphrase_from_jwk(released.jwk(), config.salt, config.label)


class VaultAnchor:
    """An anchor in a tag of the volume's own key; see `encfs.anchoring.AnchorStore`.

    Args:
        config: which key.
        environ: identity, allow-list and trust.
        client_id: of the managed identity, where there are several.
        access_token: the vault's token, secret, in place of this machine's identity.
    """

    def __init__(
        self, config: KeyConfig, environ: Mapping[str, str], *, client_id: str = "", access_token: str = ""
    ) -> None:
        self._config = config
        self._environ = environ
        self._client_id = client_id
        self._access_token = access_token

    async def read(self, volume: str) -> str | None:
        from sidecar.keytags import read_tag

        async with self._vault() as vault:
            return await read_tag(vault, self._config.kid, f"encfs-anchor-{volume}")

    async def write(self, volume: str, text: str) -> None:
        from sidecar.keytags import write_tag

        async with self._vault() as vault:
            await write_tag(vault, self._config.kid, f"encfs-anchor-{volume}", text)

    @asynccontextmanager
    async def _vault(self) -> AsyncIterator[Vault]:
        from sidecar.config import SidecarSettings
        from sidecar.services import open_services

        settings = SidecarSettings(identity=IdentitySettings(client_id=self._client_id))
        try:
            async with open_services(self._environ, settings, access_token=self._access_token) as services:
                yield services.vault(self._config.akv_endpoint)
        except theirs.SidecarError as exc:
            raise _translated(exc) from exc


class KeyReleaser:
    """Releases the keys of several volumes: one guest, one set of services, tokens used again.

    Use as an async context manager. What it needs is opened when the first key is asked for.

    Args:
        environ: identity, allow-list, trust, and the report source.
        client_id: of the managed identity, where there are several.
        certcache: a certificate service to ask first.
    """

    def __init__(self, environ: Mapping[str, str], *, client_id: str, certcache: CertCache) -> None:
        self._environ = environ
        self._client_id = client_id
        self._certcache = certcache
        self._stack = AsyncExitStack()
        self._client: ReleaseClient | None = None
        self._opening = trio.Lock()

    async def __aenter__(self) -> KeyReleaser:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._stack.aclose()

    async def passphrase(self, config: KeyConfig, *, access_token: str = "") -> Secret:
        """Attest, release, derive.

        Args:
            config: which key, and how the passphrase comes from it.
            access_token: the vault's token, secret, in place of this machine's identity.

        Raises:
            KeyUnavailable: it could not be had; says why.
            UsageError: a host is not allowed, or a setting is wrong; nothing was sent.
        """
        try:
            client = await self._opened()
            released = await client.release(
                config.maa_endpoint, config.akv_endpoint, config.kid, access_token=access_token
            )
        except theirs.SidecarError as exc:
            raise _translated(exc) from exc
        return passphrase_from_jwk(released.jwk(), config.salt, config.label)

    async def _opened(self) -> ReleaseClient:
        from sidecar.client import open_client
        from sidecar.config import SidecarSettings
        from sidecar.snp.endpoints import CertificateEndpoint, EndpointKind

        async with self._opening:
            if self._client is None:
                cache = self._certcache
                endpoint = None
                if cache.endpoint_type:
                    endpoint = CertificateEndpoint(
                        EndpointKind(cache.endpoint_type),
                        cache.endpoint,
                        cache.tee_type,
                        cache.api_version,
                        cache.client_id,
                    )
                settings = SidecarSettings(endpoint, IdentitySettings(client_id=self._client_id))
                self._client = await self._stack.enter_async_context(open_client(self._environ, settings))
            return self._client


def released_key_source(path: Path) -> ReleasedKeySource:
    """A key source from a key configuration file.

    Raises:
        UsageError: the file cannot be read or is wrong.
    """
    return ReleasedKeySource(_read_key_config(path))


def vault_anchor(path: Path) -> VaultAnchor:
    """The anchor in a tag of the key that a key configuration file names.

    Raises:
        UsageError: the file cannot be read or is wrong.
    """
    return VaultAnchor(_read_key_config(path), os.environ)


def _read_key_config(path: Path) -> KeyConfig:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_CONFIG + 1)
    except OSError as exc:
        raise ours.UsageError(f"key configuration {path}: {exc.strerror}") from exc
    return parse_key_config(data, f"key configuration {path}")


class BlobIdentity:
    """Bearer tokens for one blob account; `BlobTokens` of `encfs.block.blobhttp`."""

    def __init__(self, source: TokenSource, audience: str) -> None:
        self._source = source
        self._audience = audience

    async def token(self) -> str:
        """A token, secret; from the cache until five minutes before it expires.

        Raises:
            AccessDenied: none could be had.
        """
        try:
            return (await self._source.access_token(self._audience)).text
        except theirs.SidecarError as exc:
            raise ours.AccessDenied(f"image: {exc}", hint=exc.hint) from exc

    def forget(self) -> None:
        """Drop the token: the store did not accept it."""
        self._source.forget(self._audience)

    def expires_at(self) -> int:
        """When the token at hand expires, Unix seconds; 0 when there is none."""
        return self._source.expiries().get(self._audience, 0)


def blob_identity(host: str, environ: Mapping[str, str], *, client_id: str = "") -> BlobIdentity:
    """Tokens for a blob account, once its host is found on the allow-list.

    Args:
        host: `name[:port]`.
        environ: allow-list and identity settings.
        client_id: of the managed identity, where there are several.

    Raises:
        HostNotAllowed: the host is none of Azure's, and not listed; no token was fetched.
    """
    try:
        checked = Hosts.of(environ).blob(host)
    except theirs.SidecarError as exc:
        raise _translated(exc, "image") from exc
    return BlobIdentity(choose_identity(environ, IdentitySettings(client_id=client_id)), checked.audience)


def blob_tls(environ: Mapping[str, str]) -> ssl.SSLContext:
    """What a store's certificate must lead to: the system's roots, and those of SIDECAR_CA_FILE.

    Raises:
        UsageError: that file cannot be used.
    """
    ca_file = environ.get(CA_VARIABLE)
    try:
        return tls_context(Path(ca_file) if ca_file else None)
    except theirs.SidecarError as exc:
        raise _translated(exc, "image") from exc


def store_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """The part of an environment that `blob_identity` and `blob_tls` read; may hold secrets."""
    return {
        name: value
        for name, value in environ.items()
        if name.startswith(_STORE_PREFIXES) or name.upper() in _STORE_NAMES
    }


def listen_on_loopback(port: int) -> socket.socket:
    """A bound TCP socket on 127.0.0.1; port 0 for any free one.

    Raises:
        UsageError: the port is taken.
    """
    from sidecar.server import bind_loopback  # what a driver need not load

    try:
        return bind_loopback("127.0.0.1", port)
    except theirs.SidecarError as exc:
        raise ours.UsageError(str(exc), hint=exc.hint) from exc


async def serve_http(handler: Handler, bound: socket.socket) -> None:
    """Serve a handler on a bound socket until cancelled; errors of the protocol are JSON too."""
    from sidecar.asgi import asgi_app
    from sidecar.server import serve_asgi

    def refuse(status: int, code: str, message: str) -> WebResponse:
        return json_response({"error": message, "code": code}, status)

    await serve_asgi(asgi_app(handler, max_body=64 << 10, refuse=refuse), sockets=[bound])


def _translated(exc: theirs.SidecarError, what: str = "key release") -> ours.EncfsError:
    kind = next((our for their, our in _SAME if isinstance(exc, their)), ours.KeyUnavailable)
    return kind(f"{what}: {exc}", hint=exc.hint)
