"""Waiting for a descriptor: at once when it is ready, for a moment without sleep, then asleep."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator

import pytest
import trio
import trio.testing

from encfs import eager
from encfs.eager import EagerLock, EagerWait, Trial, eager_trio


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


@pytest.mark.parametrize(("busy", "lingers"), [(True, False), (False, True)])
async def test_lingers_only_when_nothing_else_waits(
    pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch, busy: bool, lingers: bool
) -> None:
    # Without a turn, a scope that is cancelled already ends the wait where it would sleep for good.
    monkeypatch.setattr(eager, "TURN_SECONDS", 60)
    wait = EagerWait(lambda: busy, linger=0.2)
    start = time.perf_counter()
    with trio.move_on_after(0):
        await wait(pipe[0])
    assert (time.perf_counter() - start >= 0.2) == lingers


async def test_lingering_sleeps_and_ends_with_the_first_byte(pipe: tuple[int, int]) -> None:
    wait = EagerWait(lambda: False, linger=20)
    timer = threading.Timer(0.2, os.write, (pipe[1], b"x"))
    timer.start()
    start, used = time.perf_counter(), time.thread_time()
    await wait(pipe[0])
    assert time.perf_counter() - start < 10
    assert time.thread_time() - used < 0.1
    timer.join()


@pytest.mark.parametrize("busy", [False, True])
async def test_other_tasks_run_although_there_is_always_something(pipe: tuple[int, int], busy: bool) -> None:
    """Within a millisecond; at once when a request waits for something that the loop may bring."""
    os.write(pipe[1], b"x")
    wait = EagerWait(lambda: busy)
    ran = trio.Event()

    async def other() -> None:
        ran.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(other)
        end = time.perf_counter() + 1
        calls = 0
        while not ran.is_set():
            await wait(pipe[0])
            calls += 1
            assert time.perf_counter() < end, "the other task starved"
    assert (calls <= 2) == busy  # trio shuffles tasks that are ready in the same turn


class TestLock:
    async def test_free_is_taken_without_letting_others_run(self) -> None:
        lock, ran = EagerLock(), trio.Event()

        async def other() -> None:
            ran.set()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(other)
            for _ in range(100):
                async with lock:
                    pass
            assert not ran.is_set()

    async def test_one_at_a_time_and_nobody_is_forgotten(self) -> None:
        lock = EagerLock()
        inside, done = 0, 0

        async def work() -> None:
            nonlocal inside, done
            for _ in range(20):
                async with lock:
                    inside += 1
                    assert inside == 1
                    await trio.lowlevel.checkpoint()
                    inside -= 1
            done += 1

        async with trio.open_nursery() as nursery:
            for _ in range(5):
                nursery.start_soon(work)
        assert done == 5

    async def test_a_cancelled_waiter_leaves_the_queue(self) -> None:
        lock = EagerLock()
        async with trio.open_nursery() as nursery, lock:

            async def wait() -> None:
                async with lock:
                    raise AssertionError("was cancelled while it waited")

            nursery.start_soon(wait)
            await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
        async with lock:
            pass


def test_the_stand_in_is_trio_otherwise() -> None:
    wait = EagerWait(lambda: False)
    stand_in = eager_trio(wait)
    assert stand_in.lowlevel.wait_readable is wait
    assert stand_in.Lock is EagerLock
    assert stand_in.open_nursery is trio.open_nursery
    assert stand_in.lowlevel.notify_closing is trio.lowlevel.notify_closing


def looking(trial: Trial, start: float, seconds: float, asleep: float, looks: float) -> float:
    """Share of requests that are looked on for, when one takes so many seconds asleep, or looking on."""
    now, count, looked = start, 0, 0
    while now < start + seconds:
        looked += trial.looks
        count += 1
        now += looks if trial.looks else asleep
        trial.served(now)
    return looked / count


def test_looks_on_only_where_that_serves_more() -> None:
    quiet, crowded = (80e-6, 50e-6), (30e-6, 300e-6)
    trial = Trial()
    assert looking(trial, 100, 5, *quiet) > 0.95
    looking(trial, 105, 1, *crowded)  # finds out at the next try
    assert looking(trial, 106, 5, *crowded) < 0.02
    looking(trial, 111, 1, *quiet)
    assert looking(trial, 112, 5, *quiet) > 0.95


def test_what_makes_no_difference_sleeps() -> None:
    assert looking(Trial(), 0, 10, 80e-6, 75e-6) < 0.05


def test_a_light_load_is_never_looked_on_for() -> None:
    """Not even for a try: an idle volume costs nothing."""
    assert looking(Trial(), 0, 30, 1e-3, 1e-3) == 0


def test_looking_on_ends_with_the_load() -> None:
    trial = Trial()
    assert looking(trial, 0, 3, 80e-6, 50e-6) > 0.9
    looking(trial, 3, 1.1, 5e-3, 5e-3)
    assert looking(trial, 4.1, 10, 5e-3, 5e-3) == 0
    assert not trial.served(1000.0)


async def test_looking_on_ends_by_itself(pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Trial, "served", lambda self, now: True)
    monkeypatch.setattr(eager, "LOOK_SECONDS", 0.1)
    wait = EagerWait(lambda: False, linger=0)
    start = time.thread_time()
    with trio.move_on_after(0.3) as scope:
        await wait(pipe[0])
    assert scope.cancelled_caught
    assert time.thread_time() - start < 0.2
    os.write(pipe[1], b"x")
    with trio.fail_after(1):
        await wait(pipe[0])
