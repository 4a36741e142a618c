"""A mutating fuzzer for codecs: whatever the bytes, only the package's own errors may come out.

From a test, `run` one target for a time; from a shell, all of them, or those named:

    PYTHONPATH=tests:. python -W ignore tests/fakes/fuzz.py SECONDS [TARGET ...]

A run is reproducible by its seed, which is printed with the first failure, next to the input in base64.
"""

from __future__ import annotations

import base64
import random
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

INTERESTING = [0, 1, 2, 23, 24, 0x7F, 0x80, 0xFF, 0x100, 0xFFFF, 0x10000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF]


@dataclass(frozen=True)
class Target:
    """A codec and inputs to start from.

    `call` takes bytes; `allowed` are the errors that it may raise. `size` keeps every input that long, for a
    format of fixed size where nothing else gets past the first check.
    """

    name: str
    seeds: Sequence[bytes]
    call: Callable[[bytes], object]
    allowed: type[Exception]
    max_size: int = 64 * 1024
    size: int = 0


@dataclass
class Outcome:
    """How often a run was accepted and refused."""

    runs: int = 0
    accepted: int = 0


def mutate(data: bytes, other: bytes, rng: random.Random, max_size: int) -> bytes:
    """One to six changes: bits, bytes, words of two or four, pieces dropped, made up, repeated or spliced."""
    changed = bytearray(data)
    for _ in range(rng.randint(1, 6)):
        position = rng.randrange(len(changed) + 1)
        length = rng.randint(1, max(1, min(64, len(changed))))
        kind = rng.randrange(9)
        if kind == 0 and position < len(changed):
            changed[position] ^= 1 << rng.randrange(8)
        elif kind == 1 and position < len(changed):
            changed[position] = rng.randrange(256)
        elif kind in (2, 3):
            size = rng.choice((2, 4))
            order = rng.choice(("little", "big"))
            value = rng.choice(INTERESTING) & (1 << 8 * size) - 1
            changed[position : position + size] = value.to_bytes(size, order)
        elif kind == 4:
            del changed[position : position + length]
        elif kind == 5:
            changed[position:position] = rng.randbytes(length)
        elif kind == 6:
            changed[position:position] = changed[rng.randrange(len(changed) + 1) :][:length]
        elif kind == 7:
            start = rng.randrange(len(other) + 1)
            changed[position : position + length] = other[start : start + length]
        elif rng.randrange(8) == 0:
            del changed[position:]
    return bytes(changed[:max_size])


def run(target: Target, seconds: float, seed: int = 1) -> Outcome:
    """Fuzz for a time; raises AssertionError, with what is needed to repeat it, on any other error."""
    rng = random.Random(f"{target.name}/{seed}")
    pool = list(target.seeds)
    outcome = Outcome()
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        data = mutate(rng.choice(pool), rng.choice(pool), rng, target.max_size)
        if target.size and rng.randrange(16):
            data = data[: target.size].ljust(target.size, b"\0")
        outcome.runs += 1
        try:
            target.call(data)
        except target.allowed:
            continue
        except Exception as exc:
            text = base64.b64encode(data).decode()
            raise AssertionError(f"{target.name}, seed {seed}: {exc!r} for {text}") from exc
        outcome.accepted += 1
        # What is accepted is worth changing further.
        if len(pool) < 200:
            pool.append(data)
    return outcome


def main(seconds: str, *names: str) -> None:
    from fakes.snp_targets import targets

    seed = random.SystemRandom().randrange(1 << 32)
    for target in targets():
        if not names or target.name in names:
            outcome = run(target, float(seconds), seed)
            print(f"{target.name}: {outcome.runs} runs, {outcome.accepted} accepted, seed {seed}", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
