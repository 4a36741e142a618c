"""JSON Web Keys: the RFC's thumbprint, both services' spellings, and keys that are none."""

from __future__ import annotations

import json
from typing import Any

import pytest
from fakes import pki

from sidecar.errors import MalformedInput
from sidecar.jose import b64u_decode, b64u_encode, x5c_of
from sidecar.jwk import (
    Jwk,
    jwk_of_private,
    jwk_of_public,
    jwk_of_secret,
    parse_jwk,
    parse_jwks,
)

# RFC 7638 section 3.1.
RFC7638_KEY = {
    "kty": "RSA",
    "n": (
        "0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_BJE"
        "CPebWKRXjBZCiFV4n3oknjhMstn64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_FDW2Q"
        "vzqY368QQMicAtaSqzs8KJZgnYb9c7d0zgdAZHzu6qMQvRL5hajrn1n91CbOpbISD08qNLyrdkt-bFTWhAI4vMQFh6"
        "WeZu0fM4lFd2NcRwr3XPksINHaQ-G_xBniIqbw0Ls1jF44-csFCur-kEgU8awapJzKnqDKgw"
    ),
    "e": "AQAB",
    "alg": "RS256",
    "kid": "2011-04-29",
}
RFC7638_THUMBPRINT = "NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs"


def test_published_thumbprint() -> None:
    assert parse_jwk(RFC7638_KEY).thumbprint() == RFC7638_THUMBPRINT


def test_both_services_spell_one_key() -> None:
    """The vault writes kty RSA-HSM and a four-byte exponent, the managed HSM RSA and three."""
    vault = RFC7638_KEY | {"kty": "RSA-HSM", "e": "AAEAAQ"}
    assert vault["e"] != RFC7638_KEY["e"]
    assert parse_jwk(vault).thumbprint() == RFC7638_THUMBPRINT
    assert parse_jwk(vault).family == "RSA"
    assert parse_jwk(vault).public_key() == parse_jwk(RFC7638_KEY).public_key()


@pytest.mark.parametrize(
    "key", [pki.rsa_key(), *(pki.ec_key(c) for c in ("P-256", "P-384", "P-521", "P-256K"))]
)
def test_private_keys_round_trip(key: Any) -> None:
    jwk = jwk_of_private(key, kid="k", key_ops=("sign",))
    again = parse_jwk(json.loads(json.dumps(jwk.to_dict(private=True))))
    assert again == jwk
    assert again.private_key().private_numbers() == key.private_numbers()
    assert again.public_key() == key.public_key()


def test_rsa_private_key_from_modulus_and_exponents_alone() -> None:
    full = jwk_of_private(pki.rsa_key()).to_dict(private=True)
    short = {name: full[name] for name in ("kty", "n", "e", "d")}
    assert parse_jwk(short).private_key().public_key() == pki.rsa_key().public_key()


def test_coordinates_keep_the_width_of_the_curve() -> None:
    full = jwk_of_public(pki.ec_key("P-521").public_key()).to_dict()
    assert len(b64u_decode(str(full["x"]))) == 66
    stripped = full | {"x": b64u_encode(b64u_decode(str(full["x"])).lstrip(b"\0"))}
    assert parse_jwk(stripped) == parse_jwk(full)


def test_secrets_stay_out_of_repr_and_public_form() -> None:
    for key in (jwk_of_private(pki.rsa_key()), jwk_of_private(pki.ec_key()), jwk_of_secret(b"s" * 32)):
        private = key.to_dict(private=True)
        for name in ("d", "p", "q", "dp", "dq", "qi", "k"):
            assert name not in key.to_dict()
            assert name not in key.public().to_dict(private=True)
            if name in private:
                assert str(private[name]) not in repr(key)
        assert "ssss" not in repr(key)


def test_symmetric_key_keeps_leading_zeros() -> None:
    secret = bytes(8) + b"x" * 24
    assert parse_jwk(jwk_of_secret(secret, kty="oct-HSM").to_dict(private=True)).secret["k"] == secret
    with pytest.raises(MalformedInput, match="would reveal it"):
        jwk_of_secret(secret).thumbprint()


def test_key_set_whose_keys_live_in_certificates() -> None:
    """The attestation authority publishes no n and e."""
    certificate = pki.self_signed().certificate
    item = {"alg": "RS256", "kid": "a=", "kty": "RSA", "use": "sig", "x5c": x5c_of([certificate])}
    unknown = {"kty": "OKP", "crv": "Ed25519", "x": "AA"}
    keys = parse_jwks(json.dumps({"keys": [unknown, item]}).encode())
    assert [k.kid for k in keys] == ["a="]
    assert keys[0].public_key() == certificate.public_key()


RSA = jwk_of_private(pki.rsa_key()).to_dict(private=True)
EC = jwk_of_private(pki.ec_key()).to_dict(private=True)


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ([], "is an array"),
        ({}, "member 'kty'"),
        (RSA | {"kty": "rsa"}, "kty is 'rsa'"),
        (RSA | {"kty": "RSA-HSM-HSM"}, "kty"),
        ({"kty": "RSA", "n": RSA["n"]}, "'e' is missing"),
        ({"kty": "RSA"}, "'n' is missing"),
        ({"kty": "RSA", "d": RSA["d"]}, "'n' is missing"),
        (RSA | {"n": "AQAB"}, "17 bits"),
        (RSA | {"n": b64u_encode(b"\xff" * 1025)}, "8200 bits"),
        (RSA | {"e": b64u_encode(b"\x01" * 9)}, "9 bytes"),
        (RSA | {"d": b64u_encode(b"\x01" * 1025)}, "private member"),
        (RSA | {"n": 5}, "'n': is a number"),
        (RSA | {"n": "!"}, "not base64url"),
        (EC | {"crv": "P-999"}, "crv is 'P-999'"),
        (EC | {"x": b64u_encode(b"\x01" * 33)}, "33 bytes, wanted 32"),
        ({"kty": "oct", "k": ""}, "0 bytes"),
        ({"kty": "oct", "k": b64u_encode(bytes(1025))}, "1025 bytes"),
        (EC | {"key_ops": "sign"}, "key_ops: is a string"),
        (EC | {"key_ops": ["x"] * 17}, "17 items"),
        (EC | {"x5c": ["AAAA"]}, "does not parse"),
    ],
)
def test_refused(value: object, reason: str) -> None:
    with pytest.raises(MalformedInput, match=reason):
        parse_jwk(value)


@pytest.mark.parametrize(
    "value",
    [
        RSA | {"d": b64u_encode(b"\x05" * 256)},
        {k: v for k, v in RSA.items() if k not in ("p", "q")} | {"d": "AQAB"},
        RSA | {"p": "AQ"},
        RSA | {"p": RSA["q"]},
        EC | {"d": b64u_encode(b"\x01" * 32)},
    ],
)
def test_parts_of_different_keys(value: object) -> None:
    with pytest.raises(MalformedInput, match="do not belong together"):
        parse_jwk(value).private_key()


def test_point_off_the_curve() -> None:
    with pytest.raises(MalformedInput, match="no EC public key"):
        parse_jwk(EC | {"x": b64u_encode(b"\x01" * 32)}).public_key()
    with pytest.raises(MalformedInput, match="no private"):
        jwk_of_public(pki.ec_key().public_key()).private_key()
    with pytest.raises(MalformedInput, match="no public part"):
        Jwk("oct", {}, secret={"k": b"x"}).public_key()
