"""The bridge to the sidecar for blobs: whom tokens are made for, and what of the environment they need."""

from __future__ import annotations

from pathlib import Path

import pytest

from encfs.azure import BlobIdentity, blob_identity, blob_tls, store_environment
from encfs.errors import AccessDenied, HostNotAllowed, UsageError
from sidecar.errors import IdentityError
from sidecar.identity import AccessToken


class Source:
    """Tokens by number; none once `empty`."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.forgotten: list[str] = []
        self.empty = False

    async def access_token(self, audience: str) -> AccessToken:
        if self.empty:
            raise IdentityError("no identity here", hint="give it one")
        self.asked.append(audience)
        return AccessToken(f"token-{len(self.asked)}")

    def forget(self, audience: str) -> None:
        self.forgotten.append(audience)


async def test_tokens_are_for_storage_and_their_lack_is_said_in_our_words() -> None:
    source = Source()
    identity = BlobIdentity(source, "https://storage.azure.com")
    assert await identity.token() == "token-1"
    identity.forget()
    assert (source.asked, source.forgotten) == (["https://storage.azure.com"], ["https://storage.azure.com"])
    source.empty = True
    with pytest.raises(AccessDenied, match="no identity here") as caught:
        await identity.token()
    assert caught.value.hint == "give it one"


def test_no_identity_is_even_made_for_a_host_that_is_not_listed() -> None:
    for host in ("acct.evil.example", "acct.blob.core.windows.net.evil.example", "127.0.0.1:10000"):
        with pytest.raises(HostNotAllowed) as caught:
            blob_identity(host, {})
        assert caught.value.hint
    blob_identity("acct.blob.core.windows.net", {})
    blob_identity("127.0.0.1:10000", {"SIDECAR_ALLOWED_HOSTS": "127.0.0.1:10000"})


def test_a_trust_file_that_cannot_be_used(tmp_path: Path) -> None:
    blob_tls({})
    with pytest.raises(UsageError, match="CA file"):
        blob_tls({"SIDECAR_CA_FILE": str(tmp_path / "missing.pem")})


def test_only_what_a_store_needs_goes_to_a_driver() -> None:
    environ = {
        "AZURE_CLIENT_ID": "c",
        "IDENTITY_HEADER": "h",
        "SIDECAR_CA_FILE": "ca",
        "SIDECAR_ALLOWED_HOSTS": "x",
        "SSL_CERT_FILE": "roots",
        "https_proxy": "http://proxy",
        "SIDECAR_SNP": "software",
        "HOME": "/root",
        "PASSWORD": "p",
    }
    assert store_environment(environ).keys() == environ.keys() - {"SIDECAR_SNP", "HOME", "PASSWORD"}
