"""The agent's settings: the predecessor's contract, our members, and every mistake at once."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from encfs.block.bloburl import BlobUrl
from encfs.config import KeyConfig
from encfs.errors import UsageError
from encfs.settings import CertCache
from encfs.settingsparse import parse_settings

# As in the predecessor's README and tests: every member it has.
CONTRACT: dict[str, Any] = {
    "azure_info": {
        "certcache": {
            "endpoint_type": "LocalTHIM",
            "endpoint": "169.254.169.254/metadata/THIM/amd/certification",
            "tee_type": "SevSnpVM",
            "api_version": "api-version=2020-10-15-preview",
            "client_id": "clientId=me",
        },
        "identity": {"client_id": "11111111-2222-3333-4444-555555555555"},
    },
    "azure_filesystems": [
        {
            "azure_url": "https://account.blob.core.windows.net/container/encfs.img",
            "azure_url_private": True,
            "read_write": True,
            "mount_point": "/mnt/remote/share/",
            "key": {
                "kid": "doc-sample-key-release",
                "kty": "RSA-HSM",
                "key_ops": ["encrypt", "decrypt"],
                "authority": {"endpoint": "sharedeus2.eus2.attest.azure.net", "tee_type": "SevSnpVM"},
                "akv": {
                    "endpoint": "myvault.managedhsm.azure.net",
                    "api_version": "api-version=7.3-preview",
                    "bearer_token": "eyJsecret",
                },
            },
            "key_derivation": {"salt": "9b4a", "label": "Model Encryption Key"},
        }
    ],
}
LOCAL: dict[str, Any] = {
    "image": "/images/a.img",
    "mount_point": "/mnt/a",
    "key_url": "https://v.vault.azure.net/keys/name/abc123",
    "maa_endpoint": "m.attest.azure.net",
}


def encoded(value: object, *, url_safe: bool = False, padded: bool = True) -> str:
    data = json.dumps(value).encode()
    text = (base64.urlsafe_b64encode if url_safe else base64.b64encode)(data).decode()
    return text if padded else text.rstrip("=")


def volume(**changes: Any) -> str:
    """Settings with one local volume; a member set to None is left out."""
    members = {name: value for name, value in (LOCAL | changes).items() if value is not None}
    return json.dumps({"azure_filesystems": [members]})


@pytest.mark.parametrize("url_safe", [False, True])
@pytest.mark.parametrize("padded", [False, True])
def test_the_whole_contract_in_both_alphabets(url_safe: bool, padded: bool) -> None:
    text = encoded(CONTRACT | {"x": "??>>"}, url_safe=url_safe, padded=padded)
    assert any(mark in text for mark in ("-_" if url_safe else "+/"))
    settings = parse_settings(text)
    (found,) = settings.volumes
    assert found.image == BlobUrl("https", "account.blob.core.windows.net", "/container/encfs.img")
    assert (found.mount_point, found.read_write, found.private) == ("/mnt/remote/share", True, True)
    assert found.key == KeyConfig(
        "doc-sample-key-release",
        "sharedeus2.eus2.attest.azure.net",
        "myvault.managedhsm.azure.net",
        bytes.fromhex("9b4a"),
        "Model Encryption Key",
    )
    assert found.bearer_token == "eyJsecret"
    assert "eyJsecret" not in repr(settings)
    assert found.client_id.startswith("1111")
    assert settings.certcache == CertCache(
        *("LocalTHIM", "169.254.169.254/metadata/THIM/amd/certification", "SevSnpVM"),
        *("api-version=2020-10-15-preview", "clientId=me"),
    )
    assert settings.warnings == ("x: unknown, ignored",)


def test_local_images_and_key_urls() -> None:
    (found,) = parse_settings(volume()).volumes
    assert (found.image, found.read_write) == ("/images/a.img", False)
    assert found.key == KeyConfig("name/abc123", "m.attest.azure.net", "v.vault.azure.net")


def test_names_match_in_any_case_and_null_is_absent() -> None:
    text = volume().replace("mount_point", "Mount_Point").replace('"image"', '"header": null, "IMAGE"')
    assert parse_settings(text).volumes[0].mount_point == "/mnt/a"


def test_unknown_members_are_named_wherever_they_are() -> None:
    changed = json.loads(json.dumps(CONTRACT))
    changed["azure_filesystems"][0]["key"]["akv"]["endpont"] = "typo"
    changed["azure_filesystems"][0]["mountpoint"] = "/x"
    changed["azure_info"]["certcache"]["ttl"] = 5
    assert set(parse_settings(json.dumps(changed)).warnings) == {
        "azure_filesystems[0].key.akv.endpont: unknown, ignored",
        "azure_filesystems[0].mountpoint: unknown, ignored",
        "azure_info.certcache.ttl: unknown, ignored",
    }


def test_all_mistakes_in_one_message() -> None:
    bad = {
        "azure_info": {"certcache": {"endpoint_type": "Other"}},
        "azure_filesystems": [
            {
                "azure_url": "ftp://x/y/z",
                "mount_point": "relative",
                "key": {"kty": "EC"},
                "read_write": "yes",
            },
            {"image": "b.img", "azure_url_private": True, "key_derivation": {"salt": "xyz"}},
        ],
    }
    with pytest.raises(UsageError) as caught:
        parse_settings(encoded(bad))
    text = str(caught.value)
    for part in (
        "certcache.endpoint_type: 'Other'",
        "[0].azure_url: not an address",
        "[0].mount_point: 'relative'",
        "[0].key.kid: missing",
        "[0].key.kty: 'EC'",
        "[0].key.authority.endpoint: missing",
        "[0].key.akv.endpoint: missing",
        "[0].read_write: a string",
        "[1].image: 'b.img' is a relative path",
        "[1].azure_url_private: true for a local image",
        "[1].mount_point: missing",
        "[1].key: missing",
        "[1].key_derivation.salt: not hex digits",
    ):
        assert part in text
    assert text.startswith("EncfsSideCarArgs: 13 mistakes: ")
    assert "--check" in caught.value.hint


@pytest.mark.parametrize(
    ("changes", "wanted"),
    [
        ({"mount_point": "/mnt/.filesystem-3"}, "the agent's own"),
        ({"mount_point": "/x/.."}, "below the root"),
        ({"image": None}, "either azure_url or image"),
        ({"azure_url": "https://a.b/c/d"}, "either azure_url or image"),
        ({"image": "http://elsewhere.example/c/d"}, "plain http"),
        (
            {"image": None, "azure_url": "https://a.b/c/d?sv=1&sig=c2VjcmV0", "azure_url_private": True},
            "one of",
        ),
        ({"key_url": "https://v/keys/name?x=1"}, "not a key's address"),
        ({"key_url": "https://v/secrets/name"}, "not a key's address"),
        ({"key_url": "http://v/keys/name"}, "not a key's address"),
        ({"maa_endpoint": "https://m.attest.azure.net"}, "without https://"),
        ({"key": {}}, "given beside key"),
        ({"key_url": None, "raw_key": "00" * 32}, "--insecure-raw-key"),
        ({"key": [1]}, "an array, wanted an object"),
        ({"cache_size": "1M"}, "at least 16777216"),
        ({"take_over": True}, "it is for blobs"),
    ],
)
def test_what_is_refused(changes: dict[str, Any], wanted: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_settings(volume(**changes))
    assert wanted in str(caught.value)
    assert "c2VjcmV0" not in str(caught.value)


def test_volumes_must_not_collide() -> None:
    def refused(*changes: dict[str, Any]) -> str:
        with pytest.raises(UsageError) as caught:
            parse_settings(json.dumps({"azure_filesystems": [LOCAL | change for change in changes]}))
        return str(caught.value)

    assert "[1].mount_point: the same as azure_filesystems[0]" in refused({}, {"image": "/b"})
    assert "[1].mount_point: inside" in refused({}, {"image": "/b", "mount_point": "/mnt/a/b"})
    assert "[0].mount_point: inside" in refused({}, {"image": "/b", "mount_point": "/mnt"})
    assert "the same image" in refused({"read_write": True}, {"mount_point": "/mnt/b"})
    shared = [LOCAL, LOCAL | {"mount_point": "/mnt/b"}]
    assert len(parse_settings(json.dumps({"azure_filesystems": shared})).volumes) == 2


def test_a_raw_key_only_behind_its_flag() -> None:
    hidden = parse_settings(volume(raw_key="ab" * 32))
    assert hidden.volumes[0].raw_key is None
    assert hidden.volumes[0].key is not None
    assert "ignored, without --insecure-raw-key" in hidden.warnings[0]
    shown = parse_settings(volume(raw_key="ab" * 32, key_url=None, maa_endpoint=None), allow_raw_key=True)
    assert shown.volumes[0].raw_key is not None
    assert shown.volumes[0].raw_key.reveal() == b"\xab" * 32
    assert shown.volumes[0].key is None
    assert "no attestation protects it" in shown.warnings[0]
    assert "abab" not in repr(shown)
    with pytest.raises(UsageError) as caught:
        parse_settings(volume(raw_key="abcd"), allow_raw_key=True)
    assert "abcd" not in str(caught.value)


@pytest.mark.parametrize(
    "text", ["", "  ", "!!!", encoded([1]), encoded({}), "e30", '{"a":1,"a":2}', "{" * 99]
)
def test_no_settings_at_all(text: str) -> None:
    with pytest.raises(UsageError, match="EncfsSideCarArgs"):
        parse_settings(text)


# Names that steer a random document into the reader's deeper parts.
NAMES = (
    *("azure_info", "certcache", "azure_filesystems", "image", "azure_url", "mount_point", "key", "kid"),
    *("akv", "endpoint", "key_url", "raw_key", "key_derivation", "salt", "cache_size"),
)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers(-9, 9) | st.text(max_size=6),
        lambda inner: (
            st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(NAMES), inner, max_size=5)
        ),
        max_leaves=20,
    )
)
def test_any_json_is_read_or_refused_in_words(value: object) -> None:
    refusal = ""
    try:
        parse_settings(json.dumps({"azure_filesystems": value}), allow_raw_key=True)
    except UsageError as exc:
        refusal = str(exc)
    assert not refusal or refusal.startswith("EncfsSideCarArgs: ")
