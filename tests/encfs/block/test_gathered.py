"""Room for gathered blocks: what lies together, what keeps its place, when it is full."""

from __future__ import annotations

import random

from encfs.block.gathered import Gathered, Run
from encfs.integrity.layout import TAG_SIZE

SIZE = 512


def fill(gathered: Gathered, first: int, count: int, mark: int) -> int:
    """Write blocks as a volume does; how many there was room for."""
    done = 0
    while done < count and (run := gathered.room(first + done, count - done)) is not None:
        run.data[:] = bytes([mark]) * len(run.data)
        run.tags[:] = bytes([mark]) * len(run.tags)
        gathered.add(run)
        done += len(run.tags) // TAG_SIZE
    return done


def content(runs: list[Run]) -> dict[int, int]:
    """Block -> the byte it is filled with."""
    found = {}
    for run in runs:
        for index in range(len(run.tags) // TAG_SIZE):
            part = run.part(index, 1, SIZE)
            values = {*bytes(part.data), *bytes(part.tags)}
            assert (len(values), len(part.data), len(part.tags)) == (1, SIZE, TAG_SIZE)
            found[part.first] = values.pop()
    return found


def test_what_is_written_in_order_is_one_run() -> None:
    gathered = Gathered(10, SIZE)
    assert [fill(gathered, 5, 3, 1), fill(gathered, 8, 2, 2)] == [3, 2]
    (run,) = gathered.runs()
    assert (run.first, len(run.data)) == (5, 5 * SIZE)
    assert content([run]) == {5: 1, 6: 1, 7: 1, 8: 2, 9: 2}


def test_a_block_written_again_keeps_its_place() -> None:
    gathered = Gathered(4, SIZE)
    fill(gathered, 1, 3, 1)
    assert fill(gathered, 0, 5, 2) == 4, "three are there, one has room, one has none"
    assert content(gathered.runs()) == {0: 2, 1: 2, 2: 2, 3: 2}
    assert gathered.room(9, 1) is None
    assert bytes(gathered.get(2).data) == bytes([2]) * SIZE
    assert 9 not in gathered


def test_nothing_is_there_before_it_is_added() -> None:
    gathered = Gathered(4, SIZE)
    assert gathered.room(7, 2) is not None
    assert (len(gathered), 7 in gathered, gathered.runs()) == (0, False, [])


def test_agrees_with_a_dictionary() -> None:
    dice = random.Random(7)
    gathered, model = Gathered(64, SIZE), dict[int, int]()
    for mark in range(1, 250):
        first, count = dice.randrange(120), dice.randint(1, 20)
        done = fill(gathered, first, count, mark)
        model.update(dict.fromkeys(range(first, first + done), mark))
        assert done == count or len(model) == 64
        runs = gathered.runs()
        assert content(runs) == model
        assert [run.first for run in runs] == sorted(run.first for run in runs)
        assert len(gathered) == len(model)
        if done < count:
            gathered.clear()
            model.clear()
