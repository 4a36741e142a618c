"""The wrap: published key-wrap vector, second construction of the whole format, and every damage."""

from __future__ import annotations

import json
import pickle

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding
from fakes import pki
from hypothesis import given, settings
from hypothesis import strategies as st

from sidecar.errors import MalformedInput, VerificationFailed
from sidecar.jwk import parse_jwk
from sidecar.wrapping import (
    MAX_MATERIAL,
    WrapAlgorithm,
    WrappingKey,
    parse_enc,
    unwrap_key_material,
    wrap_key_material,
)

KEY = pki.rsa_key("wrap")
HASHES = {"CKM_RSA_AES_KEY_WRAP": hashes.SHA1, "RSA_AES_KEY_WRAP_256": hashes.SHA256}
HASHES["RSA_AES_KEY_WRAP_384"] = hashes.SHA384  # type: ignore[assignment]


def oaep(transport: bytes, enc: str) -> bytes:
    hashed = HASHES[enc]
    return KEY.public_key().encrypt(transport, padding.OAEP(padding.MGF1(hashed()), hashed(), None))


@pytest.mark.parametrize("enc", HASHES)
def test_published_key_wrap_inside_oaep(enc: str) -> None:
    """RFC 5649 section 6, first example (192-bit key), with the OAEP step made here by hand."""
    transport = bytes.fromhex("5840df6e29b02af1ab493b705bf16ea1ae8338f4dcc176a8")
    wrapped = bytes.fromhex("138bdeaa9b8fa7fc61f97742e72248ee5ae6ae5360d1ae6a5f54f373fa543b6a")
    plain = bytes.fromhex("c37b7e6492584340bed12207808941155068f738")
    assert unwrap_key_material(KEY, oaep(transport, enc) + wrapped, parse_enc(enc)) == plain


@settings(max_examples=25, deadline=None)
@given(st.binary(min_size=1, max_size=300), st.sampled_from(list(WrapAlgorithm)))
def test_round_trip(material: bytes, enc: WrapAlgorithm) -> None:
    assert unwrap_key_material(KEY, wrap_key_material(KEY.public_key(), material, enc), enc) == material


def test_two_wraps_of_one_key_differ() -> None:
    first, second = (wrap_key_material(KEY.public_key(), b"x" * 32, WrapAlgorithm.SHA256) for _ in range(2))
    assert first[:256] != second[:256]
    assert first[256:] != second[256:]


@pytest.mark.parametrize("length", [0, 1, 255, 256, 257, 264, 271, 273, 279, 256 + MAX_MATERIAL + 16])
def test_lengths_that_cannot_be_right(length: int) -> None:
    """The predecessor panicked here."""
    with pytest.raises(MalformedInput, match=f"wrapped key of {length} bytes"):
        unwrap_key_material(KEY, bytes(length), WrapAlgorithm.SHA256)


def test_every_damage_gives_the_same_sentence() -> None:
    good = wrap_key_material(KEY.public_key(), b"m" * 32, WrapAlgorithm.SHA256)
    other = pki.rsa_key("other wrap")
    attempts = [
        (other, good, WrapAlgorithm.SHA256),
        (KEY, good, WrapAlgorithm.SHA384),
        (KEY, good, WrapAlgorithm.SHA1),
        (KEY, bytes([good[0] ^ 1]) + good[1:], WrapAlgorithm.SHA256),
        (KEY, good[:-1] + bytes([good[-1] ^ 1]), WrapAlgorithm.SHA256),
        (KEY, good[:-8], WrapAlgorithm.SHA256),
        (KEY, oaep(b"k" * 31, WrapAlgorithm.SHA256) + good[256:], WrapAlgorithm.SHA256),
        (KEY, bytes(296), WrapAlgorithm.SHA256),
    ]
    sentences = set()
    for key, ciphertext, enc in attempts:
        with pytest.raises(VerificationFailed) as caught:
            unwrap_key_material(key, ciphertext, enc)
        assert caught.value.__cause__ is None
        sentences.add(str(caught.value))
    assert len(sentences) == 1


@pytest.mark.parametrize("material", [b"", bytes(MAX_MATERIAL + 1)])
def test_material_is_bounded(material: bytes) -> None:
    with pytest.raises(MalformedInput):
        wrap_key_material(KEY.public_key(), material, WrapAlgorithm.SHA256)


def test_unknown_enc() -> None:
    with pytest.raises(MalformedInput, match="enc is 'A128KW'"):
        parse_enc("A128KW")


def test_runtime_data_is_the_key_set_that_services_look_for() -> None:
    key = pki.wrapping_key()
    document = json.loads(key.runtime_data())
    assert list(document) == ["keys"]
    (item,) = document["keys"]
    assert item["key_ops"] == ["encrypt"]
    assert item["kty"] == "RSA"
    assert item["kid"] == key.kid == parse_jwk(item).thumbprint()
    assert set(item) == {"kty", "kid", "key_ops", "n", "e"}


def test_key_is_closed() -> None:
    key = pki.wrapping_key()
    assert repr(key) == f"WrappingKey(kid={key.kid!r})"
    with pytest.raises(TypeError):
        pickle.dumps(key)


@pytest.mark.parametrize("bits", [1024, 2047, 2049, 8192])
def test_sizes_refused(bits: int) -> None:
    with pytest.raises(MalformedInput):
        WrappingKey.generate(bits)


def test_generated_key_unwraps() -> None:
    key = WrappingKey.generate()
    public = key.jwk.public_key()
    assert public.key_size == 2048
    wrapped = wrap_key_material(public, b"hello", WrapAlgorithm.SHA384)  # type: ignore[arg-type]
    assert key.unwrap(wrapped, WrapAlgorithm.SHA384) == b"hello"
