"""SHA-256 of many blocks at once: salted, as dm-verity has it, or dm-crypt's HMAC tags.

Two engines do the same: `_digest`, compiled with the package, one call a request with the GIL released; and
`PythonHasher` over the standard library, the reference, used where no compiler was there.

`on_two_cores` halves large digests between the caller and one helper thread, which all such hashers share.

Kind: pure
"""

from __future__ import annotations

import hashlib
import hmac
import os
import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Protocol, TypeAlias

from encfs.block.device import Buffer

DIGEST_SIZE = 32
# Below that, handing over costs more than it saves.
_HALVED = 128 << 10


class Hasher(Protocol):
    """Digests of whole blocks; `number` is mixed into a keyed digest, and grows by `step` a block."""

    def digest(self, data: Buffer, block_size: int, out: Buffer, number: int = 0, step: int = 0) -> int:
        """Write 32 bytes for each block of `data` into `out`."""
        ...

    def compare(self, data: Buffer, block_size: int, wanted: Buffer, number: int = 0, step: int = 0) -> int:
        """Index of the first block whose digest is not the one in `wanted`, -1 when all are."""
        ...


class PythonHasher:
    """The reference engine.

    Args:
        prefix: hashed before every block; with `keyed` the HMAC key, 1 to 64 bytes, secret.
        keyed: digests are HMAC(number | number | 8 zero bytes | block), numbers of 8 bytes little-endian.

    Raises:
        ValueError: the key is empty or longer than 64 bytes.
    """

    def __init__(self, prefix: bytes, keyed: bool = False) -> None:
        if keyed and not 1 <= len(prefix) <= 64:
            raise ValueError(f"key is {len(prefix)} bytes, wanted 1 to 64")
        self._hmac = hmac.new(prefix, digestmod=hashlib.sha256) if keyed else None
        self._plain = hashlib.sha256(b"" if keyed else prefix)

    def _one(self, block: memoryview, number: int) -> bytes:
        if self._hmac is None:
            state = self._plain.copy()
            state.update(block)
            return state.digest()
        keyed = self._hmac.copy()
        keyed.update(number.to_bytes(8, "little") * 2 + bytes(8))
        keyed.update(block)
        return keyed.digest()

    def digest(self, data: Buffer, block_size: int, out: Buffer, number: int = 0, step: int = 0) -> int:
        view, to = _checked(data, block_size, out)
        for index in range(len(view) // block_size):
            block = view[index * block_size : (index + 1) * block_size]
            to[index * DIGEST_SIZE : (index + 1) * DIGEST_SIZE] = self._one(block, number + index * step)
        return -1

    def compare(self, data: Buffer, block_size: int, wanted: Buffer, number: int = 0, step: int = 0) -> int:
        view, digests = _checked(data, block_size, wanted)
        for index in range(len(view) // block_size):
            block = view[index * block_size : (index + 1) * block_size]
            expected = digests[index * DIGEST_SIZE : (index + 1) * DIGEST_SIZE]
            if not hmac.compare_digest(self._one(block, number + index * step), expected):
                return index
        return -1


def _checked(data: Buffer, block_size: int, digests: Buffer) -> tuple[memoryview, memoryview]:
    view, table = memoryview(data), memoryview(digests)
    if not 1 <= block_size <= 1 << 20 or len(view) % block_size:
        raise ValueError(f"{len(view)} bytes, wanted whole blocks of {block_size}")
    if len(table) != len(view) // block_size * DIGEST_SIZE:
        raise ValueError(f"{len(table)} bytes of digests for {len(view) // block_size} blocks")
    return view, table


try:
    from encfs._digest import Hasher as _CompiledHasher

    _new: type[Hasher] = _CompiledHasher
except ImportError:
    _new = PythonHasher


def salted(salt: bytes) -> Hasher:
    """SHA-256(salt | block), public."""
    return _new(salt)  # type: ignore[call-arg]


def keyed(key: bytes) -> Hasher:
    """dm-crypt's tags: HMAC-SHA-256 under `key` (32 bytes, secret) over sector, IV and ciphertext."""
    return _new(key, True)  # type: ignore[call-arg]


def on_two_cores(hasher: Hasher) -> Hasher:
    """The same digests, large ones by two threads, where there are two cores and the GIL is released.

    Not comparisons: while something is read, the other core copies to the reader (measured: 7 % less).
    """
    if isinstance(hasher, PythonHasher) or len(os.sched_getaffinity(0)) < 2:
        return hasher
    return _Halved(hasher, _helper())


_Call: TypeAlias = Callable[[Buffer, int, Buffer, int, int], int]
_Job: TypeAlias = tuple[_Call, Buffer, int, Buffer, int, int, SimpleQueue[int | Exception]]


class _Halved:
    """Two halves at once: the first by the caller, the second by the helper.

    Args:
        below: its calls may overlap.
        jobs: the helper's.
    """

    def __init__(self, below: Hasher, jobs: SimpleQueue[_Job]) -> None:
        self._below = below
        self._jobs = jobs

    def digest(self, data: Buffer, block_size: int, out: Buffer, number: int = 0, step: int = 0) -> int:
        view, table, call = memoryview(data), memoryview(out), self._below.digest
        if len(view) < max(_HALVED, 2 * block_size):
            return call(data, block_size, out, number, step)
        _checked(view, block_size, table)
        half = len(view) // block_size // 2
        cut, at = half * block_size, half * DIGEST_SIZE
        answer = SimpleQueue[int | Exception]()
        self._jobs.put((call, view[cut:], block_size, table[at:], number + half * step, step, answer))
        try:
            call(view[:cut], block_size, table[:at], number, step)
        finally:
            second = answer.get()  # nobody may still write to the caller's memory
        if isinstance(second, Exception):
            raise second
        return second

    def compare(self, data: Buffer, block_size: int, wanted: Buffer, number: int = 0, step: int = 0) -> int:
        return self._below.compare(data, block_size, wanted, number, step)


_starting = threading.Lock()
_jobs: SimpleQueue[_Job] | None = None


def _helper() -> SimpleQueue[_Job]:
    """Jobs of the one helper thread, which lives as long as the process."""
    global _jobs
    with _starting:
        if _jobs is None:
            _jobs = SimpleQueue()
            threading.Thread(target=_help, args=(_jobs,), name="digests", daemon=True).start()
        return _jobs


def _help(jobs: SimpleQueue[_Job]) -> None:
    while True:
        call, data, block_size, digests, number, step, answer = jobs.get()
        try:
            answer.put(call(data, block_size, digests, number, step))
        except Exception as exc:
            answer.put(exc)
        del data, digests, answer
