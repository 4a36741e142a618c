"""Real file systems on blobs whose store is slow, wrong or gone: nothing is lost, nobody hangs."""

from __future__ import annotations

import os
import random
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from fakes import fsx, load
from fakes.azurite import azurite as azurite_in
from fakes.blobservice import BlobService
from fakes.commands import Commands
from fakes.faultproxy import Rule, fault_proxy
from fakes.remote import Remote, make_remote
from fakes.volumes import Clients, is_running, mounts_below, run_or_tear_down, state_of, tear_down, wait_until

from encfs.errors import ExitCode

pytestmark = [pytest.mark.fuse, pytest.mark.root, pytest.mark.azurite]

PROGRAM = (sys.executable, load.__file__)
# Faults that a client must survive unharmed, at a rate that lets some requests through at once.
WEATHER = {"500": 0.03, "503": 0.03, "reset": 0.02, "lost": 0.02, "cut": 0.02}


@pytest.fixture
def clients() -> Iterator[Clients]:
    started = Clients()
    yield started
    started.end()


@pytest.fixture
def remote(commands: Commands, azurite: BlobService, clients: Clients) -> Iterator[Remote]:
    """A volume of 64 MiB behind a proxy that does nothing yet."""
    with volume_in(azurite, commands) as made:
        yield made


@pytest.fixture
def remote_on_disk(commands: Commands, tmp_path: Path, clients: Clients) -> Iterator[Remote]:
    """The same in a store of its own, which can take writes for longer than ten minutes."""
    folder = tmp_path / "store"
    folder.mkdir()
    with azurite_in(folder, in_memory=False) as store, volume_in(store, commands) as made:
        yield made


@contextmanager
def volume_in(store: BlobService, commands: Commands) -> Iterator[Remote]:
    with fault_proxy(store.base) as (proxy, base):
        try:
            yield make_remote(commands, store, proxy, base, size="64M")
        finally:
            proxy.rules.clear()
            proxy.come_back()
            proxy.flow()
            tear_down(commands.folder / "run", commands.folder)
            for path in (commands.folder / "run").glob("*.log"):
                print(path.read_text())  # shown when a test fails


def bad_weather(remote: Remote) -> None:
    remote.proxy.latency = 0.005
    remote.proxy.rules += [Rule(kind, share=share) for kind, share in WEATHER.items()]  # type: ignore[arg-type]


def fair_weather(remote: Remote) -> None:
    remote.proxy.latency = 0.0
    remote.proxy.rules.clear()


def is_clean(remote: Remote) -> bool:
    result = remote.check()
    assert result.code == 0, (result.out, result.err)
    return "ok   file system  clean" in result.out


def tell(remote: Remote) -> None:
    """For the fault table of docs/remote.md: what was injected (`pytest -rP` shows it)."""
    faults = dict(sorted(remote.proxy.injected.items()))
    print(f"requests {dict(remote.proxy.requests)}, injected {faults}")


def run_fsx(remote: Remote, seconds: float, seed: int) -> None:
    remote.mount("--cache-size", "16M", "--write-delay", "0.2")
    bad_weather(remote)
    words = (sys.executable, fsx.__file__, remote.mnt / "file", str(seconds), str(seed))
    run_or_tear_down(remote.commands, *words, timeout=seconds + 150)
    fair_weather(remote)
    remote.unmount()
    assert is_clean(remote)
    assert set(remote.proxy.injected) >= set(WEATHER), "every fault was injected"
    tell(remote)


def test_random_operations_agree_with_a_model(remote: Remote) -> None:
    run_fsx(remote, 5, 1)


@pytest.mark.slow
def test_random_operations_agree_with_a_model_for_ten_minutes(remote_on_disk: Remote) -> None:
    run_fsx(remote_on_disk, 600, 2)


@pytest.mark.parametrize("size", ["8M", pytest.param("40M", marks=pytest.mark.slow)])
def test_fio_verifies_what_it_wrote(remote: Remote, size: str) -> None:
    remote.mount("--cache-size", "16M")
    bad_weather(remote)
    words = ["fio", "--name=v", f"--directory={remote.mnt}", f"--size={size}", "--rw=randrw", "--bs=512-64k"]
    words += ["--verify=crc32c", "--verify_fatal=1", "--fsync=64", "--invalidate=1", "--bsrange=512-64k"]
    run_or_tear_down(remote.commands, *words, timeout=600)
    fair_weather(remote)
    remote.unmount()
    assert is_clean(remote)
    tell(remote)


def mount_patiently(remote: Remote, *options: str) -> None:
    """Mount, again while the store does not answer: Azurite collects garbage for minutes."""
    url, *rest = remote.words(*options)
    deadline = time.monotonic() + 900
    while True:
        result = remote.commands.run("encfs", "mount", url, remote.mnt, *rest)
        if result.code == 0:
            return
        assert result.code == ExitCode.STORE, result
        assert "no answer" in result.err, result
        assert time.monotonic() < deadline, result


def kill_and_verify(remote: Remote, clients: Clients, chance: random.Random, number: int) -> int:
    """One life of a driver, ended at a random moment; how many records were acknowledged in it."""
    mount_patiently(remote, "--cache-size", "16M", "--write-delay", "0.05")
    state = state_of(remote.commands.folder / "run")
    folder = remote.mnt / f"store-{number}"
    if number:
        shutil.rmtree(remote.mnt / f"store-{number - 1}")  # the volume is small
    writer = clients.start("store", folder)
    time.sleep(chance.uniform(0, 0.7))  # the moment is what is under test
    os.kill(state.driver_pid, signal.SIGKILL)
    out, _ = writer.communicate(timeout=60)
    assert "ENOSPC" not in out, "the volume is too small for this test"
    acknowledged = 1 + sum(word.isdigit() for word in out.split())
    wait_until(lambda: not is_running(state.supervisor_pid), 20, "the supervisor has ended")
    assert mounts_below(remote.commands.folder) == []
    verify_store(remote, folder.name, acknowledged)
    return acknowledged


def verify_store(remote: Remote, folder: str, acknowledged: int) -> None:
    """Every record that was acknowledged is in the blob."""
    top = remote.commands.folder
    remote.replay(top, folder)
    run_or_tear_down(remote.commands, *PROGRAM, "verify", top / folder, str(acknowledged), timeout=60)
    shutil.rmtree(top / folder)


@pytest.mark.parametrize("times", [3, pytest.param(100, marks=pytest.mark.slow)])
def test_a_killed_driver_loses_nothing_acknowledged(remote: Remote, clients: Clients, times: int) -> None:
    chance = random.Random(times)
    records = [kill_and_verify(remote, clients, chance, number) for number in range(times)]
    assert sum(records) > 2 * times, "the writer got somewhere"
    print(f"{times} drivers killed, {sum(records)} records acknowledged and found")


def outage(remote: Remote, clients: Clients, seconds: float, deadline: float) -> None:
    """The store goes away under a writer and comes back before anybody gives up."""
    remote.mount("--cache-size", "16M", "--deadline", str(deadline))
    writer = clients.start("store", remote.mnt / "store")
    remote.proxy.go_down()
    time.sleep(seconds)  # an outage is a span of real time
    remote.proxy.come_back()
    assert writer.stdout is not None
    start = time.monotonic()
    said = [writer.stdout.readline().strip() for _ in range(30)]
    assert all(word.isdigit() for word in said), said
    assert time.monotonic() - start < 20, "it goes on soon after the store is back"
    writer.terminate()
    writer.wait(20)
    remote.unmount()
    assert is_clean(remote)
    verify_store(remote, "store", int(said[-1]) + 1)
    assert remote.proxy.injected["refused"] > 0


def test_an_outage_loses_nothing(remote: Remote, clients: Clients) -> None:
    outage(remote, clients, 4, 30)


@pytest.mark.slow
def test_an_outage_of_a_minute_loses_nothing(remote: Remote, clients: Clients) -> None:
    outage(remote, clients, 60, 150)


def test_an_outage_longer_than_the_deadline_is_an_error_in_time(remote: Remote, clients: Clients) -> None:
    deadline = 5.0
    remote.mount("--cache-size", "16M", "--deadline", str(deadline))
    state = state_of(remote.commands.folder / "run")
    writer = clients.start("store", remote.mnt / "store")
    remote.proxy.go_down()
    start = time.monotonic()
    out, _ = writer.communicate(timeout=deadline + 10)
    assert time.monotonic() - start < deadline + 2
    *numbers, error = out.split()
    assert error in ("EIO", "EROFS")
    remote.proxy.come_back()
    told = remote.commands.run("encfs", "unmount", remote.mnt)
    assert "writing back failed" in told.err
    remote.unmount()
    wait_until(lambda: not is_running(state.supervisor_pid), 30, "the supervisor has ended")
    assert mounts_below(remote.commands.folder) == []
    verify_store(remote, "store", 1 + len(numbers))


def test_a_refused_condition_makes_the_volume_read_only(remote: Remote, clients: Clients) -> None:
    """412 to a write whose condition should hold: somebody else changed the blob, so we must not."""
    remote.mount("--cache-size", "16M")
    writer = clients.start("store", remote.mnt / "store")
    remote.proxy.rules.append(Rule("412", "PUT", count=1))
    out, _ = writer.communicate(timeout=60)
    *numbers, error = out.split()
    assert error in ("EIO", "EROFS")
    assert (remote.mnt / "store" / "0").read_bytes() == load.contents(0), "reading goes on"
    ended = remote.commands.run("encfs", "unmount", remote.mnt)
    assert ended.code != 0, "that something was not stored is said"
    verify_store(remote, "store", 1 + len(numbers))


def test_fsync_of_one_page_is_one_put(remote: Remote) -> None:
    plain = remote.commands.folder / "plain"
    plain.mkdir()
    url, *rest = remote.words()
    with remote.commands.serving("encfs", "expose", url, plain, *rest, ready="ready"):
        fd = os.open(plain / "data", os.O_RDWR)
        page = os.pread(fd, 4096, 32 << 20)
        before = remote.proxy.requests["PUT"]
        for _ in range(5):
            os.pwrite(fd, page, 32 << 20)
            os.fsync(fd)
        # A renewal of the lease may come in between.
        assert 5 <= remote.proxy.requests["PUT"] - before <= 6
        os.close(fd)
