"""The software processor signs for real, keeps its keys, and is nobody's default."""

from __future__ import annotations

import shutil
import stat
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from sidecar.errors import CertificateRejected, MalformedInput, ReportUnavailable
from sidecar.snp.certs import parse_chain_pem, parse_thim
from sidecar.snp.report import parse_report
from sidecar.snp.roots import Roots
from sidecar.snp.software import DEFAULT_TCB, SoftwareProcessor, default_directory
from sidecar.snp.tcb import Tcb, TcbLayout
from sidecar.snp.verify import verify_evidence

OLDER = Tcb.of(TcbLayout.MILAN, boot_loader=3, snp=8, microcode=0x73)


@pytest.fixture
def copy(snp_processor: SoftwareProcessor, tmp_path: Path) -> SoftwareProcessor:
    """A processor whose firmware may be changed."""
    shutil.copytree(snp_processor.directory, tmp_path / "snp")
    return SoftwareProcessor.open(tmp_path / "snp")


def test_a_report_verifies_against_its_own_root(snp_processor: SoftwareProcessor) -> None:
    data = snp_processor.sign_report(b"n" * 64, host_data=b"h" * 32)
    chain = parse_chain_pem(snp_processor.chain.to_pem())
    seen = verify_evidence(data, chain, roots=Roots.of(snp_processor.ark), at=datetime.now(UTC))
    assert not seen.is_hardware
    assert (seen.report.report_data, seen.report.host_data) == (b"n" * 64, b"h" * 32)


def test_amd_roots_never_accept_it(snp_processor: SoftwareProcessor) -> None:
    data = snp_processor.sign_report(bytes(64))
    with pytest.raises(CertificateRejected, match=r"NOT HARDWARE.*not a trusted root"):
        verify_evidence(data, snp_processor.chain, roots=Roots.amd(), at=datetime.now(UTC))


def test_thim_json_is_for_the_current_tcb(copy: SoftwareProcessor) -> None:
    before = parse_thim(copy.thim_json())
    assert before.tcbm == DEFAULT_TCB.number
    copy.update_firmware(OLDER)
    after = parse_thim(copy.thim_json())
    assert after.tcbm == OLDER.number == parse_report(copy.sign_report(bytes(64))).reported_tcb.number
    assert before.chain.leaf.public_key() != after.chain.leaf.public_key()


def test_a_firmware_update_changes_the_key_for_everyone(copy: SoftwareProcessor) -> None:
    other = SoftwareProcessor.open(copy.directory)
    old_chain = other.chain
    copy.update_firmware(OLDER)
    report = other.sign_report(bytes(64))
    roots, now = Roots.of(copy.ark), datetime.now(UTC)
    with pytest.raises(Exception, match="report signature"):
        verify_evidence(report, old_chain, roots=roots, at=now)
    verify_evidence(report, copy.chain, roots=roots, at=now)


def test_reopening_gives_the_same_chip_and_key(snp_processor: SoftwareProcessor) -> None:
    again = SoftwareProcessor.open(snp_processor.directory)
    assert again.chip_id == snp_processor.chip_id
    assert again.vcek.public_key() == snp_processor.vcek.public_key()
    assert again.ark == snp_processor.ark


def test_files_are_private(snp_processor: SoftwareProcessor) -> None:
    modes = {p.name: stat.S_IMODE(p.stat().st_mode) for p in snp_processor.directory.iterdir()}
    assert set(modes.values()) == {0o600}
    assert "secret" not in repr(snp_processor._keys)


def test_nothing_is_made_unless_asked(tmp_path: Path) -> None:
    with pytest.raises(ReportUnavailable, match="none there"):
        SoftwareProcessor.open(tmp_path / "absent")
    assert not (tmp_path / "absent").exists()


def test_an_unusable_directory_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ReportUnavailable, match="file/snp"):
        SoftwareProcessor.open(tmp_path / "file" / "snp", create=True)


def test_damaged_files_are_named(copy: SoftwareProcessor) -> None:
    (copy.directory / "tcb").write_text("zz")
    with pytest.raises(ReportUnavailable, match="tcb unreadable"):
        _ = copy.tcb
    (copy.directory / "ask.key").write_text("zz")
    with pytest.raises(MalformedInput, match=r"ask\.key does not parse"):
        SoftwareProcessor.open(copy.directory)


def test_processes_that_start_together_make_one_processor(tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from sidecar.snp.software import SoftwareProcessor as P;"
        "print(P.open(Path(sys.argv[1]), create=True).chip_id.hex())"
    )
    argv = [sys.executable, "-W", "ignore", "-c", program, str(tmp_path / "snp")]
    running = [subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    chips = {process.communicate(timeout=120)[0] for process in running}
    assert len(chips) == 1
    assert [process.returncode for process in running] == [0, 0, 0]
    assert stat.S_IMODE((tmp_path / "snp").stat().st_mode) == 0o700


@pytest.mark.parametrize("changes", [{"report_data": b"x"}, {"host_data": b"x"}, {"measurement": b"x"}])
def test_wrong_sizes_are_refused(snp_processor: SoftwareProcessor, changes: dict[str, bytes]) -> None:
    arguments: dict[str, bytes] = {"report_data": bytes(64), **changes}
    with pytest.raises(MalformedInput):
        snp_processor.sign_report(arguments.pop("report_data"), **arguments)


async def test_source_is_labelled(snp_processor: SoftwareProcessor) -> None:
    source = snp_processor.source(host_data=b"h" * 32)
    assert (source.name, source.is_hardware) == ("software", False)
    raw = await source.read_report(b"d" * 64)
    report = parse_report(raw.report)
    assert (report.report_data, report.host_data) == (b"d" * 64, b"h" * 32)
    assert raw.certificate_table == b""


@pytest.mark.parametrize(
    ("environ", "wanted"),
    [
        ({"SIDECAR_SNP_DIRECTORY": "/a"}, "/a"),
        ({"XDG_STATE_HOME": "/s", "HOME": "/h"}, "/s/sidecar/software-snp"),
        ({"HOME": "/h"}, "/h/.local/state/sidecar/software-snp"),
    ],
)
def test_default_directory(environ: dict[str, str], wanted: str) -> None:
    assert default_directory(environ) == Path(wanted)
