"""The allow-list: decided before anything is sent."""

from __future__ import annotations

import pytest

from sidecar.errors import HostNotAllowed, MalformedInput
from sidecar.hosts import STORAGE_AUDIENCE, Hosts, ServiceKind

AZURE = Hosts.of({})


@pytest.mark.parametrize(
    ("name", "kind", "audience"),
    [
        ("v.vault.azure.net", ServiceKind.VAULT, "https://vault.azure.net"),
        ("V.Vault.Azure.NET", ServiceKind.VAULT, "https://vault.azure.net"),
        ("h.managedhsm.azure.net", ServiceKind.MANAGED_HSM, "https://managedhsm.azure.net"),
        ("v.vault.azure.cn", ServiceKind.VAULT, "https://vault.azure.cn"),
        ("v.vault.usgovcloudapi.net", ServiceKind.VAULT, "https://vault.usgovcloudapi.net"),
        ("h.managedhsm.usgovcloudapi.net", ServiceKind.MANAGED_HSM, "https://managedhsm.usgovcloudapi.net"),
    ],
)
def test_azure_vaults(name: str, kind: ServiceKind, audience: str) -> None:
    host = AZURE.vault(name)
    assert (host.name, host.kind, host.audience) == (name.lower(), kind, audience)


@pytest.mark.parametrize(
    "name",
    [
        "evil.example",
        "vault.azure.net.evil.example",
        "evilvault.azure.net",
        "x.managedhsm.azure.net.evil.example",
        "v.vault.azure.net:8443",
        "sharedeus.eus.attest.azure.net",
        "localhost",
        "169.254.169.254",
    ],
)
def test_strangers_get_nothing(name: str) -> None:
    with pytest.raises(HostNotAllowed) as caught:
        AZURE.vault(name)
    assert caught.value.hint


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "https://v.vault.azure.net",
        "v.vault.azure.net/keys",
        "user@v.vault.azure.net",
        "v.vault.azure.net#",
        "v.vault.azure.net?x=.vault.azure.net",
        "v..vault.azure.net",
        "-v.vault.azure.net",
        "v.vault.azure.net:0",
        "v.vault.azure.net:123456",
        "v\n.vault.azure.net",
        "v.vault.azure.net\r\nx: y",
        "\u0432.vault.azure.net",
        "[::1]",
        "a" * 254,
    ],
)
def test_not_a_host(text: str) -> None:
    with pytest.raises((MalformedInput, HostNotAllowed)):
        AZURE.vault(text)


def test_exact_list_replaces_the_suffixes() -> None:
    hosts = Hosts.of(
        {"SIDECAR_ALLOWED_HOSTS": "localhost:1, localhost:2", "SIDECAR_MANAGED_HSM_HOSTS": "localhost:2"}
    )
    assert hosts.vault("LOCALHOST:1").kind is ServiceKind.VAULT
    assert hosts.vault("localhost:2").audience == "https://managedhsm.azure.net"
    assert hosts.authority("localhost:1").url == "https://localhost:1"
    for name in ("v.vault.azure.net", "localhost", "localhost:3"):
        with pytest.raises(HostNotAllowed):
            hosts.vault(name)


@pytest.mark.parametrize(
    "name",
    ["acct.blob.core.windows.net", "Acct.Blob.Core.Windows.NET", "a.blob.core.chinacloudapi.cn"],
)
def test_blob_accounts_have_one_audience_everywhere(name: str) -> None:
    host = AZURE.blob(name)
    assert (host.name, host.kind, host.audience) == (name.lower(), ServiceKind.BLOB, STORAGE_AUDIENCE)


@pytest.mark.parametrize(
    "name",
    [
        "acct.blob.core.windows.net.evil.example",
        "blob.core.windows.net",
        "v.vault.azure.net",
        "a.blob.core.windows.net:444",
        "localhost:10000",
    ],
)
def test_no_token_for_a_stranger_that_looks_like_a_blob_account(name: str) -> None:
    with pytest.raises((HostNotAllowed, MalformedInput)):
        AZURE.blob(name)
    listed = Hosts.of({"SIDECAR_ALLOWED_HOSTS": "localhost:10000"})
    assert listed.blob("localhost:10000").audience == STORAGE_AUDIENCE
