"""What the settings allow: exactly that, and nothing when a restriction is misspelt."""

from __future__ import annotations

import pytest

from sidecar.akv import parse_key_ref
from sidecar.allow import ANYTHING, parse_allowed
from sidecar.errors import ExitCode, HostNotAllowed, KeyNotAllowed, MalformedInput
from sidecar.hosts import Hosts
from sidecar.web import Peer

VERSION = "0123456789abcdef0123456789abcdef"
OTHER = "f" * 32
VAULT = Hosts.of({}).vault("v.vault.azure.net")
HSM = Hosts.of({}).vault("h.managedhsm.azure.net")


@pytest.mark.parametrize(
    ("rules", "kid", "vault", "granted"),
    [
        (None, "any", VAULT, True),
        ([], "any", VAULT, False),
        (["disk"], "disk", VAULT, True),
        (["disk"], "DISK", HSM, True),
        (["disk"], f"disk/{VERSION}", VAULT, True),
        (["disk"], "disk2", VAULT, False),
        ([f"disk/{VERSION}"], f"disk/{VERSION}", VAULT, True),
        ([f"disk/{VERSION}"], f"disk/{OTHER}", VAULT, False),
        ([f"disk/{VERSION}"], "disk", VAULT, False),
        (["https://v.vault.azure.net/keys/disk"], "disk", VAULT, True),
        (["https://V.vault.azure.net:443/keys/disk"], "disk", VAULT, True),
        (["https://v.vault.azure.net/keys/disk"], "disk", HSM, False),
        (["https://v.vault.azure.net:8443/keys/disk"], "disk", VAULT, False),
        (["a", "b"], "b", VAULT, True),
    ],
)
def test_keys(rules: list[str] | None, kid: str, vault: object, granted: bool) -> None:
    allowed = parse_allowed({} if rules is None else {"keys": rules})
    if granted:
        allowed.check_key(vault, parse_key_ref(kid))  # type: ignore[arg-type]
        return
    with pytest.raises(KeyNotAllowed) as caught:
        allowed.check_key(vault, parse_key_ref(kid))  # type: ignore[arg-type]
    assert caught.value.exit_code == ExitCode.KEY_NOT_ALLOWED
    assert caught.value.http_status == 403
    assert kid in str(caught.value)


@pytest.mark.parametrize(
    ("rules", "peer", "granted"),
    [
        (None, None, True),
        ([], Peer(1, 0, 0), False),
        ([{"uid": 1000}], None, False),
        ([{"uid": 1000}], Peer(1, 1000, 5), True),
        ([{"uid": 1000}], Peer(1, 0, 0), False),
        ([{"gid": 5}], Peer(1, 1000, 5), True),
        ([{"uid": 1000, "gid": 6}], Peer(1, 1000, 5), False),
        ([{"uid": 0}, {"gid": 5}], Peer(1, 7, 5), True),
    ],
)
def test_callers(rules: list[dict[str, int]] | None, peer: Peer | None, granted: bool) -> None:
    allowed = parse_allowed({} if rules is None else {"callers": rules})
    if granted:
        allowed.check_caller(peer)
    else:
        with pytest.raises(KeyNotAllowed):
            allowed.check_caller(peer)


@pytest.mark.parametrize(
    "value",
    [
        [],
        "keys",
        {"key": ["disk"]},
        {"keys": "disk"},
        {"keys": ["a/b/c"]},
        {"keys": [5]},
        {"keys": ["https://v.vault.azure.net/secrets/x"]},
        {"keys": ["http://v.vault.azure.net/keys/x"]},
        {"vaults": ["https://v.vault.azure.net"]},
        {"vaults": ["*"]},
        {"authorities": [None]},
        {"callers": [{}]},
        {"callers": [{"user": "root"}]},
        {"callers": [{"uid": "0"}]},
        {"callers": [{"uid": True}]},
        {"callers": [{"uid": -1}]},
        {"callers": [{"gid": 1 << 32}]},
        {"callers": [0]},
    ],
)
def test_a_restriction_that_is_not_understood_is_an_error(value: object) -> None:
    with pytest.raises(MalformedInput):
        parse_allowed(value)


def test_hosts_of_the_settings_replace_the_suffixes_and_join_the_variable() -> None:
    allowed = parse_allowed({"vaults": ["My.vault.azure.net", "x.example:8443"], "authorities": []})
    hosts = Hosts(vaults=allowed.vaults, authorities=allowed.authorities)
    assert hosts.vault("my.vault.azure.net").audience == "https://vault.azure.net"
    assert hosts.vault("x.example:8443").url == "https://x.example:8443"
    for refused in ("other.vault.azure.net", "x.example"):
        with pytest.raises(HostNotAllowed, match=r"my\.vault\.azure\.net"):
            hosts.vault(refused)
    with pytest.raises(HostNotAllowed, match="none"):
        hosts.authority("a.attest.azure.net")
    both = Hosts(exact=frozenset({"x.example:8443"}), vaults=allowed.vaults)
    assert both.vault("x.example:8443")
    with pytest.raises(HostNotAllowed):
        both.vault("my.vault.azure.net")


def test_anything_allows_what_nothing_forbids() -> None:
    ANYTHING.check_caller(None)
    ANYTHING.check_key(VAULT, parse_key_ref("x"))
