"""Both hash engines say the same, and what hashlib and hmac say."""

from __future__ import annotations

import hashlib
import hmac
import os
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from encfs._digest import Hasher
from encfs.digests import PythonHasher, on_two_cores

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


@pytest.fixture
def two_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1})


@pytest.mark.usefixtures("two_cores")
@pytest.mark.parametrize("blocks", [1, 31, 63, 64, 65, 256])
def test_halves_are_the_whole(blocks: int) -> None:
    data, plain = os.urandom(blocks * 4096), Hasher(b"key", True)
    wanted, table = bytearray(blocks * 32), bytearray(blocks * 32)
    plain.digest(data, 4096, wanted, 7, 8)
    halved = on_two_cores(plain)
    assert halved.digest(data, 4096, table, 7, 8) == -1
    assert table == wanted
    assert halved.compare(data, 4096, wanted, 7, 8) == -1
    middle = blocks // 2
    for index in sorted({blocks - 1, middle, max(0, middle - 1), 0}, reverse=True):
        wanted[index * 32] ^= 1  # from now on, as are all after it
        assert halved.compare(data, 4096, wanted, 7, 8) == index


@pytest.mark.usefixtures("two_cores")
def test_halves_of_several_callers_do_not_mix() -> None:
    halved, plain, wrong = on_two_cores(Hasher(b"salt")), Hasher(b"salt"), list[int]()

    def work(number: int) -> None:
        data, table, wanted = bytes([number]) * (1 << 20), bytearray(8192), bytearray(8192)
        plain.digest(data, 4096, wanted)
        for _ in range(20):
            halved.digest(data, 4096, table)
            if table != wanted:
                wrong.append(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert wrong == []


@pytest.mark.usefixtures("two_cores")
def test_halves_that_do_not_fit_are_refused_and_the_helper_lives_on() -> None:
    halved = on_two_cores(Hasher(b""))
    with pytest.raises(ValueError):
        halved.digest(bytes(1 << 20), 4096, bytearray(8191))
    with pytest.raises(TypeError):
        halved.digest(bytes(1 << 20), 4096, bytes(8192))
    assert halved.digest(bytes(1 << 20), 4096, bytearray(8192)) == -1


@pytest.mark.usefixtures("two_cores")
def test_the_reference_is_not_halved() -> None:
    """It holds the GIL: nothing would be won."""
    hasher = PythonHasher(b"")
    assert on_two_cores(hasher) is hasher
