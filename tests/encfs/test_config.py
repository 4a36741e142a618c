"""The key configuration: what parses, and every mistake named at once."""

from __future__ import annotations

import json

import pytest

from encfs.config import KeyConfig, parse_key_config
from encfs.errors import UsageError

GOOD = {
    "key": {
        "kid": "data-key",
        "authority": {"endpoint": "shared.attest.azure.net"},
        "akv": {"endpoint": "x.vault.azure.net"},
    }
}


def test_smallest() -> None:
    config = parse_key_config(json.dumps(GOOD).encode())
    assert config == KeyConfig("data-key", "shared.attest.azure.net", "x.vault.azure.net")


def test_derivation() -> None:
    document = GOOD | {"key_derivation": {"salt": "00ff", "label": "disk"}}
    config = parse_key_config(json.dumps(document).encode())
    assert (config.salt, config.label) == (b"\x00\xff", "disk")


@pytest.mark.parametrize(
    ("document", "words"),
    [
        ({}, ["key is missing", "key.kid", "key.authority", "key.akv"]),
        ({"key": 5}, ["key is not an object"]),
        (GOOD | {"extra": 1}, ["unknown member 'extra'"]),
        (GOOD | {"key_derivation": {"salt": "xyz"}}, ["key_derivation.salt is not hex digits"]),
        (GOOD | {"key_derivation": {"salt": 5, "label": 7}}, ["salt is not hex", "label is not a string"]),
        (GOOD | {"key_derivation": [1]}, ["key_derivation is not an object"]),
    ],
)
def test_mistakes(document: dict[str, object], words: list[str]) -> None:
    with pytest.raises(UsageError) as caught:
        parse_key_config(json.dumps(document).encode(), "key.json")
    assert str(caught.value).startswith("key.json: ")
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize("data", [b"", b"[]", b"{", b'{"key":{},"key":{}}', b"\xff", b'"' + b"x" * 70000])
def test_not_json(data: bytes) -> None:
    with pytest.raises(UsageError, match="key configuration"):
        parse_key_config(data)
