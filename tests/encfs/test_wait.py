"""`encfs wait`: what counts as ready, and what is said when the time is up."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from encfs.errors import NotMounted
from encfs.wait import obstacle, wait_for

pytestmark = pytest.mark.root


@pytest.fixture
def mounted(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / ".filesystem-0"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", folder], check=True, timeout=20)
    yield folder
    subprocess.run(["umount", folder], check=True, timeout=20)


def test_what_stands_in_the_way(tmp_path: Path, mounted: Path) -> None:
    link = tmp_path / "data"
    assert obstacle(link) == "not there"
    link.symlink_to("bare")
    (tmp_path / "bare").mkdir()
    assert "where nothing is mounted" in obstacle(link)
    link.unlink()
    link.symlink_to(mounted.name)
    assert obstacle(link) == ""
    assert obstacle(mounted) == "", "without a link too"
    assert obstacle(tmp_path / "bare") == "not mounted"


async def test_it_tells_each_and_ends_with_the_last(tmp_path: Path, mounted: Path) -> None:
    told: list[Path] = []
    first, second = tmp_path / "first", tmp_path / "second"
    first.symlink_to(mounted.name)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait_for, [first, second], 20, told.append)
        while not told:
            await trio.sleep(0.01)
        assert told == [first]
        second.symlink_to(mounted.name)
    assert told == [first, second]


async def test_time_is_up(tmp_path: Path, mounted: Path) -> None:
    (tmp_path / "there").symlink_to(mounted.name)
    told: list[Path] = []
    with pytest.raises(NotMounted, match=r"missing: not there after 0\.1 s") as caught:
        await wait_for([tmp_path / "there", tmp_path / "missing"], 0.1, told.append)
    assert "mountPropagation" in caught.value.hint
    assert "/there:" not in str(caught.value)
