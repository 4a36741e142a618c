"""Waiting for a descriptor: at once when it is ready, for a moment without sleep, then asleep."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator

import pytest
import trio
import trio.testing

from encfs.eager import EagerWait, eager_trio


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    ends = os.pipe()
    yield ends
    for end in ends:
        os.close(end)


async def test_ready_returns_at_once(pipe: tuple[int, int]) -> None:
    os.write(pipe[1], b"x")
    with trio.fail_after(1):
        await EagerWait(lambda: False)(pipe[0])


async def test_waits_asleep_until_something_comes(pipe: tuple[int, int]) -> None:
    wait = EagerWait(lambda: False)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait, pipe[0])
        await trio.testing.wait_all_tasks_blocked()
        os.write(pipe[1], b"x")


async def test_is_cancelled_while_asleep(pipe: tuple[int, int]) -> None:
    with trio.move_on_after(0.05) as scope:
        await EagerWait(lambda: False)(pipe[0])
    assert scope.cancelled_caught


@pytest.mark.parametrize(("busy", "spins"), [(True, False), (False, True)])
async def test_looks_on_only_when_nothing_else_waits(pipe: tuple[int, int], busy: bool, spins: bool) -> None:
    wait = EagerWait(lambda: busy, spin=0.2)
    start = time.perf_counter()
    with trio.move_on_after(0):
        await wait(pipe[0])
    assert (time.perf_counter() - start >= 0.2) == spins


def test_the_stand_in_is_trio_otherwise() -> None:
    wait = EagerWait(lambda: False)
    stand_in = eager_trio(wait)
    assert stand_in.lowlevel.wait_readable is wait
    assert stand_in.Lock is trio.Lock
    assert stand_in.lowlevel.notify_closing is trio.lowlevel.notify_closing
