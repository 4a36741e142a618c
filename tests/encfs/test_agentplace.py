"""Where volumes are shown: links and folders; and what is never touched."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from encfs import agentplace, mount
from encfs.agentplace import Place
from encfs.errors import MountError, MountPointBusy


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place.of(str(tmp_path / "mnt" / "data"), 3)


def test_the_link_is_relative_and_exchanged_in_one_step(place: Place) -> None:
    first, second = place.folders
    assert (first.name, second.name) == (".filesystem-3", ".filesystem-3.1")
    first.mkdir()
    second.mkdir()
    (second / "file").write_text("second")
    agentplace.publish(place, first)
    assert os.readlink(place.link) == ".filesystem-3"
    agentplace.publish(place, second)
    assert (place.link / "file").read_text() == "second"
    assert sorted(os.listdir(place.parent)) == [".filesystem-3", ".filesystem-3.1", "data"]
    agentplace.withdraw(place)
    agentplace.withdraw(place)
    assert not os.path.lexists(place.link)


def test_the_parent_is_real_and_made(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "alias").symlink_to("real")
    place = Place.of(str(tmp_path / "alias" / "deep" / "data"), 0)
    assert place.link == tmp_path / "real" / "deep" / "data"
    assert place.parent.is_dir()
    (tmp_path / "file").touch()
    with pytest.raises(MountError):
        Place.of(str(tmp_path / "file" / "data"), 0)


def test_links_of_earlier_lives_and_empty_folders_give_way(place: Place) -> None:
    for stale in (".filesystem-3", ".filesystem-7.1"):
        place.link.symlink_to(stale)
        agentplace.check_link(place)
        assert not os.path.lexists(place.link)
    place.link.mkdir()
    agentplace.check_link(place)
    assert not os.path.lexists(place.link)
    agentplace.check_link(place)


@pytest.mark.parametrize("kind", ["file", "full folder", "foreign link", "link elsewhere"])
def test_everything_else_stays(place: Place, kind: str) -> None:
    if kind == "file":
        place.link.write_text("mine")
    elif kind == "full folder":
        place.link.mkdir()
        (place.link / "mine").touch()
    else:
        place.link.symlink_to("data-v1" if kind == "foreign link" else "/etc/.filesystem-1/x")
    with pytest.raises(MountPointBusy, match="data"):
        agentplace.check_link(place)
    agentplace.withdraw(place)
    assert os.path.lexists(place.link)


@pytest.fixture
def foreign(place: Place) -> Iterator[Path]:
    """Something that is not ours, mounted where a volume would be."""
    folder = place.folders[0]
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", folder], check=True, timeout=20)
    yield folder
    subprocess.run(["umount", folder], check=True, timeout=20)


@pytest.mark.root
def test_foreign_mounts_are_recognised(foreign: Path) -> None:
    with pytest.raises(MountPointBusy, match="not one of ours"):
        agentplace.stale_devices(foreign)
    with pytest.raises(MountPointBusy):
        agentplace.make_folder(foreign)


@pytest.mark.root
def test_only_a_volume_is_ever_shut_down(foreign: Path) -> None:
    """The path of a volume that is gone leads to the machine's own file system."""
    for flush in (False, True):
        with pytest.raises(MountError, match="no volume is mounted there any more"):
            mount.shut_down_file_system(foreign, flush=flush)
