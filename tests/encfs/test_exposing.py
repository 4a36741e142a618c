"""What tools wrote is in the image when `exposed` ends, or it says so."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from encfs.block.file import adopt_file
from encfs.errors import StoreError
from encfs.exposing import exposed
from encfs.keys import Secret
from encfs.session import Volume
from encfs.volume import SegmentGeometry

pytestmark = [pytest.mark.fuse]
SIZE = 32 << 20


def volume(image: Path) -> Volume:
    with image.open("wb") as file:
        file.truncate(SIZE)
    source = adopt_file(os.open(image, os.O_RDWR | os.O_CLOEXEC), image, read_only=False, lock=False)
    key = Secret(os.urandom(64), full_entropy=True)
    return Volume(source, str(image), SegmentGeometry(0, SIZE, 4096, 0), key, False)


def careless_write(data: Path, size: int) -> None:
    """As a tool does that neither asks for durability nor looks at what close says."""
    subprocess.run(
        ["dd", "if=/dev/zero", f"of={data}", "bs=1M", f"count={size >> 20}", "conv=notrunc"], timeout=60
    )


@pytest.fixture(autouse=True)
def run_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENCFS_RUN_DIR", str(tmp_path / "run"))


async def test_cached_writes_are_stored(tmp_path: Path) -> None:
    image = tmp_path / "x.img"
    async with exposed(volume(image)) as data:
        careless_write(data, SIZE)
    assert image.stat().st_blocks * 512 >= SIZE


@pytest.mark.root
async def test_a_lost_write_is_an_error(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    small = tmp_path / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8M", "tmpfs", small], check=True, timeout=20)
    try:
        with pytest.raises(StoreError, match="not everything could be written"):
            async with exposed(volume(small / "x.img")) as data:
                careless_write(data, SIZE)
    finally:
        subprocess.run(["umount", small], check=True, timeout=20)
    assert "No space left on device" in caplog.text
    caplog.clear()
