"""AES-XTS sectors: published vectors, the tweak's unit, and what is refused."""

from __future__ import annotations

import os
import threading

import pytest
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import XTS
from hypothesis import given
from hypothesis import strategies as st

from encfs import cipher
from encfs.cipher import PythonXts, SectorCipher
from encfs.errors import UnsupportedHeader
from encfs.keys import Secret


@pytest.fixture(params=["compiled", "python"], autouse=True)
def engine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Every test runs on both engines; the compiled one is not optional here."""
    from encfs._xts import Xts

    monkeypatch.setattr(cipher, "_new_engine", {"compiled": Xts, "python": PythonXts}[request.param])
    return str(request.param)


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


# Published with IEEE Std 1619-2007, annex B: key1 || key2, data unit number, first 16 bytes of ciphertext.
# Plaintext of vectors 4 to 6 is 00 01 .. ff twice (vector 4), then the ciphertext of the vector before.
_KEY_128 = "27182818284590452353602874713526" + "31415926535897932384626433832795"
_VECTOR_4 = "27a7479befa1d476489f308cd4cfa6e2"


def test_ieee_1619_vector_4() -> None:
    """XTS-AES-128, data unit 0, 512 bytes."""
    out = bytearray(512)
    SectorCipher(Secret(bytes.fromhex(_KEY_128)), sector_size=512).encrypt(
        bytes(range(256)) * 2, memoryview(out), 0
    )
    assert out[:16].hex() == _VECTOR_4


# NIST CAVP, XTSTestVectors, "data unit seq no" form, XTSGenAES128.rsp (CAVS 11.0), encryption:
# key, data unit number, plaintext, ciphertext. Their units are shorter than any sector of an image.
_NIST = [
    (
        "a3e40d5bd4b6bbedb2d18c700ad2db2210c81190646d673cbca53f133eab373c",
        141,
        "20e0719405993f09a66ae5bb500e562c",
        "74623551210216ac926b9650b6d3fa52",
    ),
    (
        "3970cbb4b09a50f428890024876607d04f9b3621728d8a67549f74aa082d58ef",
        41,
        "18147bb2a205974d1efd386885b24797",
        "b91a3884ffd4e6151c5aaaaecb5fa9ff",
    ),
    (
        "16444b90c4266d8b0b464ad0963f5c605074c61d33e9becf6f31e277aeb02ee7",
        139,
        "a788b66ebb4b38a43e709be5b58e5baf7c0f814c2a0e78c297f4ac0ff902a880",
        "4d675587337e89bbd356e63da54970820a28f076c4bd1e30277f584a30a82081",
    ),
]


@pytest.mark.parametrize(("key", "number", "plain", "encrypted"), _NIST)
def test_nist_vectors(key: str, number: int, plain: str, encrypted: str) -> None:
    engine = cipher._new_engine(bytes.fromhex(key))  # type: ignore[call-arg]
    data = bytes.fromhex(plain)
    out = bytearray(len(data))
    engine.encrypt(data, memoryview(out), len(data), number, 1)
    assert out.hex() == encrypted
    engine.decrypt(out, memoryview(out), len(data), number, 1)
    assert out == data


def test_another_key_takes_the_place_of_the_old_one() -> None:
    first, second, plain = os.urandom(64), os.urandom(32), os.urandom(1024)
    engine = cipher._new_engine(first)  # type: ignore[call-arg]
    outs = {key: bytearray(1024) for key in (first, second)}
    engine.encrypt(plain, memoryview(outs[first]), 512, 3, 1)
    for refused in (b"", b"a" * 64, os.urandom(33)):
        with pytest.raises(ValueError):
            engine.rekey(refused)
    again = bytearray(1024)
    engine.encrypt(plain, memoryview(again), 512, 3, 1)
    assert again == outs[first]
    engine.rekey(second)
    engine.encrypt(plain, memoryview(outs[second]), 512, 3, 1)
    fresh = bytearray(1024)
    PythonXts(second).encrypt(plain, memoryview(fresh), 512, 3, 1)
    assert outs[second] == fresh != outs[first]
    engine.decrypt(fresh, memoryview(fresh), 512, 3, 1)
    assert fresh == plain


@given(
    key=st.one_of(st.binary(min_size=32, max_size=32), st.binary(min_size=64, max_size=64)),
    sector_size=st.sampled_from([512, 1024, 2048, 4096]),
    sectors=st.integers(1, 5),
    tweak=st.integers(0, 2**63),
    seed=st.binary(min_size=1, max_size=64),
)
def test_engines_agree(key: bytes, sector_size: int, sectors: int, tweak: int, seed: bytes) -> None:
    from encfs._xts import Xts

    if key[: len(key) // 2] == key[len(key) // 2 :]:
        return
    plain = (seed * (sectors * sector_size // len(seed) + 1))[: sectors * sector_size]
    results = []
    for engine in (Xts(key), PythonXts(key)):
        out = bytearray(len(plain))
        engine.encrypt(plain, memoryview(out), sector_size, tweak, sector_size // 512)
        results.append(bytes(out))
        engine.decrypt(out, memoryview(out), sector_size, tweak, sector_size // 512)
        assert out == plain
    assert results[0] == results[1]


class TestCompiledEngine:
    @pytest.mark.parametrize("size", [0, 16, 31, 33, 63, 65])
    def test_key_sizes(self, size: int) -> None:
        from encfs._xts import Xts

        with pytest.raises(ValueError, match=f"key is {size} bytes"):
            Xts(bytes(size))

    @pytest.mark.parametrize(
        ("data", "out", "sector_size"),
        [
            (512, 512, 0),
            (512, 512, 8),
            (512, 512, 500),
            (513, 513, 512),
            (512, 1024, 512),
            (512, 512, 1 << 21),
        ],
    )
    def test_bounds(self, data: int, out: int, sector_size: int) -> None:
        from encfs._xts import Xts

        with pytest.raises(ValueError, match="wanted"):
            Xts(os.urandom(64)).encrypt(bytes(data), memoryview(bytearray(out)), sector_size, 0, 1)

    def test_refuses_a_read_only_output(self) -> None:
        from encfs._xts import Xts

        with pytest.raises(TypeError):
            Xts(os.urandom(64)).encrypt(bytes(512), memoryview(bytes(512)), 512, 0, 1)

    def test_one_engine_from_many_threads(self) -> None:
        """The GIL is released, so calls overlap; each must see its own tweak."""
        from encfs._xts import Xts

        key, plain = os.urandom(64), os.urandom(1 << 20)
        engine, reference = Xts(key), PythonXts(key)
        expected = []
        for number in range(4):
            out = bytearray(len(plain))
            reference.encrypt(plain, memoryview(out), 4096, number << 20, 8)
            expected.append(bytes(out))
        wrong = []

        def work(number: int) -> None:
            for _ in range(20):
                out = bytearray(len(plain))
                engine.encrypt(plain, memoryview(out), 4096, number << 20, 8)
                if out != expected[number]:
                    wrong.append(number)

        threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not wrong
