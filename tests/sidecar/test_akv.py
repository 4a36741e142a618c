"""Release codec: requests, signed answers of both dialects, and every answer that must be refused."""

from __future__ import annotations

import json
import pickle
from datetime import timedelta
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from fakes import pki

from sidecar.akv import (
    KeyRef,
    ReleaseRequest,
    WrappedKey,
    build_release_request,
    key_material,
    parse_key_hsm,
    parse_key_ref,
    parse_kid,
    parse_release_request,
    parse_release_response,
    unwrap_release,
    verify_release,
)
from sidecar.errors import MalformedInput, VerificationFailed
from sidecar.jose import b64u_encode, parse_jws, sign_jws, x5c_of
from sidecar.jwk import Jwk, jwk_of_private, jwk_of_secret
from sidecar.wrapping import WrapAlgorithm, wrap_key_material

VERSION = "0123456789abcdef0123456789abcdef"
HOST = "localhost:8443"
KID = f"https://{HOST}/keys/disk/{VERSION}"
ENC = WrapAlgorithm.SHA256
WRAPPING = pki.wrapping_key()
OCT = jwk_of_secret(bytes(range(32)), kty="oct-HSM", key_ops=("wrapKey", "unwrapKey"))
RSA = jwk_of_private(pki.rsa_key("released"), kty="RSA-HSM", key_ops=("sign",))
EC = jwk_of_private(pki.ec_key("P-384"), kty="EC", key_ops=("sign",))


# -- references -----------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["disk", "disk-1", f"disk/{VERSION}", "A" * 127])
def test_reference_round_trip(text: str) -> None:
    assert str(parse_key_ref(text)) == text
    assert parse_key_ref(text).path == f"/keys/{text}"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "/",
        "a b",
        "a/b",
        "../x",
        "a?b",
        "a#b",
        "a%2f",
        "disk/",
        f"disk/{VERSION}/x",
        "é",
        "a" * 128,
        "a\n",
    ],
)
def test_references_that_could_change_a_url(text: str) -> None:
    """The predecessor put the text into the URL unescaped."""
    if text == "disk/":
        assert parse_key_ref(text) == KeyRef("disk")
        return
    with pytest.raises(MalformedInput):
        parse_key_ref(text)


@pytest.mark.parametrize(
    ("url", "host"),
    [
        (f"https://v.vault.azure.net/keys/disk/{VERSION}", "v.vault.azure.net:443"),
        (f"https://V.vault.azure.net:443/keys/disk/{VERSION}", "v.vault.azure.net:443"),
        (KID, HOST),
        ("https://[::1]:5/keys/disk", "::1:5"),
    ],
)
def test_key_identifiers(url: str, host: str) -> None:
    assert parse_kid(url)[0] == host
    assert parse_kid(url)[1].name == "disk"


@pytest.mark.parametrize(
    "url",
    ["", "disk", "http://h/keys/disk", "https://h/secrets/disk", "https:///keys/x", "https://h:x/keys/d"],
)
def test_bad_key_identifiers(url: str) -> None:
    with pytest.raises(MalformedInput):
        parse_kid(url)


# -- request --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "request_value",
    [ReleaseRequest("a.b.c"), ReleaseRequest("a.b.c", ENC, "n1"), ReleaseRequest("t", WrapAlgorithm.SHA1)],
)
def test_request_round_trip(request_value: ReleaseRequest) -> None:
    assert parse_release_request(build_release_request(request_value)) == request_value


@pytest.mark.parametrize(
    "body",
    [b"{}", b'{"target":5}', b'{"target":"t","enc":"X"}', b'{"target":"t","nonce":"' + b"n" * 65 + b'"}'],
)
def test_bad_requests(body: bytes) -> None:
    with pytest.raises(MalformedInput):
        parse_release_request(body)


# -- answer ---------------------------------------------------------------------------------------


def answer(
    key: Jwk = OCT,
    *,
    kid: str = KID,
    wrapping_kid: str = WRAPPING.kid,
    enc: WrapAlgorithm = ENC,
    material: bytes | None = None,
    to: Any = None,
    signer: Any = None,
    header: dict[str, Any] | None = None,
    request: dict[str, Any] | None = None,
    signed: dict[str, Any] | None = None,
) -> bytes:
    """A vault's answer, written out here by hand after the recorded shape."""
    public = to or WRAPPING.jwk.public_key()
    assert isinstance(public, rsa.RSAPublicKey)
    ciphertext = wrap_key_material(public, key_material(key) if material is None else material, enc)
    hsm = {"schema_version": "1.0", "header": {"kid": wrapping_kid, "alg": "dir", "enc": enc}}
    hsm["ciphertext"] = b64u_encode(ciphertext)
    inner = {"kid": kid, "kty": key.kty, "key_ops": list(key.key_ops), **key.public().to_dict()}
    inner |= {"kid": kid, "key_hsm": b64u_encode(json.dumps(hsm).encode())} | (signed or {})
    payload = {
        "request": {"api-version": "7.4", "enc": enc, "kid": f"https://{HOST}/keys/disk"} | (request or {}),
        "response": {
            "key": {
                "key": inner,
                "attributes": {"enabled": True, "exportable": True},
                "release_policy": {"data": "e30"},
            }
        },
    }
    signer = signer or pki.leaf()
    head = {"alg": "RS256", "kid": "K", "typ": "JWT", "x5c": x5c_of(signer.chain)} | (header or {})
    head = {k: v for k, v in head.items() if v is not None}
    return json.dumps({"value": sign_jws(head, json.dumps(payload).encode(), signer.key)}).encode()


GOOD: dict[str, Any] = {
    "host": HOST,
    "roots": [pki.root().certificate],
    "at": pki.NOW,
    "key": KeyRef("disk"),
    "wrapping_kid": WRAPPING.kid,
    "enc": ENC,
    "nonce": "n1",
}


def verify(body: bytes, **changes: Any) -> Any:
    return verify_release(parse_release_response(body), **(GOOD | changes))


@pytest.mark.parametrize("key", [OCT, RSA, EC], ids=["oct", "RSA", "EC"])
@pytest.mark.parametrize("header", [{}, {"typ": None, "x5t#S256": "x"}], ids=["vault", "hsm"])
@pytest.mark.parametrize("enc", WrapAlgorithm)
def test_every_kind_is_released(key: Jwk, header: dict[str, Any], enc: WrapAlgorithm) -> None:
    released = unwrap_release(verify(answer(key, header=header, enc=enc), enc=enc), WRAPPING)
    assert released.kid == KID
    assert released.kty == key.family
    assert released.key_ops == key.key_ops
    wanted = key.to_dict(private=True) | {"kty": key.family}
    assert released.jwk() == wanted
    assert "kid" not in released.jwk()


@pytest.mark.parametrize(("kty", "e"), [("RSA", "AQAB"), ("RSA-HSM", "AAEAAQ")])
def test_dialects_of_one_rsa_key(kty: str, e: str) -> None:
    released = unwrap_release(verify(answer(RSA, signed={"kty": kty, "e": e})), WRAPPING)
    assert released.jwk()["e"] == "AQAB"


def test_chain_may_leave_out_the_root() -> None:
    """The predecessor dropped the intermediate instead and failed."""
    verify(answer(header={"x5c": x5c_of(pki.leaf().chain[:2])}))


def test_version_asked_for_is_the_version_got() -> None:
    assert verify(answer(), key=KeyRef("disk", VERSION)).ref == KeyRef("disk", VERSION)
    with pytest.raises(VerificationFailed, match="wanted disk/" + "f" * 32):
        verify(answer(), key=KeyRef("disk", "f" * 32))


def test_nonce_may_be_left_out_but_not_changed() -> None:
    assert not verify(answer()).nonce_echoed
    assert verify(answer(request={"nonce": "n1"})).nonce_echoed
    with pytest.raises(VerificationFailed, match="nonce"):
        verify(answer(request={"nonce": "n2"}))


@pytest.mark.parametrize(
    ("parts", "changes", "reason"),
    [
        ({"kid": f"https://{HOST}/keys/other/{VERSION}"}, {}, "key other/"),
        ({"kid": f"https://{HOST}/keys/disk"}, {}, "key disk, wanted disk"),
        ({"kid": f"https://localhost:1/keys/disk/{VERSION}"}, {}, "key of localhost:1"),
        ({"wrapping_kid": "another"}, {}, "wrapped to key 'another'"),
        ({"enc": WrapAlgorithm.SHA1}, {}, "wrapped with CKM_RSA_AES_KEY_WRAP"),
        ({}, {"host": "example.com:8443"}, "not trusted for example.com"),
        ({}, {"roots": [pki.self_signed().certificate]}, "not trusted"),
        ({}, {"at": pki.NOW + timedelta(days=4000)}, "not trusted"),
        ({"header": {"alg": "ES256"}}, {}, "signed with 'ES256'"),
        ({"signer": pki.self_signed()}, {}, "not trusted"),
        ({"header": {"x5c": x5c_of(pki.self_signed().chain)}}, {}, "not trusted"),
    ],
)
def test_answers_refused(parts: dict[str, Any], changes: dict[str, Any], reason: str) -> None:
    if parts.get("header", {}).get("alg") == "ES256":
        head = {"alg": "ES256", "x5c": x5c_of(pki.leaf().chain)}
        body = json.dumps({"value": sign_jws(head, b"{}", pki.ec_key())}).encode()
    else:
        body = answer(**parts)
    with pytest.raises(VerificationFailed, match=reason):
        verify(body, **changes)


def test_good_chain_over_another_keys_signature() -> None:
    head = {"alg": "RS256", "x5c": x5c_of(pki.leaf().chain)}
    body = json.dumps({"value": sign_jws(head, b"{}", pki.rsa_key())}).encode()
    with pytest.raises(VerificationFailed, match="signature is wrong"):
        verify(body)


@pytest.mark.parametrize("x5c", [None, [], "x", ["AAAA"]])
def test_missing_or_broken_chain(x5c: Any) -> None:
    """The predecessor panicked on an empty one."""
    with pytest.raises(MalformedInput, match="x5c"):
        verify(answer(header={"x5c": x5c}))


@pytest.mark.parametrize("body", [b"", b"{}", b'{"value":"a.b"}', b'{"value":5}', b"[]"])
def test_broken_bodies(body: bytes) -> None:
    with pytest.raises(MalformedInput):
        parse_release_response(body)


def test_public_half_must_be_the_signed_one() -> None:
    other = jwk_of_private(pki.rsa_key("swapped"))
    with pytest.raises(VerificationFailed, match="not the one whose public half"):
        unwrap_release(verify(answer(RSA, material=key_material(other))), WRAPPING)
    with pytest.raises(VerificationFailed, match="not the one whose public half"):
        unwrap_release(verify(answer(EC, material=key_material(other))), WRAPPING)


def test_material_of_another_kind() -> None:
    with pytest.raises(MalformedInput, match="not a PKCS#8"):
        unwrap_release(verify(answer(RSA, material=b"x" * 32)), WRAPPING)


def test_wrapped_to_another_guest_under_our_kid() -> None:
    body = answer(to=pki.rsa_key("stranger").public_key())
    with pytest.raises(VerificationFailed, match="does not unwrap"):
        unwrap_release(verify(body), WRAPPING)


def test_private_members_in_the_clear_are_ignored() -> None:
    leaked = verify(answer(signed={"k": b64u_encode(b"attacker's key"), "d": "AA"}))
    assert leaked.public.secret == {}
    assert unwrap_release(leaked, WRAPPING).jwk()["k"] == b64u_encode(bytes(range(32)))


# -- key_hsm --------------------------------------------------------------------------------------


def test_key_hsm_round_trip() -> None:
    wrapped = WrappedKey("kid", ENC, b"\x01" * 300)
    assert parse_key_hsm(wrapped.to_text()) == wrapped


@pytest.mark.parametrize(
    "body",
    [
        "{}",
        '{"schema_version":"2.0"}',
        '{"schema_version":"1.0","header":{"kid":"k","alg":"A256KW","enc":"RSA_AES_KEY_WRAP_256"},"ciphertext":"AA"}',
        '{"schema_version":"1.0","header":{"kid":"k","alg":"dir","enc":"X"},"ciphertext":"AA"}',
        '{"schema_version":"1.0","header":{"kid":"k","alg":"dir","enc":"RSA_AES_KEY_WRAP_256"},"ciphertext":"!"}',
        '{"schema_version":"1.0","header":{"alg":"dir","enc":"RSA_AES_KEY_WRAP_256"},"ciphertext":"AA"}',
    ],
)
def test_key_hsm_refused(body: str) -> None:
    with pytest.raises(MalformedInput):
        parse_key_hsm(b64u_encode(body.encode()))


# -- the key --------------------------------------------------------------------------------------


def test_released_key_is_closed() -> None:
    released = unwrap_release(verify(answer()), WRAPPING)
    secret = str(released.jwk()["k"])
    for text in (repr(released), str(released), f"{released}"):
        assert secret not in text
        assert "_key" not in text
    with pytest.raises(TypeError):
        pickle.dumps(released)


def test_answer_repr_hides_its_payload() -> None:
    jws = parse_release_response(answer())
    assert "key_hsm" not in repr(jws)
    assert parse_jws(json.loads(answer())["value"]).kid == "K"
