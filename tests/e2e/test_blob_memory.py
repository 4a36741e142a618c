"""The deadlock of this architecture (see `test_memory`), provoked over a network.

Writer, supervisor, driver and its cache share one small cgroup, and what they write has to leave by sockets.

The store and its proxy are outside the group, as a real store is.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from fakes import load
from fakes.azurite import azurite as azurite_in
from fakes.blobservice import BlobService
from fakes.cgroup import MemoryGroup, NoMemoryController, memory_group
from fakes.commands import Commands
from fakes.faultproxy import fault_proxy
from fakes.needs import lacking
from fakes.remote import Remote, make_remote
from fakes.volumes import Clients, is_running, mounts_below, run_or_tear_down, state_of, tear_down, wait_until

pytestmark = [pytest.mark.fuse, pytest.mark.root, pytest.mark.azurite]

MIB = 1 << 20
LIMIT = 512 * MIB
CACHE = 128 * MIB
BOUND = 300.0
DEADLINE = 8.0


@pytest.fixture
def clients() -> Iterator[Clients]:
    started = Clients()
    yield started
    started.end()


@pytest.fixture
def remote(
    request: pytest.FixtureRequest, commands: Commands, azurite: BlobService, clients: Clients
) -> Iterator[Remote]:
    """A volume with room for what is written, nearly all of it holes; over TLS without the proxy."""
    words = request.node.callspec.params
    size = "2300M" if words["limit"] == LIMIT else "400M"
    with ExitStack() as stack:
        store = azurite
        if words.get("tls"):
            store = stack.enter_context(azurite_in(commands.folder, tls=True))
            commands.environment |= store.environment
        proxy, base = stack.enter_context(fault_proxy(azurite.base))
        try:
            yield make_remote(commands, store, proxy, store.base if words.get("tls") else base, size=size)
        finally:
            proxy.flow()
            tear_down(commands.folder / "run", commands.folder)
            for path in (commands.folder / "run").glob("*.log"):
                print(path.read_text())  # shown when a test fails


@pytest.fixture
def group(request: pytest.FixtureRequest, commands: Commands, remote: Remote) -> Iterator[MemoryGroup]:
    """A small group; a volume that hangs in it is torn down first, so that its members can end."""
    limit = request.node.callspec.params["limit"]
    try:
        with memory_group(limit) as made:
            try:
                yield made
            finally:
                remote.proxy.flow()
                tear_down(commands.folder / "run", commands.folder)
    except NoMemoryController as exc:
        lacking(str(exc))


def resident(pid: int) -> int:
    """Most bytes of memory a process ever had."""
    with open(f"/proc/{pid}/status") as file:
        lines = dict(line.split(":", 1) for line in file)
    return int(lines["VmHWM"].split()[0]) << 10


@pytest.mark.parametrize("tls", [False, True])
@pytest.mark.parametrize(
    ("limit", "cache", "written"),
    [(224 * MIB, 32 * MIB, 288 * MIB), pytest.param(LIMIT, CACHE, 2048 * MIB, marks=pytest.mark.slow)],
)
def test_writing_more_than_memory_holds_ends(
    remote: Remote, group: MemoryGroup, limit: int, cache: int, written: int, tls: bool
) -> None:
    remote.mount("--cache-size", str(cache), group=group.words())
    state = state_of(remote.commands.folder / "run")
    assert {state.supervisor_pid, state.driver_pid} <= set(group.members())
    words = (*group.words(), sys.executable, load.__file__)
    rest = (remote.mnt / "large", str(written), os.urandom(32).hex())
    run_or_tear_down(remote.commands, *words, "write", *rest, timeout=BOUND)
    run_or_tear_down(remote.commands, *words, "check", *rest, timeout=BOUND)
    assert group.peak() > limit * 9 // 10, "the group was never short of memory, so this proves nothing"
    assert group.times_killed() == 0
    print(f"driver: at most {resident(state.driver_pid) >> 10} KiB")
    assert resident(state.driver_pid) < cache + 64 * MIB
    remote.unmount(timeout=BOUND)


@pytest.mark.parametrize(
    ("limit", "cache"), [(224 * MIB, 32 * MIB), pytest.param(LIMIT, CACHE, marks=pytest.mark.slow)]
)
def test_a_store_that_stops_answering_under_pressure_is_an_error_in_time(
    remote: Remote, clients: Clients, group: MemoryGroup, limit: int, cache: int
) -> None:
    remote.mount("--cache-size", str(cache), "--deadline", str(DEADLINE), group=group.words())
    state = state_of(remote.commands.folder / "run")
    writer = clients.start("fill", remote.mnt / "large", group=group.words())
    wait_until(lambda: group.peak() > limit * 9 // 10, 60, "the group is full")
    remote.proxy.stall()
    stalled = time.monotonic()
    out, _ = writer.communicate(timeout=2 * DEADLINE + 20)
    assert out.split()[-1] in ("EIO", "EROFS")
    assert time.monotonic() - stalled < DEADLINE + 8
    assert group.times_killed() == 0
    remote.proxy.flow()
    tell = remote.commands.run("encfs", "unmount", remote.mnt, timeout=60)
    assert tell.code != 0, "that something was not stored is said"
    if is_running(state.supervisor_pid):
        remote.commands.run("encfs", "unmount", remote.mnt, timeout=60)
    wait_until(lambda: not is_running(state.supervisor_pid), 30, "the supervisor has ended")
    assert mounts_below(remote.commands.folder) == []
    remote.replay()
