"""Both hash engines say the same, and what hashlib and hmac say."""

from __future__ import annotations

import hashlib
import hmac

import pytest
from hypothesis import given
from hypothesis import strategies as st

from encfs._digest import Hasher
from encfs.digests import PythonHasher

ENGINES = (Hasher, PythonHasher)
BLOCKS = st.integers(1, 5000).flatmap(
    lambda size: st.tuples(
        st.just(size), st.integers(0, 4).flatmap(lambda n: st.binary(min_size=n * size, max_size=n * size))
    )
)


@given(BLOCKS, st.binary(max_size=256))
def test_salted(blocks: tuple[int, bytes], salt: bytes) -> None:
    size, data = blocks
    wanted = b"".join(
        hashlib.sha256(salt + data[at : at + size]).digest() for at in range(0, len(data), size)
    )
    for engine in ENGINES:
        out = bytearray(len(wanted))
        assert engine(salt).digest(data, size, out) == -1
        assert out == wanted
        assert engine(salt).compare(data, size, wanted) == -1


@given(BLOCKS, st.binary(min_size=1, max_size=64), st.integers(0, 1 << 60), st.integers(0, 8))
def test_keyed(blocks: tuple[int, bytes], key: bytes, number: int, step: int) -> None:
    size, data = blocks
    wanted = b""
    for index in range(len(data) // size):
        sector = (number + index * step).to_bytes(8, "little")
        wanted += hmac.digest(key, sector * 2 + bytes(8) + data[index * size : (index + 1) * size], "sha256")
    for engine in ENGINES:
        out = bytearray(len(wanted))
        assert engine(key, True).digest(data, size, out, number, step) == -1
        assert out == wanted
        assert engine(key, True).compare(data, size, wanted, number, step) == -1


@pytest.mark.parametrize("engine", ENGINES)
def test_the_first_that_differs(engine: type[Hasher]) -> None:
    data = bytes(range(256)) * 16
    hasher, table = engine(b"salt"), bytearray(8 * 32)
    hasher.digest(data, 512, table)
    for index in (7, 3, 0):
        table[index * 32 + 31] ^= 1
        assert hasher.compare(data, 512, table) == index


@pytest.mark.parametrize("engine", ENGINES)
def test_what_does_not_fit_is_refused(engine: type[Hasher]) -> None:
    for data, size, table in ((1000, 512, 32), (1024, 512, 63), (1024, 0, 64), (1024, 512, 96)):
        with pytest.raises(ValueError):
            engine(b"").digest(bytes(data), size, bytearray(table))
    for key in (b"", bytes(65)):
        with pytest.raises(ValueError, match="wanted 1 to 64"):
            engine(key, True)
