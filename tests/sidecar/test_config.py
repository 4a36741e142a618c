"""Settings: the predecessor's, in both alphabets, with what we added."""

from __future__ import annotations

import base64
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.config import (
    DEFAULTS,
    IdentityKind,
    IdentitySettings,
    SidecarSettings,
    parse_identity_kind,
    parse_settings,
)
from sidecar.errors import MalformedInput, SidecarError, UsageError
from sidecar.snp.endpoints import EndpointKind


def encoded(value: object, alphabet: str = "standard") -> str:
    data = json.dumps(value).encode()
    return (base64.b64encode if alphabet == "standard" else base64.urlsafe_b64encode)(data).decode()


# The shape of the predecessor's examples.
PREDECESSOR = {
    "certcache": {
        "endpoint_type": "AzCache",
        "endpoint": "americas.acccache.azure.net",
        "tee_type": "SevSnpVM",
        "api_version": "api-version=2020-10-15-preview",
        "client_id": "clientId=x",
    },
    "identity": {"client_id": "11111111-2222-3333-4444-555555555555"},
    "maaconfig": {"user_agent": "me?>~"},
    "something_else": {"ignored": True},
}


@pytest.mark.parametrize("alphabet", ["standard", "url"])
def test_the_predecessors_settings(alphabet: str) -> None:
    found = parse_settings(encoded(PREDECESSOR, alphabet))
    assert found.endpoint is not None
    assert found.endpoint.kind is EndpointKind.AZURE_CACHE
    assert found.endpoint.base == "https://americas.acccache.azure.net"
    assert found.endpoint.api_version == "api-version=2020-10-15-preview"
    assert found.identity == IdentitySettings(client_id="11111111-2222-3333-4444-555555555555")
    assert found.user_agent == "me?>~"
    assert found.allowed.keys is None


def test_the_json_itself_and_nothing_at_all() -> None:
    assert parse_settings(json.dumps(PREDECESSOR)) == parse_settings(encoded(PREDECESSOR))
    assert parse_settings("") == parse_settings(" \n") == parse_settings("e30=") == DEFAULTS
    assert parse_settings(encoded({"certcache": None, "identity": {}, "maaconfig": None})) == DEFAULTS


def test_wrapped_base64() -> None:
    text = encoded(PREDECESSOR)
    assert parse_settings("\n".join(text[i : i + 76] for i in range(0, len(text), 76)) + "\n").endpoint


@pytest.mark.parametrize(
    ("address", "kind"),
    [
        ("kdsintf.amd.com/vcek/v1", EndpointKind.AMD),
        ("169.254.169.254/metadata/THIM/amd/certification", EndpointKind.LOCAL_THIM),
        ("global.acccache.azure.net", EndpointKind.AZURE_CACHE),
    ],
)
def test_an_address_without_a_type(address: str, kind: EndpointKind) -> None:
    found = parse_settings(encoded({"certcache": {"endpoint": address}})).endpoint
    assert found is not None
    assert found.kind is kind


def test_what_we_added() -> None:
    found = parse_settings(
        encoded(
            {
                "identity": {"object_id": "o", "kind": "managed"},
                "allow": {"keys": ["disk"]},
                "wrapping_bits": 3072,
                "token_reuse_seconds": 0,
            }
        )
    )
    assert found.identity == IdentitySettings(IdentityKind.MANAGED, object_id="o")
    assert found.allowed.keys is not None
    assert (found.wrapping_bits, found.reuse_seconds) == (3072, 0)
    agent = parse_settings(encoded({"identity": {"client_id": "c"}})).user_agent
    assert agent == "ConfidentialSkrContainer client_id=c"


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ({"certcache": {"endpoint_type": "amd"}}, "endpoint_type"),
        ({"certcache": {"endpoint_type": 5}}, "endpoint_type"),
        ({"certcache": []}, "certcache"),
        ({"certcache": {"endpoint_type": "AMD", "endpoint": "http://kds.example"}}, "https"),
        ({"identity": {"client_id": 5}}, "client_id"),
        ({"identity": {"client_id": "a", "object_id": "b"}}, "wanted one of them"),
        ({"identity": {"client_id": "a", "kind": "cli"}}, "managed identity"),
        ({"identity": {"kind": "magic"}}, "magic"),
        ({"maaconfig": {"user_agent": "a\r\nX: y"}}, "user_agent"),
        ({"maaconfig": {"user_agent": "x" * 300}}, "user_agent"),
        ({"allow": {"keyz": []}}, "keyz"),
        ({"allow": None}, "allow"),
        ({"wrapping_bits": 1024}, "1024"),
        ({"wrapping_bits": "2048"}, "wrapping_bits"),
        ({"token_reuse_seconds": -1}, "-1"),
        ({"token_reuse_seconds": 90000}, "90000"),
        ([], "settings"),
    ],
)
def test_mistakes_are_named(value: object, words: str) -> None:
    with pytest.raises((MalformedInput, UsageError)) as caught:
        parse_settings(encoded(value))
    assert words in str(caught.value)


@pytest.mark.parametrize(
    "text", ["*", "eyJ", encoded({})[:-1] + "!", '{"a": 1, "a": 2}', "{", "bm90IGpzb24="]
)
def test_what_is_no_settings_text(text: str) -> None:
    with pytest.raises(MalformedInput):
        parse_settings(text)


def test_identity_words() -> None:
    assert parse_identity_kind("") is IdentityKind.AUTO
    assert parse_identity_kind("cli") is IdentityKind.CLI
    with pytest.raises(UsageError, match="workload"):
        parse_identity_kind("az")


@given(st.text(max_size=200) | st.binary(max_size=100).map(lambda b: base64.b64encode(b).decode()))
def test_only_our_errors_come_out(text: str) -> None:
    try:
        found = parse_settings(text)
    except SidecarError:
        return
    assert isinstance(found, SidecarSettings)
