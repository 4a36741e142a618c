"""Key files, JWKs and fingerprints."""

from __future__ import annotations

import base64
import copy
import json
import pickle
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from hypothesis import given
from hypothesis import strategies as st

from encfs.errors import KeyFileError, KeyUnavailable, KeyUnusable
from encfs.keys import (
    KeyFile,
    Secret,
    key_check_value,
    offered_fingerprint,
    parse_key_file,
    passphrase_from_jwk,
    read_key_file,
)

RAW = bytes(range(1, 33))
# First 8 bytes of HMAC-SHA-256 with key 01..20 over "attested-volumes key check value v1".
RAW_CHECK_VALUE = "dd5f5641f11ed078"


def b64u(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def oct_jwk(key: bytes = RAW) -> dict[str, Any]:
    return {"kty": "oct", "k": b64u(key), "key_ops": ["encrypt", "decrypt"]}


def test_secret_does_not_show_itself() -> None:
    secret = Secret(RAW, full_entropy=True)
    for shown in (repr(secret), str(secret), f"{secret}", f"{secret!r}", f"{[secret]}"):
        assert RAW.hex() not in shown
        assert repr(RAW) not in shown
        assert "32 bytes" in shown
    assert secret.reveal() == RAW


@pytest.mark.parametrize("leak", [pickle.dumps, copy.copy, copy.deepcopy])
def test_secret_is_not_copied_out(leak: Any) -> None:
    with pytest.raises(TypeError):
        leak(Secret(RAW))


def test_secret_compares_by_content_and_cannot_be_a_dictionary_key() -> None:
    assert Secret(RAW) == Secret(RAW)
    assert Secret(RAW) != Secret(RAW[:-1] + b"x")
    assert Secret(RAW) != RAW
    with pytest.raises(TypeError):
        hash(Secret(RAW))


def test_key_check_value_vector() -> None:
    assert key_check_value(parse_key_file(RAW)) == RAW_CHECK_VALUE


@pytest.mark.parametrize(
    ("data", "form"),
    [
        (RAW, "32 raw bytes"),
        (RAW.hex().encode(), "64 hex digits"),
        (RAW.hex().upper().encode() + b"\n", "64 hex digits"),
        (RAW.hex().encode() + b"\r\n", "64 hex digits"),
        (json.dumps(oct_jwk()).encode(), "JWK (oct)"),
        (json.dumps({"key": {**oct_jwk(), "kid": "https://v/keys/k/1"}}).encode() + b"\n", "JWK (oct)"),
    ],
)
def test_every_form_names_itself_and_gives_the_same_key(data: bytes, form: str) -> None:
    found = read_key_file(data)
    assert found == KeyFile(form, Secret(RAW))  # type: ignore[arg-type]
    assert key_check_value(found.passphrase) == RAW_CHECK_VALUE


@pytest.mark.parametrize(
    ("data", "hint"),
    [
        (b"", "head -c 32"),
        (RAW + b"\n", "one byte too many"),
        (base64.b64encode(RAW), "base64"),
        (RAW.hex().encode()[:-2], "62 hex digits"),
        (b"{", "looks like a JWK"),
        (b'{"kty":"oct","kty":"oct"}', "looks like a JWK"),
        (b"{" + b"[" * 100 + b"]" * 100 + b"}", "looks like a JWK"),
        (b"{" + b" " * 70_000 + b"}", "looks like a JWK"),
    ],
)
def test_a_file_that_is_no_key_is_refused_with_a_hint(data: bytes, hint: str) -> None:
    with pytest.raises(KeyFileError) as caught:
        parse_key_file(data)
    assert hint in caught.value.hint


@given(st.binary(max_size=100))
def test_any_file_gives_a_key_or_a_typed_error(data: bytes) -> None:
    try:
        assert len(parse_key_file(data)) == 32
    except KeyUnavailable:
        assert len(data) != 32


@pytest.mark.parametrize("key", [b"correct horse battery staple 123", bytes(32), b"\x01\x02" * 16])
def test_a_key_that_a_person_may_have_chosen_has_no_fingerprint(key: bytes) -> None:
    secret = parse_key_file(key)
    assert offered_fingerprint(secret) is None
    with pytest.raises(KeyUnusable):
        key_check_value(secret)


def test_rsa_goes_through_hkdf_as_in_the_predecessor() -> None:
    private = rsa.generate_private_key(public_exponent=65537, key_size=2048).private_numbers()
    exponent = private.d.to_bytes((private.d.bit_length() + 7) // 8, "big")
    salt = bytes(range(16))
    jwk = {"kty": "RSA-HSM", "d": b64u(exponent), "n": "AQ", "e": "AQAB"}
    derived = passphrase_from_jwk(jwk, salt)
    assert derived.reveal() == hkdf_by_hand(exponent, salt, b"Symmetric Encryption Key")
    # Leading zeros are no part of a number: a tool that pads d derives the same key.
    assert passphrase_from_jwk({**jwk, "d": b64u(b"\0\0" + exponent)}, salt) == derived
    labelled = passphrase_from_jwk(jwk, salt, "other")
    assert labelled.reveal() == hkdf_by_hand(exponent, salt, b"other")
    assert labelled != derived
    assert read_key_file(json.dumps(jwk).encode(), salt=salt).form == "JWK (RSA)"


def test_an_oct_key_is_used_as_it_is_whatever_the_derivation_says() -> None:
    assert passphrase_from_jwk(oct_jwk(), b"salt", "label").reveal() == RAW


def hkdf_by_hand(secret: bytes, salt: bytes, info: bytes) -> bytes:
    """RFC 5869 for one block of SHA-256, written out."""
    import hashlib
    import hmac

    extracted = hmac.new(salt, secret, hashlib.sha256).digest()
    return hmac.new(extracted, info + b"\x01", hashlib.sha256).digest()


@pytest.mark.parametrize(
    ("jwk", "salt", "message"),
    [
        ({"kty": "RSA", "d": b64u(bytes([1]) * 256)}, None, "without a derivation salt"),
        ({"kty": "RSA", "d": b64u(bytes([1]) * 256)}, b"", "without a derivation salt"),
        ({"kty": "RSA", "n": "AQ", "e": "AQAB"}, b"salt", "without member 'd'"),
        ({"kty": "RSA", "d": "AQ"}, b"salt", "exponent of 1 bytes"),
        ({"kty": "EC", "crv": "P-256", "d": "AQ"}, None, "key type 'EC'"),
        ({"kty": "oct", "k": b64u(RAW[:16])}, None, "oct key of 16 bytes"),
        ({"kty": "oct"}, None, "without member 'k'"),
        ({"kty": "oct", "k": "!!"}, None, "not base64url"),
        ({"kty": "oct", "k": "A"}, None, "not base64url"),
        ({"kty": 7}, None, "key type 'int'"),
        ({}, None, "key type"),
    ],
)
def test_a_jwk_that_is_no_passphrase_is_refused(
    jwk: dict[str, Any], salt: bytes | None, message: str
) -> None:
    with pytest.raises(KeyUnusable, match=message) as caught:
        passphrase_from_jwk(jwk, salt)
    assert b64u(RAW) not in str(caught.value)
