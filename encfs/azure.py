"""The only bridge to `sidecar`: a key source that attests and releases, tokens and TLS for blobs.

Its errors are put into our words. A bearer token is only ever made for a host on the allow-list.

Kind: composition
"""

from __future__ import annotations

import os
import ssl
from collections.abc import Mapping
from pathlib import Path

from encfs import errors as ours
from encfs.config import MAX_CONFIG, KeyConfig, parse_key_config
from encfs.keys import Secret, passphrase_from_jwk
from sidecar import errors as theirs
from sidecar.client import ReleaseSettings, release
from sidecar.hosts import Hosts
from sidecar.http import CA_VARIABLE, tls_context
from sidecar.identity import TokenSource, choose_identity

# The most specific class first.
_SAME = (
    (theirs.ReleaseRefused, ours.ReleaseRefused),
    (theirs.AttestationRefused, ours.AttestationRefused),
    (theirs.ReportUnavailable, ours.ReportUnavailable),
    (theirs.HostNotAllowed, ours.HostNotAllowed),
    (theirs.UsageError, ours.UsageError),
)
# Settings that identity, allow-list and trust are read from; some may be secret.
_STORE_PREFIXES = ("AZURE_", "IDENTITY_", "MSI_", "IMDS_", "SIDECAR_CA_", "SIDECAR_ALLOWED_")


class ReleasedKeySource:
    """A key that a vault releases under attestation of this machine."""

    def __init__(self, config: KeyConfig) -> None:
        self.config = config

    async def passphrase(self) -> Secret:
        """Attest, release, derive; see `KeySource`."""
        config = self.config
        settings = ReleaseSettings(config.maa_endpoint, config.akv_endpoint, config.kid)
        try:
            released = await release(settings, os.environ)
        except theirs.SidecarError as exc:
            raise _translated(exc) from exc
        return passphrase_from_jwk(released.jwk(), config.salt, config.label)


def released_key_source(path: Path) -> ReleasedKeySource:
    """A key source from a key configuration file.

    Raises:
        UsageError: the file cannot be read or is wrong.
    """
    try:
        with path.open("rb") as file:
            data = file.read(MAX_CONFIG + 1)
    except OSError as exc:
        raise ours.UsageError(f"key configuration {path}: {exc.strerror}") from exc
    return ReleasedKeySource(parse_key_config(data, f"key configuration {path}"))


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
    return BlobIdentity(choose_identity(environ, client_id=client_id), checked.audience)


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
    return {name: value for name, value in environ.items() if name.startswith(_STORE_PREFIXES)}


def _translated(exc: theirs.SidecarError, what: str = "key release") -> ours.EncfsError:
    kind = next((our for their, our in _SAME if isinstance(exc, their)), ours.KeyUnavailable)
    return kind(f"{what}: {exc}", hint=exc.hint)
