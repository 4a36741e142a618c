"""configfs-tsm against a FUSE file system that keeps the kernel's rules, in a process of its own."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from sidecar.errors import MalformedInput, ReportUnavailable, SourceAbsent
from sidecar.snp.certtable import parse_certificate_table
from sidecar.snp.configfs import ConfigfsSource
from sidecar.snp.firmware import Pacer
from sidecar.snp.leaf import LeafKind
from sidecar.snp.report import parse_report
from sidecar.snp.roots import Roots
from sidecar.snp.software import SoftwareProcessor
from sidecar.snp.verify import VerifyPolicy, verify_evidence

pytestmark = pytest.mark.fuse
DATA = bytes(range(64))
Mount = Callable[..., Path]


@pytest.fixture
def mount(root: Path, tmp_path: Path, snp_processor: SoftwareProcessor) -> Iterator[Mount]:
    """Mount the fake with settings; unmounted at the end, and nothing may be left in it."""
    if not Path("/dev/fuse").exists():
        pytest.skip("needs /dev/fuse")
    mountpoint = tmp_path / "report"
    mountpoint.mkdir()
    running: list[subprocess.Popen[str]] = []

    def start(**settings: object) -> Path:
        script = root / "tests" / "fakes" / "snp_configfs.py"
        arguments = [f"{key}={value}" for key, value in settings.items()]
        argv = [sys.executable, "-W", "ignore", str(script), str(mountpoint), str(snp_processor.directory)]
        process = subprocess.Popen(
            [*argv, *arguments],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(root)},
        )
        running.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        return mountpoint

    yield start
    for process in running:
        left = list(mountpoint.iterdir())
        subprocess.run(["umount", mountpoint], check=True, timeout=20)
        process.communicate(timeout=20)
        assert process.returncode == 0
        assert left == [], "folders left behind"


def source(directory: Path, vmpl: int | None = None) -> ConfigfsSource:
    return ConfigfsSource(directory, vmpl=vmpl, pacer=Pacer(interval=0))


async def test_report_with_certificates(mount: Mount, snp_processor: SoftwareProcessor) -> None:
    raw = await source(mount(table=1)).read_report(DATA)
    chain = parse_certificate_table(raw.certificate_table).chain(LeafKind.VCEK)
    assert chain is not None
    policy = VerifyPolicy(report_data=DATA)
    verify_evidence(raw.report, chain, roots=Roots.of(snp_processor.ark), at=datetime.now(UTC), policy=policy)


async def test_report_without_certificates(mount: Mount) -> None:
    directory = mount()
    one, two = await source(directory).read_report(DATA), await source(directory).read_report(bytes(64))
    assert one.certificate_table == b""
    assert [parse_report(raw.report).report_data for raw in (one, two)] == [DATA, bytes(64)]


@pytest.mark.parametrize(
    ("floor", "vmpl", "wanted"), [(0, None, 0), (0, 2, 2), (1, None, 1), (2, 1, 2), ("none", 3, 3)]
)
async def test_privilege_level(mount: Mount, floor: object, vmpl: int | None, wanted: int) -> None:
    raw = await source(mount(floor=floor), vmpl).read_report(DATA)
    assert parse_report(raw.report).vmpl == wanted


@pytest.mark.parametrize("kind", ["disturb", "late"])
async def test_a_race_is_noticed_and_tried_again(mount: Mount, kind: str) -> None:
    """Somebody else's write makes the count wrong; what was read is dropped, even if it looks right."""
    raw = await source(mount(**{kind: 4})).read_report(DATA)
    assert parse_report(raw.report).report_data == DATA


@pytest.mark.parametrize("kind", ["disturb", "late"])
async def test_races_without_end_are_given_up(mount: Mount, kind: str) -> None:
    with pytest.raises(ReportUnavailable, match="somebody else wrote to our folder, 5 times"):
        await source(mount(**{kind: 99})).read_report(DATA)


async def test_a_report_over_other_data_is_refused(mount: Mount) -> None:
    with pytest.raises(MalformedInput, match="differs from what was asked for"):
        await source(mount(lie=1)).read_report(DATA)


async def test_an_outblob_that_is_too_long(mount: Mount) -> None:
    with pytest.raises(MalformedInput, match="outblob: more than 1184 bytes"):
        await source(mount(long=1)).read_report(DATA)


@pytest.mark.parametrize(
    ("provider", "words"), [("none", "no report provider"), ("tdx_guest", "'tdx_guest'")]
)
async def test_another_machine_is_absent(mount: Mount, provider: str, words: str) -> None:
    with pytest.raises(SourceAbsent, match=words):
        await source(mount(provider=provider)).read_report(DATA)


@pytest.mark.parametrize("code", [errno.EIO, errno.ENOTTY, errno.ETIMEDOUT, errno.EBADMSG, errno.EINVAL])
async def test_driver_failures_are_final(mount: Mount, code: int) -> None:
    reports = source(mount(outblob=code))
    errors = []
    for _ in range(2):
        with pytest.raises(ReportUnavailable, match=errno.errorcode[code]) as caught:
            await reports.read_report(DATA)
        errors.append(str(caught.value))
    assert errors[0] == errors[1]


@pytest.mark.parametrize(("file", "code"), [("inblob", errno.EBUSY), ("outblob", errno.EINTR)])
async def test_passing_failures_are_tried_again(mount: Mount, file: str, code: int) -> None:
    raw = await source(mount(**{file: code, "failures": 2})).read_report(DATA)
    assert parse_report(raw.report).report_data == DATA


async def test_nothing_mounted(tmp_path: Path) -> None:
    with pytest.raises(SourceAbsent, match="no report provider"):
        await source(tmp_path / "absent").read_report(DATA)


async def test_a_plain_folder_is_not_the_kernels(tmp_path: Path) -> None:
    """A directory where files do not appear by themselves: refused, and tidied up."""
    with pytest.raises(ReportUnavailable, match="ENOENT"):
        await source(tmp_path).read_report(DATA)
    assert list(tmp_path.iterdir()) == []


async def test_a_forbidden_folder_is_not_absent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(ReportUnavailable, match="cannot be used: Permission denied") as caught:
        await source(tmp_path).read_report(DATA)
    assert not isinstance(caught.value, SourceAbsent)


async def test_a_generation_that_is_no_number(mount: Mount) -> None:
    with pytest.raises(MalformedInput, match=r"generation: b'many', wanted a number"):
        await source(mount(generation="many")).read_report(DATA)
