"""AES-XTS sectors: published vectors, the tweak's unit, and what is refused."""

from __future__ import annotations

import os

import pytest
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import XTS

from encfs.cipher import SectorCipher
from encfs.errors import UnsupportedHeader
from encfs.keys import Secret


def test_ieee_1619_vector_10() -> None:
    """IEEE Std 1619-2007, annex B, vector 10: XTS-AES-256, data unit 0xff, 512 bytes of 00 01 .. ff twice.

    The unit number is 0xff; a 512-byte sector number 255 gives that tweak.
    """
    key = bytes.fromhex(
        "2718281828459045235360287471352662497757247093699959574966967627"
        "3141592653589793238462643383279502884197169399375105820974944592"
    )
    plain = bytes(range(256)) * 2
    expected_start = bytes.fromhex("1c3b3a102f770386e4836c99e370cf9bea00803f5e482357a4ae12d414a3e63b")
    out = bytearray(512)
    SectorCipher(Secret(key), sector_size=512).encrypt(plain, memoryview(out), 255)
    assert out[:32] == expected_start
    SectorCipher(Secret(key), sector_size=512).decrypt(memoryview(out), 255)
    assert out == plain


@pytest.mark.parametrize("sector_size", [512, 1024, 2048, 4096])
@pytest.mark.parametrize("key_size", [32, 64])
@pytest.mark.parametrize("iv_tweak", [0, 7])
def test_tweak_counts_512_byte_units(sector_size: int, key_size: int, iv_tweak: int) -> None:
    key, plain = os.urandom(key_size), os.urandom(3 * sector_size)
    out = bytearray(len(plain))
    SectorCipher(Secret(key), sector_size=sector_size, iv_tweak=iv_tweak).encrypt(plain, memoryview(out), 5)
    expected = b""
    for index in range(3):
        tweak = ((5 + index) * (sector_size // 512) + iv_tweak).to_bytes(16, "little")
        part = plain[index * sector_size : (index + 1) * sector_size]
        expected += Cipher(AES(key), XTS(tweak)).encryptor().update(part)
    assert out == expected


@pytest.mark.parametrize(
    ("key", "sector_size", "message"),
    [
        (os.urandom(64), 8192, "sector size is 8192"),
        (os.urandom(64), 0, "sector size is 0"),
        (os.urandom(16), 512, "volume key is 16 bytes"),
        (b"a" * 64, 512, "equal halves"),
    ],
)
def test_refuses(key: bytes, sector_size: int, message: str) -> None:
    with pytest.raises(UnsupportedHeader, match=message) as caught:
        SectorCipher(Secret(key), sector_size=sector_size)
    assert key.hex()[:8] not in str(caught.value)
