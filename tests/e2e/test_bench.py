"""`encfs bench` for real: what it measures, and that it changes nothing it was not asked to change."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
from fakes.commands import Commands

pytestmark = [pytest.mark.fuse, pytest.mark.root]

QUICK = ("--seconds", "0.05", "--size", "4M")
READS = ["sequential read", "random read, 1 reader", "random read, 4 readers"]
WRITES = ["sequential write, fsync", "random write, fsync every 32", "write and fsync, 4 KiB"]


@pytest.fixture
def image(commands: Commands, sample: Path) -> Path:
    path = commands.folder / "data.img"
    words = ("--from", sample, "--size", "64M", "--key-file", "key.bin")
    commands.run("encfs", "create", path, *words, check=True)
    return path


def bench(commands: Commands, *words: str | Path) -> dict[str, object]:
    found = json.loads(commands.run("encfs", "bench", *words, *QUICK, "--json", check=True).out)
    assert isinstance(found, dict)
    assert all(m["value"] > 0 for m in found["measures"])
    return found


def names(found: dict[str, object]) -> list[str]:
    measures = found["measures"]
    assert isinstance(measures, list)
    return [m["name"] for m in measures]


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize("words", [(), ("--mounted",)], ids=["driver", "mounted"])
def test_a_temporary_image_is_measured_and_gone(commands: Commands, words: tuple[str, ...]) -> None:
    folder = commands.folder / "here"
    folder.mkdir()
    found = bench(commands, "--folder", folder, *words)
    assert found["through"] == ("file system" if words else "driver")
    assert sorted(names(found)) == sorted(READS + WRITES)
    assert list(folder.iterdir()) == []
    assert list((commands.folder / "run").iterdir()) == []


def test_an_image_is_only_read(commands: Commands, image: Path) -> None:
    before = digest(image)
    found = bench(commands, image, "--key-file", "key.bin")
    assert names(found) == READS
    assert found["sector_size"] == 4096
    assert digest(image) == before


def test_writes_go_to_a_scratch_file_that_is_gone(commands: Commands, image: Path, sample: Path) -> None:
    found = bench(commands, image, "--key-file", "key.bin", "--write")
    assert sorted(names(found)) == sorted(READS + WRITES)
    commands.run("encfs", "check", image, "--key-file", "key.bin", check=True)
    commands.run("encfs", "extract", image, "out", "--key-file", "key.bin", check=True)
    kept = {p.relative_to(commands.folder / "out") for p in (commands.folder / "out").rglob("*")}
    assert kept - {Path("lost+found")} == {p.relative_to(sample) for p in sample.rglob("*")}


def test_a_full_file_system_is_left_alone(commands: Commands) -> None:
    commands.run("encfs", "create", "small.img", "--size", "24M", "--key-file", "key.bin", check=True)
    result = commands.run("encfs", "bench", "small.img", "--key-file", "key.bin", "--write")
    assert result.code == 24, result
    assert "room for" in result.err
    assert "hint:" in result.err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("data.img",), "without its key"),
        (("--write",), "for an IMAGE"),
        (("--key-file", "key.bin"), "for an IMAGE"),
        (("data.img", "--key-file", "key.bin", "--mounted"), "for the temporary image"),
        (("--size", "1K"), "wanted 1M to"),
        (("--seconds", "nan"), "wanted more than 0"),
        (("--folder", "missing"), "no such directory"),
    ],
)
def test_options_that_do_not_fit(commands: Commands, words: tuple[str, ...], message: str) -> None:
    result = commands.run("encfs", "bench", *words)
    assert result.code == 2, result
    assert message in result.err


def test_a_wrong_key_measures_nothing(commands: Commands, image: Path) -> None:
    (commands.folder / "other.bin").write_bytes(bytes(range(32)))
    (commands.folder / "other.bin").chmod(0o600)
    result = commands.run("encfs", "bench", image, "--key-file", "other.bin", *QUICK)
    assert result.code == 4
    assert result.out == ""
