"""The guest itself: it must not report success for a job that failed, hung or was cut off."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from guest import cpio, parts
from guest.machine import OUTPUT_LIMIT, Guest, GuestFailed

pytestmark = pytest.mark.kernel


def test_job_sees_its_files_and_writes_its_images(guest: Guest, tmp_path: Path) -> None:
    image = tmp_path / "disk,with comma"
    image.write_bytes(b"before".ljust(4096, b"\0"))
    job = "head -c 6 /dev/vda; cat a/b; printf after > /dev/vda; uname -s"
    result = guest.run(job, images=[image], files={"a/b": b" and\xff "})
    assert result.check() == "before and� Linux\n"
    assert image.read_bytes()[:6] == b"aftere"


def test_a_failing_command_stops_the_job_and_output_is_bounded(guest: Guest) -> None:
    result = guest.run(f"yes | head -c {OUTPUT_LIMIT + 65536} || true; (exit 7); touch /dev/vda")
    assert result.status == 7
    assert len(result.output) == OUTPUT_LIMIT


@pytest.mark.parametrize(
    ("job", "timeout", "says"),
    [("sleep 600", 5.0, "cut off after 5 s"), ("poweroff -f", 60.0, "ended with 0")],
)
def test_a_job_that_never_ends_is_no_success(guest: Guest, job: str, timeout: float, says: str) -> None:
    with pytest.raises(GuestFailed, match=says):
        guest.run(job, timeout=timeout)


def test_a_missing_program_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(parts.PROGRAMS, "no-such-program", "some-package")
    assert parts.missing() == ["some-package"]
    with pytest.raises(parts.GuestUnavailable, match="some-package"):
        parts.gather(OUTPUT_LIMIT)


def test_archive_is_what_cpio_reads(tmp_path: Path) -> None:
    """Unpacked by busybox, an implementation that is not ours."""
    entries = [
        cpio.file("a/b/odd", b"xyz"),
        cpio.file("go", b"#!", executable=True),
        cpio.link("l", "a/b/odd"),
    ]
    busybox = parts.find("busybox")
    assert busybox is not None
    archive = cpio.archive(entries)
    subprocess.run([busybox, "cpio", "-id"], input=archive, cwd=tmp_path, check=True, timeout=10)
    assert (tmp_path / "l").read_bytes() == b"xyz"
    assert (tmp_path / "l").is_symlink()
    assert [(tmp_path / name).stat().st_mode & 0o777 for name in ("a/b/odd", "go")] == [0o644, 0o755]
