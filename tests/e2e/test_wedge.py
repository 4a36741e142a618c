"""A driver that stops answering: its supervisor cuts it off in time, everyone gets an error, nothing stays.

The driver is stopped with SIGSTOP, which looks from outside like the deadlock between driver and kernel: it
takes no request, it runs no event loop, it cannot be asked to end.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from fakes import load
from fakes.commands import Commands
from fakes.volumes import (
    Clients,
    State,
    is_running,
    loop_file,
    mounts_below,
    run_or_tear_down,
    state_of,
    tear_down,
    wait_until,
)

pytestmark = [pytest.mark.fuse, pytest.mark.root]

DEADLINE = 3.0
# From the deadline's end until everything is gone: the watch looks twice a second, the rest is unmounting.
SLACK = 6.0
CONNECTIONS = Path("/sys/fs/fuse/connections")


@pytest.fixture
def clients() -> Iterator[Clients]:
    started = Clients()
    yield started
    started.end()


@pytest.fixture
def volume(commands: Commands, clients: Clients) -> Iterator[Path]:
    """An image mounted at `mnt`, with a driver that is to be cut off soon; torn down by force at the end.

    Takes `clients` so that they end after it.
    """
    image = commands.folder / "data.img"
    mount(commands, image, create=True)
    try:
        yield image
    finally:
        tear_down(commands.folder / "run", commands.folder)


def mount(commands: Commands, image: Path, *, create: bool = False) -> None:
    if create:
        commands.run("encfs", "create", image, "--size", "192M", "--key-file", "key.bin", check=True)
    words = ("--key-file", "key.bin", "--deadline", str(DEADLINE))
    commands.run("encfs", "mount", image, commands.folder / "mnt", *words, check=True)


@pytest.fixture(params=["force-unmount", "abort-switch"])
def way_to_cut(request: pytest.FixtureRequest) -> Iterator[str]:
    """With and without fusectl: a container often has no `/sys/fs/fuse/connections`."""
    there = CONNECTIONS in mounts_below(CONNECTIONS.parent)
    if request.param == "force-unmount" and there:
        pytest.skip("fusectl is mounted on this machine, so the other way is never taken")
    if request.param == "abort-switch" and not there:
        subprocess.run(["mount", "-t", "fusectl", "fusectl", CONNECTIONS], check=True, timeout=10)
    yield str(request.param)
    if request.param == "abort-switch" and not there:
        subprocess.run(["umount", "-l", CONNECTIONS], check=True, timeout=10)  # others may look at it


def last_words(process: subprocess.Popen[str], timeout: float) -> str:
    """What a client printed last; a client that hangs fails the test, and the fixture frees it."""
    out, _ = process.communicate(timeout=timeout)
    assert process.returncode == 1
    return out.split()[-1]


def everything_is_gone(commands: Commands, state: State) -> None:
    assert not is_running(state.driver_pid)
    assert mounts_below(commands.folder) == []
    assert not (loop_file(state.loop) or "").startswith(str(state.device))
    left = list((commands.folder / "run").iterdir())
    assert [path for path in left if path.suffix != ".log"] == []
    assert all("cut off" in log.read_text() for log in left), "the log that stays says why"


def test_a_stopped_driver_is_cut_off(
    way_to_cut: str, commands: Commands, clients: Clients, volume: Path
) -> None:
    mnt = commands.folder / "mnt"
    run_or_tear_down(
        commands, sys.executable, load.__file__, "write", mnt / "block", str(1 << 20), "ab", timeout=30
    )
    state = state_of(commands.folder / "run")
    started = [clients.start("store", mnt / "store"), clients.start("read", mnt / "block")]
    os.kill(state.driver_pid, signal.SIGSTOP)
    stopped = time.monotonic()
    assert [last_words(process, DEADLINE + SLACK) for process in started] == ["EIO", "EIO"]
    assert time.monotonic() - stopped > DEADLINE - 1, "cut off before its deadline"
    wait_until(lambda: not is_running(state.supervisor_pid), SLACK, "the supervisor has ended")
    everything_is_gone(commands, state)

    mount(commands, volume)  # replays the journal
    run_or_tear_down(
        commands, sys.executable, load.__file__, "check", mnt / "block", str(1 << 20), "ab", timeout=30
    )
    run_or_tear_down(commands, "encfs", "unmount", mnt, timeout=30)


def test_a_driver_stopped_at_rest_is_cut_off_too(commands: Commands, volume: Path) -> None:
    state = state_of(commands.folder / "run")
    os.kill(state.driver_pid, signal.SIGSTOP)
    wait_until(lambda: not is_running(state.supervisor_pid), DEADLINE + SLACK, "the supervisor has ended")
    everything_is_gone(commands, state)


def test_a_driver_is_cut_off_although_its_supervisor_is_held_up(commands: Commands, clients: Clients) -> None:
    """What holds it up here is a log that nobody reads; in a group short of memory it is the kernel."""
    image, mnt = commands.folder / "data.img", commands.folder / "mnt"
    commands.run("encfs", "create", image, "--size", "64M", "--key-file", "key.bin", check=True)
    words = ("--key-file", "key.bin", "--foreground", "--deadline", str(DEADLINE))
    reading, writing = os.pipe()
    supervisor = subprocess.Popen(
        ["encfs", "mount", image, mnt, *words],
        cwd=commands.folder,
        env=commands.child_environment(),
        stdout=subprocess.PIPE,
        stderr=writing,
        text=True,
    )
    try:
        assert supervisor.stdout is not None
        assert supervisor.stdout.readline().startswith("ready")
        state = state_of(commands.folder / "run")
        writer = clients.start("store", mnt / "store")
        fill(writing)
        supervisor.terminate()  # it says so in its log, first of all
        wait_until(lambda: "pipe_write" in waits_in(supervisor.pid), 10, "the supervisor is held up")
        os.kill(state.driver_pid, signal.SIGSTOP)
        assert last_words(writer, DEADLINE + SLACK) == "EIO"
        assert "pipe_write" in waits_in(supervisor.pid), "it was not held up, so this proves nothing"
        os.close(reading)
        supervisor.wait(SLACK)
        assert mounts_below(commands.folder) == []
    finally:
        os.close(writing)
        tear_down(commands.folder / "run", commands.folder)
        supervisor.kill()
        supervisor.communicate(timeout=SLACK)


def fill(pipe: int) -> None:
    """Write to a pipe until it takes no more."""
    os.set_blocking(pipe, False)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(pipe, bytes(1))
    os.set_blocking(pipe, True)


def waits_in(pid: int) -> str:
    """Kernel function that a process sleeps in; empty when it does not."""
    return Path(f"/proc/{pid}/wchan").read_text()


def test_a_driver_that_goes_on_in_time_keeps_its_volume(
    commands: Commands, clients: Clients, volume: Path
) -> None:
    state, mnt = state_of(commands.folder / "run"), commands.folder / "mnt"
    writer = clients.start("store", mnt / "store")
    os.kill(state.driver_pid, signal.SIGSTOP)
    time.sleep(DEADLINE / 2)  # the thing under test is a span of real time
    os.kill(state.driver_pid, signal.SIGCONT)
    assert writer.stdout is not None
    assert [writer.stdout.readline() for _ in range(50)][-1].strip().isdigit()
    writer.terminate()
    writer.wait(10)
    run_or_tear_down(commands, "encfs", "unmount", mnt, timeout=30)


def test_the_reason_is_told(commands: Commands, capfd: pytest.CaptureFixture[str]) -> None:
    image, mnt = commands.folder / "data.img", commands.folder / "mnt"
    commands.run("encfs", "create", image, "--size", "64M", "--key-file", "key.bin", check=True)
    words = ("--key-file", "key.bin", "--foreground", "--deadline", "1")
    try:
        with commands.serving("encfs", "mount", image, mnt, *words, ready="ready") as supervisor:
            os.kill(state_of(commands.folder / "run").driver_pid, signal.SIGSTOP)
            assert supervisor.wait(1 + SLACK) == 8
    finally:
        tear_down(commands.folder / "run", commands.folder)
    said = capfd.readouterr().err
    assert "answered nothing for 1 s and was cut off" in said
    assert "encfs: hint: everyone got EIO" in said
