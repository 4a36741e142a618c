"""COSE_Sign1: a published example, our own signatures, and every way to be wrong."""

from __future__ import annotations

from dataclasses import replace

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from fakes.snp_cose import Issuer, rsa_key
from hypothesis import given
from hypothesis import strategies as st

from sidecar.cbor import Tagged, Value, decode, encode
from sidecar.cose import (
    ALG,
    ALGORITHMS,
    X5CHAIN,
    X5T,
    certificates_of,
    parse_sign1,
    sign_sign1,
    verify_sign1,
)
from sidecar.errors import EndorsementRejected, ExitCode, MalformedInput

# RFC 9052 appendix C.2.1, signed with the key "11" of appendix C.7.1.
EXAMPLE = bytes.fromhex(
    "d28443a10126a10442313154546869732069732074686520636f6e74656e742e58408eb33e4ca31d1c465ab05aac34cc6b23"
    "d58fef5c083106c4d25a91aef0b0117e2af9a291aa32e14ab834dc56ed2a223444547e01f11d3b0916e5a4c345cacb36"
)
EXAMPLE_KEY = ec.EllipticCurvePublicNumbers(
    int("bac5b11cad8f99f9c72b05cf4b9e26d244dc189f745228255a219a86d6a09eff", 16),
    int("20138bf82dc1b6d562be0fa54ab7804a3a64b6d72ccfed6b6fb6ed28bbfc117e", 16),
    ec.SECP256R1(),
).public_key()


def test_published_example() -> None:
    message = parse_sign1(EXAMPLE)
    assert message.payload == b"This is the content."
    assert message.protected == {ALG: -7}
    assert message.unprotected == {4: b"11"}
    verify_sign1(message, EXAMPLE_KEY)


KEYS = {
    "rsa": rsa_key(2048),
    "p256": ec.generate_private_key(ec.SECP256R1()),
    "p384": ec.generate_private_key(ec.SECP384R1()),
    "p521": ec.generate_private_key(ec.SECP521R1()),
}


@pytest.mark.parametrize("kind", KEYS)
def test_round_trip(kind: str) -> None:
    key = KEYS[kind]
    data = sign_sign1({"feed": "f"}, b"payload", key, unprotected={"note": 1})
    message = parse_sign1(data)
    verify_sign1(message, key.public_key())
    assert message.protected["feed"] == "f"
    assert message.unprotected == {"note": 1}
    for other in KEYS.keys() - {kind}:
        with pytest.raises(EndorsementRejected):
            verify_sign1(message, KEYS[other].public_key())


@pytest.mark.parametrize("offset", range(len(EXAMPLE)))
def test_one_changed_bit(offset: int) -> None:
    data = bytearray(EXAMPLE)
    data[offset] ^= 1
    unprotected = range(EXAMPLE.index(b"\xa1\x04"), EXAMPLE.index(b"This") - 1)
    try:
        verify_sign1(parse_sign1(bytes(data)), EXAMPLE_KEY)
    except (MalformedInput, EndorsementRejected):
        return
    assert offset in unprotected, "only what nobody signed may change"


def test_wrong_key() -> None:
    data = sign_sign1({}, b"payload", KEYS["p256"])
    with pytest.raises(EndorsementRejected, match="COSE signature: wrong") as caught:
        verify_sign1(parse_sign1(data), EXAMPLE_KEY)
    assert caught.value.exit_code is ExitCode.ENDORSEMENT_REJECTED


def build(*parts: Value, tag: int = 18) -> bytes:
    return encode(Tagged(tag, list(parts)))


HEAD = encode({ALG: -7})
SHAPES: list[tuple[bytes, str]] = [
    (encode([HEAD, {}, b"", b""]), "no tag 18"),
    (build(HEAD, {}, b"", b"", tag=98), "no tag 18"),
    (build(HEAD, {}, b""), "array of four"),
    (encode(Tagged(18, {})), "array of four"),
    (build({ALG: -7}, {}, b"", b""), "headers are not bytes and map"),
    (build(HEAD, [], b"", b""), "headers are not bytes and map"),
    (build(HEAD, {}, None, b""), "payload and signature are not bytes"),
    (build(HEAD, {}, b"", ""), "payload and signature are not bytes"),
    (build(encode([]), {}, b"", b""), "protected header: not a map"),
    (build(b"\xff", {}, b"", b""), "COSE protected header"),
    (build(encode({ALG: -7, 2: ["x"]}), {}, b"", b""), "critical headers"),
    (build(HEAD, {2: ["x"]}, b"", b""), "critical headers"),
    (build(HEAD, {ALG: -7}, b"", b""), "header '1' is in both maps"),
    (build(encode({ALG: -7, "feed": "a"}), {"feed": "b"}, b"", b""), "header 'feed' is in both maps"),
]


@pytest.mark.parametrize(("data", "message"), SHAPES)
def test_shapes_that_are_refused(data: bytes, message: str) -> None:
    with pytest.raises(MalformedInput, match=message):
        parse_sign1(data)


@pytest.mark.parametrize("algorithm", [-257, -65535, -8, 5, 0, -35])
def test_algorithms_that_are_not_allowed(algorithm: int) -> None:
    """RS256, RS1, EdDSA, HMAC, nothing, and ES384 with a key on another curve."""
    message = parse_sign1(build(encode({ALG: algorithm}), {}, b"", bytes(64)))
    with pytest.raises(EndorsementRejected, match=f"algorithm {algorithm}"):
        verify_sign1(message, EXAMPLE_KEY)


@pytest.mark.parametrize("head", [b"", encode({}), encode({ALG: "ES256"}), encode({ALG: True})])
def test_no_algorithm_in_the_protected_header(head: bytes) -> None:
    message = parse_sign1(build(head, {} if head else {ALG: -7}, b"", bytes(64)))
    with pytest.raises(MalformedInput, match="no algorithm number"):
        verify_sign1(message, EXAMPLE_KEY)


def test_weak_rsa_keys_are_refused() -> None:
    key = rsa_key(1024)
    message = parse_sign1(sign_sign1({}, b"payload", key))
    with pytest.raises(EndorsementRejected, match="not allowed"):
        verify_sign1(message, key.public_key())


@pytest.mark.parametrize("size", [0, 63, 65, 72])
def test_ecdsa_signatures_have_one_length(size: int) -> None:
    message = parse_sign1(build(HEAD, {}, b"", bytes(size)))
    with pytest.raises(EndorsementRejected, match=f"{size} bytes, wanted 64"):
        verify_sign1(message, EXAMPLE_KEY)


def test_keys_without_an_algorithm() -> None:
    with pytest.raises(MalformedInput, match="no algorithm for secp256k1"):
        sign_sign1({}, b"", ec.generate_private_key(ec.SECP256K1()))


def chain_message(**headers: Value) -> bytes:
    names = {"x5chain": X5CHAIN, "x5t": X5T}
    return sign_sign1({names[k]: v for k, v in headers.items()}, b"", KEYS["p256"])


def test_certificates() -> None:
    chain = Issuer().chain()
    ders: list[Value] = [c.public_bytes(Encoding.DER) for c in chain]
    thumbprint = chain[0].fingerprint(SHA256())
    assert certificates_of(parse_sign1(chain_message(x5chain=ders, x5t=[-16, thumbprint]))) == chain
    assert certificates_of(parse_sign1(chain_message(x5chain=ders[0]))) == chain[:1]
    for headers, error, message in [
        ({}, MalformedInput, "no x5chain"),
        ({"x5chain": []}, MalformedInput, "no x5chain"),
        ({"x5chain": ders * 4}, MalformedInput, "no x5chain of 1 to 10"),
        ({"x5chain": ["text"]}, MalformedInput, "something else than bytes"),
        ({"x5chain": [b"junk"]}, MalformedInput, "does not parse"),
        ({"x5chain": ders, "x5t": thumbprint}, MalformedInput, "not a SHA-256 thumbprint"),
        ({"x5chain": ders, "x5t": [-43, thumbprint]}, MalformedInput, "not a SHA-256 thumbprint"),
        ({"x5chain": ders, "x5t": [-16, bytes(32)]}, EndorsementRejected, "not the thumbprint"),
        ({"x5chain": ders, "x5t": [-16, "x"]}, EndorsementRejected, "not the thumbprint"),
    ]:
        with pytest.raises(error, match=message):
            certificates_of(parse_sign1(chain_message(**headers)))


def test_the_chain_of_the_unprotected_header_is_not_believed() -> None:
    der = Issuer().chain()[0].public_bytes(Encoding.DER)
    data = sign_sign1({}, b"", KEYS["p256"], unprotected={X5CHAIN: der})
    with pytest.raises(MalformedInput, match="no x5chain"):
        certificates_of(parse_sign1(data))


@given(st.binary(max_size=200))
def test_any_bytes_end_in_a_message_or_a_typed_error(data: bytes) -> None:
    try:
        message = parse_sign1(b"\xd2\x84" + data)
    except MalformedInput:
        return
    assert decode(b"\xd2\x84" + data)
    with pytest.raises((MalformedInput, EndorsementRejected)):
        verify_sign1(message, EXAMPLE_KEY)


ALL_KEYS = KEYS | {"ed25519": ed25519.Ed25519PrivateKey.generate()}
BY_NAME = {
    "PS256": "rsa",
    "PS384": "rsa",
    "PS512": "rsa",
    "ES256": "p256",
    "ES384": "p384",
    "ES512": "p521",
    "EdDSA": "ed25519",
}


@pytest.mark.parametrize("name", ALGORITHMS)
def test_every_algorithm_by_its_name(name: str) -> None:
    key = ALL_KEYS[BY_NAME[name]]
    message = parse_sign1(sign_sign1({}, b"payload", key, algorithm=ALGORITHMS[name]))
    assert message.algorithm == ALGORITHMS[name]
    verify_sign1(message, key.public_key())
    changed = replace(message, payload=b"another")
    with pytest.raises(EndorsementRejected, match="COSE signature: wrong"):
        verify_sign1(changed, key.public_key())
    for kind in ALL_KEYS.keys() - {BY_NAME[name]}:
        with pytest.raises(MalformedInput, match=f"algorithm {ALGORITHMS[name]} with a key on"):
            sign_sign1({}, b"payload", ALL_KEYS[kind], algorithm=ALGORITHMS[name])
