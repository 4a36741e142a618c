"""Key management bodies: both directions, both base64 alphabets, and the clients' odd spellings."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from fakes import pki

from sidecar.akvkeys import (
    CONTENT_TYPE,
    Attributes,
    CreateRequest,
    ImportRequest,
    PolicyEnvelope,
    UpdateRequest,
    parse_attributes,
    parse_create_request,
    parse_envelope,
    parse_import_request,
    parse_key_bundle,
    parse_key_list,
    parse_update_request,
)
from sidecar.errors import MalformedInput
from sidecar.jwk import jwk_of_private, jwk_of_public, jwk_of_secret
from sidecar.releasepolicy import build_policy

POLICY = build_policy(["https://a.example"], [[("x-ms-attestation-type", "sevsnpvm>>>???")]])
ENVELOPE = PolicyEnvelope.of(POLICY)
ATTRIBUTES = Attributes(enabled=True, exportable=True, nbf=1, exp=2)


@pytest.mark.parametrize(
    "value",
    [
        ImportRequest(jwk_of_private(pki.rsa_key(), kty="RSA-HSM"), True, ATTRIBUTES, {"a": "b"}, ENVELOPE),
        ImportRequest(jwk_of_secret(b"x" * 32, kty="oct-HSM")),
    ],
)
def test_import_round_trip(value: ImportRequest) -> None:
    assert parse_import_request(value.to_bytes()) == value


def test_create_and_update_round_trip() -> None:
    create = CreateRequest("EC-HSM", None, None, "P-256", ("sign",), ATTRIBUTES, {"t": "1"}, ENVELOPE)
    assert parse_create_request(create.to_bytes()) == create
    rsa = CreateRequest("RSA", 3072, 65537)
    assert parse_create_request(rsa.to_bytes()) == rsa
    update = UpdateRequest(("sign",), Attributes(enabled=False), {"t": "2"}, ENVELOPE)
    assert parse_update_request(update.to_bytes()) == update
    assert parse_update_request(b"{}") == UpdateRequest()


@pytest.mark.parametrize("name", ["hsm", "Hsm"])
def test_both_spellings_of_the_flag(name: str) -> None:
    body = json.loads(ImportRequest(jwk_of_secret(b"x" * 32)).to_bytes()) | {name: True, "unknown": 1}
    assert parse_import_request(json.dumps(body).encode()).hsm is True


@pytest.mark.parametrize("encode", [base64.urlsafe_b64encode, base64.standard_b64encode])
@pytest.mark.parametrize("padded", [True, False])
def test_policy_data_in_either_alphabet(encode: Any, padded: bool) -> None:
    data = b'{"x":"' + bytes([0x3E, 0x3F]) * 9 + b'"}'
    text = encode(data).decode() if padded else encode(data).decode().rstrip("=")
    envelope = parse_envelope({"data": text})
    assert envelope.data == data
    assert envelope.content_type == CONTENT_TYPE
    assert envelope.immutable is False


def test_policy_inside_is_read_strictly() -> None:
    assert ENVELOPE.policy() == POLICY
    with pytest.raises(MalformedInput):
        parse_envelope({"data": ""}).policy()


@pytest.mark.parametrize(
    ("parse", "body"),
    [
        (parse_import_request, {"key": jwk_of_public(pki.rsa_key().public_key()).to_dict()}),
        (parse_import_request, {}),
        (parse_import_request, {"key": {"kty": "oct", "k": "AA"}, "hsm": "true"}),
        (parse_import_request, {"key": {"kty": "oct", "k": "AA"}, "attributes": {"enabled": 1}}),
        (parse_import_request, {"key": {"kty": "oct", "k": "AA"}, "tags": {str(i): "x" for i in range(16)}}),
        (parse_import_request, {"key": {"kty": "oct", "k": "AA"}, "tags": {"a": 5}}),
        (parse_import_request, {"key": {"kty": "oct", "k": "AA"}, "release_policy": "x"}),
        (parse_import_request, {"key": {"kty": "oct", "k": "AA"}, "release_policy": {"data": 5}}),
        (parse_create_request, {}),
        (parse_create_request, {"kty": "RSA", "key_size": "2048"}),
        (parse_update_request, {"key_ops": "sign"}),
        (parse_update_request, {"attributes": {"exp": 1.5}}),
    ],
)
def test_requests_refused(parse: Any, body: dict[str, Any]) -> None:
    with pytest.raises(MalformedInput):
        parse(json.dumps(body).encode())


def test_bundle_of_the_vault() -> None:
    """Field order and types after a recorded answer."""
    kid = "https://v.vault.azure.net/keys/disk/0123456789abcdef0123456789abcdef"
    key = jwk_of_public(pki.rsa_key().public_key()).to_dict() | {"kty": "RSA-HSM", "e": "AAEAAQ", "kid": kid}
    attributes = {
        "enabled": True,
        "created": 1,
        "updated": 2,
        "recoveryLevel": "CustomizedRecoverable+Purgeable",
        "recoverableDays": 7,
        "exportable": True,
    }
    body = {
        "key": key,
        "attributes": attributes,
        "tags": {},
        "release_policy": {"contentType": CONTENT_TYPE, "data": "e30", "immutable": False},
        "recoveryId": "x",
        "deletedDate": 5,
    }
    bundle = parse_key_bundle(json.dumps(body).encode())
    assert bundle.kid == kid
    assert bundle.key.public_key() == pki.rsa_key().public_key()
    assert bundle.attributes.to_dict() == attributes
    assert list(bundle.attributes.to_dict()) == list(attributes)
    assert bundle.release_policy is not None
    assert bundle.release_policy.to_dict() == body["release_policy"]
    assert bundle.deleted == {"recoveryId": "x", "deletedDate": 5}


def test_bundle_with_private_members_keeps_none() -> None:
    key = jwk_of_private(pki.rsa_key()).to_dict(private=True) | {"kid": "https://h/keys/a"}
    assert parse_key_bundle(json.dumps({"key": key}).encode()).key.secret == {}


def test_symmetric_bundle_has_no_material() -> None:
    body = {"key": {"kid": "https://h/keys/a", "kty": "oct-HSM", "key_ops": ["wrapKey"]}}
    assert parse_key_bundle(json.dumps(body).encode()).key.family == "oct"


def test_list_pages() -> None:
    item = {"kid": "https://h/keys/a", "attributes": {"enabled": True}, "tags": {"a": "b"}}
    items, link = parse_key_list(json.dumps({"value": [item], "nextLink": "https://h/keys?x"}).encode())
    assert items[0].kid == "https://h/keys/a"
    assert items[0].tags == {"a": "b"}
    assert link == "https://h/keys?x"
    assert parse_key_list(b'{"value":[],"nextLink":null}') == ((), None)
    assert parse_key_list(b'{"value":[]}') == ((), None)
    for body in (b"{}", b'{"value":[1]}', b'{"value":[{}]}', b'{"value":[],"nextLink":5}'):
        with pytest.raises(MalformedInput):
            parse_key_list(body)


def test_attributes_merge_what_is_said() -> None:
    old = parse_attributes({"enabled": True, "created": 1, "exp": 9})
    new = old.merged(Attributes(enabled=False, nbf=3, created=77))
    assert (new.enabled, new.created, new.nbf, new.exp) == (False, 1, 3, 9)
    assert parse_attributes(None) == Attributes()
