"""The anti-forensic splitter. That it is the real one is proved by test_interop.py."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from encfs.errors import MalformedHeader
from encfs.luks2 import af


def pattern(size: int) -> bytes:
    return hashlib.shake_128(b"filler").digest(size)


@settings(deadline=None)
@given(st.binary(min_size=1, max_size=70), st.integers(1, 40), st.sampled_from(["sha1", "sha256", "sha512"]))
def test_merge_is_the_inverse_of_split(key: bytes, stripes: int, name: str) -> None:
    material = af.split(key, stripes=stripes, hash_name=name, random=pattern)
    assert len(material) == len(key) * stripes
    assert af.merge(material, key_size=len(key), stripes=stripes, hash_name=name) == key


@pytest.mark.parametrize("at", [0, 31, 64 * 1999, 64 * 4000 - 1])
def test_losing_one_bit_anywhere_loses_the_key(at: int) -> None:
    key = bytes(range(64))
    material = bytearray(af.split(key, hash_name="sha256", random=pattern))
    material[at] ^= 1
    merged = af.merge(bytes(material), key_size=64, hash_name="sha256")
    changed = sum(bin(a ^ b).count("1") for a, b in zip(merged, key, strict=True))
    assert changed == 1 if at >= 64 * 3999 else changed > 100


def test_one_stripe_is_the_key_itself() -> None:
    assert af.split(b"key", stripes=1, hash_name="sha256", random=pattern) == b"key"


def test_two_stripes_by_hand() -> None:
    """Two blocks of 40 bytes under SHA-256: pieces of 32 and 8 bytes, each hashed with its number."""
    key, filler = bytes(range(40)), pattern(40)
    first = hashlib.sha256(bytes(4) + filler[:32]).digest()
    second = hashlib.sha256(b"\0\0\0\x01" + filler[32:]).digest()[:8]
    last = bytes(a ^ b for a, b in zip(first + second, key, strict=True))
    assert af.split(key, stripes=2, hash_name="sha256", random=pattern) == filler + last


@pytest.mark.parametrize(("size", "key_size", "stripes"), [(10, 3, 3), (0, 0, 0), (8, 4, 3), (8, -4, -2)])
def test_material_of_another_length(size: int, key_size: int, stripes: int) -> None:
    with pytest.raises(MalformedHeader):
        af.merge(bytes(size), key_size=key_size, stripes=stripes, hash_name="sha256")
