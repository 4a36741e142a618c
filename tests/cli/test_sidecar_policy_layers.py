"""`sidecar policy layers` as a user runs it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from fakes.commands import Commands
from fakes.layer_tars import USTAR, Zeros, file, make_tar, plain, vectors
from fakes.oci_images import docker_files, write_archive

from sidecar.cli_policy_layers import ProgressBar, progress_text

PLAIN = next(vector.root_hash for vector in vectors() if vector.name == "plain")


@pytest.fixture
def commands(tmp_path: Path) -> Commands:
    return Commands(tmp_path, {"HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path / "cache")})


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    implicit = make_tar(USTAR, [file("a/b/c")])
    return write_archive(tmp_path / "image.tar", docker_files([plain(), implicit], {}, ["demo:1"]))


def test_hashes_on_stdout_and_warnings_beside(commands: Commands, archive: Path) -> None:
    done = commands.run("sidecar", "policy", "layers", archive)
    assert done.code == 0
    assert done.out.splitlines()[0] == PLAIN
    assert len(done.out.splitlines()) == 2
    assert "warning: layer 1: 2 folders are used and not described (/a, /a/b)" in done.err
    assert "deviceHash not found" in done.err


def test_json(commands: Commands, archive: Path) -> None:
    found = json.loads(commands.run("sidecar", "policy", "layers", "--json", archive).out)
    assert found["platform"] == "linux/amd64"
    assert [layer["cached"] for layer in found["layers"]] == [False, False]
    assert found["layers"][1]["implicit_parents"] == ["/a", "/a/b"]
    again = json.loads(commands.run("sidecar", "policy", "layers", "--json", archive).out)
    assert [layer["cached"] for layer in again["layers"]] == [True, True]
    fresh = json.loads(commands.run("sidecar", "policy", "layers", "--json", "--no-cache", archive).out)
    assert [layer["cached"] for layer in fresh["layers"]] == [False, False]


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["./nothing.tar"], 2, "nothing.tar: No such file or directory"),
        (["UPPER"], 2, "image 'UPPER', wanted"),
        (["image.tar", "--platform", "linux"], 2, "platform 'linux', wanted os/architecture"),
        (["docker-archive:image.tar:other"], 2, "0 images fit, wanted image other; it names demo:1"),
        (["twice.tar"], 3, "layer 0: /f: cannot overwrite a file that has content"),
    ],
)
def test_errors(commands: Commands, archive: Path, words: list[str], code: int, said: str) -> None:
    twice = make_tar(USTAR, [file("f", b"1"), file("f", b"2")])
    write_archive(archive.with_name("twice.tar"), docker_files([twice], {}, []))
    done = commands.run("sidecar", "policy", "layers", *words)
    assert done.code == code
    assert said in done.err
    assert "Traceback" not in done.err
    assert done.out == ""


def test_progress(capsys: pytest.CaptureFixture[str]) -> None:
    bar = ProgressBar()
    bar(0, 2, 100 << 20, 25 << 20)
    bar(0, 2, 100 << 20, 1)
    bar.clear()
    drawn = capsys.readouterr().err
    assert drawn.startswith("\rlayer 1/2 [########......................]  25% of 100 MiB\r ")
    assert drawn.endswith("\r")
    assert progress_text(3 << 20, None) == "3 MiB"
    assert progress_text(9, 3).endswith("100% of 0 MiB")


def test_600_mib_in_4_seconds_and_300_mib(commands: Commands, tmp_path: Path) -> None:
    """Seconds of one processor, not of the clock: the machine has others to serve."""
    with (tmp_path / "big.tar").open("wb") as out:
        source, buffer = Zeros(), memoryview(bytearray(1 << 20))
        while count := source.readinto(buffer):
            out.write(buffer[:count])
    script = (
        "import resource, sys\n"
        "from sidecar.policy.layers import layer_root_hash\n"
        "print(layer_root_hash(open(sys.argv[1], 'rb', buffering=0)))\n"
        "used = resource.getrusage(resource.RUSAGE_SELF)\n"
        # Not ru_maxrss: that one starts with what the parent used.
        "peak = open('/proc/self/status').read().split('VmHWM:')[1].split()[0]\n"
        "print(used.ru_utime + used.ru_stime, peak)\n"
    )
    done = commands.run("python", "-c", script, tmp_path / "big.tar", check=True)
    root_hash, figures = done.out.splitlines()
    seconds, kib = map(float, figures.split())
    assert root_hash == Zeros.root_hash
    assert seconds < 4
    assert kib < 300 * 1024
