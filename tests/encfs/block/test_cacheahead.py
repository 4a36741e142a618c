"""What is guessed, and what earns no guess."""

from __future__ import annotations

import itertools
import random

from encfs.block.cacheahead import Predictor

KIB, MIB = 1 << 10, 1 << 20
SIZE = 1 << 30


def ranges(predictor: Predictor, requests: list[tuple[int, int]]) -> list[tuple[int, int]]:
    return [guess for offset, length in requests for guess in predictor.observe(offset, length)]


def test_a_run_is_guessed_whole_and_never_twice() -> None:
    predictor = Predictor(64 * MIB, 16 * MIB, 4 * MIB)
    found = ranges(predictor, [(n * 128 * KIB, 128 * KIB) for n in range(512)])
    assert found[0][0] == 256 * KIB
    assert all(a + length == b for (a, length), (b, _) in itertools.pairwise(found))
    assert sum(found[-1]) == 64 * MIB, "up to the end of the device and not past it"
    assert max(length for _, length in found) == 4 * MIB
    assert len(found) < 32


def test_requests_slightly_out_of_order_are_one_run() -> None:
    predictor = Predictor(SIZE, 16 * MIB, 4 * MIB)
    order = [0, 1, 3, 2, 5, 4, 7, 6, 8, 11, 9, 10]
    found = ranges(predictor, [(n * 128 * KIB, 128 * KIB) for n in order])
    assert found
    assert len({offset for offset, _ in found}) == len(found)


def test_several_readers_at_once() -> None:
    predictor = Predictor(SIZE, 8 * MIB, MIB)
    bases = [0, 300 * MIB, 700 * MIB]
    found = ranges(predictor, [(base + n * 64 * KIB, 64 * KIB) for n in range(20) for base in bases])
    for base in bases:
        assert any(base < offset <= base + 16 * MIB for offset, _ in found)


def test_steps_in_both_directions() -> None:
    for stride in (5 * MIB, -3 * MIB, -4 * KIB):
        predictor = Predictor(SIZE, 8 * MIB, MIB)
        start = 500 * MIB
        found = ranges(predictor, [(start + n * stride, 4 * KIB) for n in range(10)])
        assert {(start + n * stride, 4 * KIB) for n in range(3, 10)} <= set(found)


def test_random_reads_earn_next_to_nothing() -> None:
    chance = random.Random(1)
    predictor = Predictor(SIZE, 32 * MIB, 8 * MIB)
    found = ranges(predictor, [(chance.randrange(SIZE // 4096) * 4096, 4096) for _ in range(5000)])
    assert sum(length for _, length in found) < 5000 * 4096 // 10


def test_no_window_no_guess() -> None:
    assert ranges(Predictor(SIZE, 0, MIB), [(n * MIB, MIB) for n in range(50)]) == []
