"""The deadlock of this architecture, provoked: writer, supervisor and driver share one small cgroup.

The page cache of the written file fills the group; the kernel then makes whoever needs memory wait for
writeback, which is work of the driver. A driver that needs memory to do it hangs for ever
(docs/architecture.md, memory).
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from fakes import load as load_program
from fakes.cgroup import MemoryGroup, NoMemoryController, memory_group
from fakes.commands import Commands
from fakes.needs import lacking
from fakes.volumes import run_or_tear_down, tear_down

pytestmark = [pytest.mark.fuse, pytest.mark.root]

MIB = 1 << 20
LIMIT = 512 << 20
# Generous: the whole takes ten seconds or so; a deadlock takes for ever.
BOUND = 150.0


@pytest.fixture
def group(commands: Commands) -> Iterator[MemoryGroup]:
    """A group of 512 MiB; a volume that hangs in it is torn down first, so that its members can end."""
    try:
        with memory_group(LIMIT) as made:
            try:
                yield made
            finally:
                tear_down(commands.folder / "run", commands.folder)
    except NoMemoryController as exc:
        lacking(str(exc))


@pytest.mark.parametrize(
    ("options", "written"), [((), 2048 * MIB), (("--integrity", "hmac-sha256"), 1024 * MIB)]
)
def test_writing_more_than_memory_holds_ends(
    commands: Commands, group: MemoryGroup, options: tuple[str, ...], written: int
) -> None:
    image, mnt = Path("data.img"), commands.folder / "mnt"
    size = f"{written // MIB + 252}M"
    commands.run("encfs", "create", image, "--size", size, "--key-file", "key.bin", *options, check=True)
    commands.run(*group.words(), "encfs", "mount", image, mnt, "--key-file", "key.bin", check=True)
    assert len(group.members()) >= 2, "supervisor and driver are not both in the group"
    load = (*group.words(), sys.executable, load_program.__file__)
    words = (mnt / "large", str(written), os.urandom(32).hex())
    run_or_tear_down(commands, *load, "write", *words, timeout=BOUND)
    run_or_tear_down(commands, *load, "check", *words, timeout=BOUND)
    assert group.peak() > LIMIT // 2, "the group was never short of memory, so this proves nothing"
    assert group.times_killed() == 0
    run_or_tear_down(commands, "encfs", "unmount", mnt, timeout=BOUND)
