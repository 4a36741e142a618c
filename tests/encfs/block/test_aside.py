"""Work beside the event loop: what it raises, that it overlaps, and that buffers outlive a cancellation."""

from __future__ import annotations

import threading

import pytest
import trio
import trio.testing

from encfs.block.aside import Aside, finish


async def test_runs_elsewhere_after_preparing_each_thread() -> None:
    prepared: list[int] = []
    aside = Aside(lambda: prepared.append(threading.get_ident()), threads=2)
    seen: list[int] = []
    await aside.run(lambda: seen.append(threading.get_ident()))
    aside.close()
    assert len(set(prepared)) == 2
    assert set(seen) < set(prepared)
    assert threading.get_ident() not in prepared


async def test_raises_what_the_job_raised() -> None:
    def fail() -> None:
        raise OSError("bad sector")

    aside = Aside(threads=1)
    with pytest.raises(OSError, match="bad sector"):
        await aside.run(fail)
    await aside.run(lambda: None)  # the thread lives on
    aside.close()


async def test_two_requests_are_worked_on_at_once() -> None:
    """Each waits for the other, which only ends when both run."""
    aside = Aside(threads=2)
    meeting = threading.Barrier(2, timeout=10)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(aside.run, lambda: meeting.wait() and None)
        nursery.start_soon(aside.run, lambda: meeting.wait() and None)
    aside.close()


async def test_a_cancelled_request_holds_on_until_its_work_is_done() -> None:
    aside = Aside(threads=1)
    go, ended = threading.Event(), False

    def work() -> None:
        nonlocal ended
        go.wait(10)
        ended = True

    async def request() -> None:
        await aside.run(work)
        assert ended

    async with trio.open_nursery() as nursery:
        nursery.start_soon(request)
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
        go.set()
    assert ended
    aside.close()


def test_a_device_that_waits_is_a_defect() -> None:
    async def waits() -> None:
        await trio.lowlevel.checkpoint()

    async def answers() -> None:
        pass

    finish(answers())
    with pytest.raises(RuntimeError, match="waited"):
        finish(waits())
