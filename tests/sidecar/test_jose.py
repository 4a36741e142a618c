"""base64url and JWS: published vectors, a second implementation, and everything that must be refused."""

from __future__ import annotations

import base64
import json
import warnings
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from fakes import pki
from hypothesis import given
from hypothesis import strategies as st

from sidecar.errors import MalformedInput, VerificationFailed
from sidecar.jose import (
    ALGORITHMS,
    b64_any_decode,
    b64_decode,
    b64_encode,
    b64u_decode,
    b64u_encode,
    certificate_thumbprint,
    certificates_of_x5c,
    parse_jws,
    payload_object,
    sign_jws,
    verify_jws,
    x5c_of,
)
from sidecar.jwk import parse_jwk

# RFC 7515 appendix A.3: ES256, header {"alg":"ES256"}.
RFC7515_A3 = (
    "eyJhbGciOiJFUzI1NiJ9."
    "eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ."
    "DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSApmWQxfKTUJqPP3-Kg6NU1Q"
)
RFC7515_A3_KEY = {
    "kty": "EC",
    "crv": "P-256",
    "x": "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU",
    "y": "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0",
}


# -- base64 ---------------------------------------------------------------------------------------


@given(st.binary(max_size=100))
def test_base64_round_trips(data: bytes) -> None:
    assert b64u_decode(b64u_encode(data)) == data
    assert b64u_decode(b64u_encode(data, padded=True)) == data
    assert b64_decode(b64_encode(data)) == data
    for text in (b64u_encode(data), b64_encode(data), base64.urlsafe_b64encode(data).decode()):
        assert b64_any_decode(text) == data


@given(st.text(alphabet="AQgw-_+/= \n", max_size=9))
def test_one_value_has_one_spelling(text: str) -> None:
    """Whatever decodes is, apart from padding, exactly what the encoder writes."""
    try:
        data = b64u_decode(text)
    except MalformedInput:
        return
    assert text.rstrip("=") == b64u_encode(data)


@pytest.mark.parametrize(
    "text", ["A", "AB", "AA=", "AA===", "A=A=", "AA==AA", "AA ", "AA\n", "A+8", "é", "AAA=="]
)
def test_base64url_refused(text: str) -> None:
    with pytest.raises(MalformedInput):
        b64u_decode(text)


def test_alphabets_are_not_mixed() -> None:
    assert b64_any_decode("-_8") == b64_any_decode("+/8") == b"\xfb\xff"
    with pytest.raises(MalformedInput):
        b64_any_decode("-/8")
    with pytest.raises(MalformedInput):
        b64_decode("-_8")


# -- JWS ------------------------------------------------------------------------------------------


def test_published_vector_verifies_and_a_changed_one_does_not() -> None:
    key = parse_jwk(RFC7515_A3_KEY).public_key()
    verify_jws(parse_jws(RFC7515_A3), key, algorithms=("ES256",))
    with pytest.raises(VerificationFailed, match="signature is wrong"):
        verify_jws(parse_jws(RFC7515_A3.replace("DtEh", "DtEi")), key, algorithms=("ES256",))


def key_for(algorithm: str) -> Any:
    curves = {"ES256": "P-256", "ES384": "P-384", "ES512": "P-521"}
    return pki.ec_key(curves[algorithm]) if algorithm in curves else pki.rsa_key()


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_second_implementation_agrees_both_ways(algorithm: str) -> None:
    """PyJWT verifies what we sign and signs what we verify."""
    key, claims = key_for(algorithm), {"iss": "https://x", "n": 1}
    ours = sign_jws({"alg": algorithm, "typ": "JWT"}, json.dumps(claims).encode(), key)
    assert jwt.decode(ours, key.public_key(), algorithms=[algorithm]) == claims
    theirs = parse_jws(jwt.encode(claims, key, algorithm=algorithm))
    verify_jws(theirs, key.public_key(), algorithms=(algorithm,))
    assert payload_object(theirs) == claims


@pytest.mark.parametrize("part", [0, 1, 2])
def test_any_changed_part_is_noticed(part: int) -> None:
    parts = sign_jws({"alg": "RS256", "kid": "one"}, b'{"a":1}', pki.rsa_key()).split(".")
    data = bytearray(b64u_decode(parts[part]))
    data[-3] ^= 1
    parts[part] = b64u_encode(bytes(data))
    with pytest.raises((VerificationFailed, MalformedInput)):
        verify_jws(parse_jws(".".join(parts)), pki.rsa_key().public_key())


def test_header_cannot_choose_the_algorithm() -> None:
    token = sign_jws({"alg": "PS256"}, b"{}", pki.rsa_key())
    with pytest.raises(VerificationFailed, match="signed with 'PS256', wanted one of RS256"):
        verify_jws(parse_jws(token), pki.rsa_key().public_key())


@pytest.mark.parametrize("algorithm", ["none", "HS256", "RS1", "rs256"])
def test_unknown_algorithms_fail_even_when_asked_for(algorithm: str) -> None:
    header = b64u_encode(json.dumps({"alg": algorithm}).encode())
    with pytest.raises(VerificationFailed):
        verify_jws(parse_jws(f"{header}.e30."), pki.rsa_key().public_key(), algorithms=(algorithm, "RS256"))


def test_algorithm_must_fit_the_key() -> None:
    token = parse_jws(sign_jws({"alg": "RS256"}, b"{}", pki.rsa_key()))
    with pytest.raises(VerificationFailed, match="does not fit"):
        verify_jws(token, pki.ec_key().public_key())
    es384 = parse_jws(sign_jws({"alg": "ES384"}, b"{}", pki.ec_key("P-384")))
    with pytest.raises(VerificationFailed, match="does not fit"):
        verify_jws(es384, pki.ec_key("P-256").public_key(), algorithms=("ES384",))
    with pytest.raises(ValueError, match="does not fit"):
        sign_jws({"alg": "ES256"}, b"{}", pki.rsa_key())


def test_weak_rsa_key_is_refused() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        weak = rsa.generate_private_key(public_exponent=65537, key_size=1024)
    token = parse_jws(sign_jws({"alg": "RS256"}, b"{}", weak))
    with pytest.raises(VerificationFailed, match="1024 bits"):
        verify_jws(token, weak.public_key())


@pytest.mark.parametrize(
    ("token", "reason"),
    [
        ("a.b", "2 parts"),
        ("a.b.c.d", "4 parts"),
        ("", "1 parts"),
        ("e30.e30.é", "not base64url"),
        (b"e30.e30.\xff", "not ASCII"),
        ("W10.e30.AA", "header: is an array"),
        (b64u_encode(b'{"alg":"RS256","alg":"none"}') + ".e30.AA", "appears twice"),
        (b64u_encode(b'{"alg":"RS256","crit":["exp"]}') + ".e30.AA", "'crit' is not supported"),
        (b64u_encode(b'{"alg":"RS256","b64":false}') + ".e30.AA", "'b64' is not supported"),
    ],
)
def test_broken_tokens(token: str | bytes, reason: str) -> None:
    with pytest.raises(MalformedInput, match=reason):
        parse_jws(token)


def test_length_is_bounded() -> None:
    with pytest.raises(MalformedInput, match="at most"):
        parse_jws("a" * (1 << 20) + "a")


def test_repr_shows_no_payload() -> None:
    token = parse_jws(sign_jws({"alg": "RS256", "kid": "k1"}, b'{"secret":"hunter2"}', pki.rsa_key()))
    assert repr(token) == "Jws(alg='RS256', kid='k1')"


# -- x5c ------------------------------------------------------------------------------------------


def test_x5c_round_trip() -> None:
    chain = pki.leaf().chain
    assert certificates_of_x5c(x5c_of(chain)) == chain
    assert len(certificate_thumbprint(chain[0])) == 43


@pytest.mark.parametrize("value", [None, [], "x", [1], ["AAAA"], ["!"], ["AAAA"] * 9])
def test_x5c_refused(value: object) -> None:
    with pytest.raises(MalformedInput):
        certificates_of_x5c(value)
