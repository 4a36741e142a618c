"""`sidecar verify` on the real report, option by option; `report`; the predecessor's get-snp-report."""

from __future__ import annotations

import base64
import hashlib
import json
from pathlib import Path

import pytest
from fakes.commands import Commands

from sidecar.errors import ExitCode

MEASUREMENT_AT, HOST_DATA_AT, REPORT_DATA_AT = 0x90, 0xC0, 0x50


@pytest.fixture
def commands(tmp_path: Path) -> Commands:
    return Commands(tmp_path, {"SIDECAR_SNP_DIRECTORY": str(tmp_path / "snp")})


@pytest.fixture
def verify(commands: Commands, shared_snp: Path) -> tuple[str | Path, ...]:
    """The command that verifies the real report with its real certificates."""
    certificates = shared_snp / "uvm_host_amd_certificate.json"
    return ("sidecar", "verify", shared_snp / "snp_report.bin", "--certs", certificates)


def field(shared_snp: Path, offset: int, size: int) -> str:
    return (shared_snp / "snp_report.bin").read_bytes()[offset : offset + size].hex()


def test_the_real_report_verifies_with_everything_asked(
    commands: Commands, verify: tuple[str | Path, ...], shared_snp: Path
) -> None:
    policy = base64.b64decode((shared_snp / "uvm_security_policy.base64").read_bytes())
    asked = (
        *("--host-data", hashlib.sha256(policy).hexdigest()),
        *("--measurement", field(shared_snp, MEASUREMENT_AT, 48)),
        *("--report-data", field(shared_snp, REPORT_DATA_AT, 32)),
        *("--uvm-endorsement", shared_snp / "uvm_reference_info.bin"),
        *("--minimum-tcb", "Milan:boot_loader=3,snp=8,microcode=115"),
    )
    done = commands.run(*verify, *asked, "--json", check=True)
    outcome = json.loads(done.out)
    assert (outcome["verified"], outcome["is_hardware"], outcome["product_line"]) == (True, True, "Milan")
    assert len(outcome["checks"]) >= 15
    assert "verified: " in commands.run(*verify, check=True).out


@pytest.mark.parametrize(
    ("option", "value", "code"),
    [
        ("--host-data", "00" * 32, ExitCode.POLICY_REJECTED),
        ("--measurement", "00" * 48, ExitCode.POLICY_REJECTED),
        ("--report-data", "00", ExitCode.POLICY_REJECTED),
        ("--vmpl", "1", ExitCode.POLICY_REJECTED),
        ("--minimum-tcb", "Milan:microcode=116", ExitCode.POLICY_REJECTED),
        ("--minimum-guest-svn", "3000", ExitCode.POLICY_REJECTED),
        ("--at", "2040-01-01", ExitCode.CERTIFICATE_REJECTED),
        ("--at", "2015-01-01", ExitCode.CERTIFICATE_REJECTED),
        ("--host-data", "00", ExitCode.USAGE),
        ("--measurement", "zz", ExitCode.USAGE),
        ("--minimum-tcb", "Milan:speed=3", ExitCode.USAGE),
        ("--minimum-tcb", "Rome:snp=3", ExitCode.USAGE),
        ("--minimum-tcb", "Milan:snp=x", ExitCode.USAGE),
        ("--at", "yesterday", ExitCode.USAGE),
        ("--crl", "nothing.crl", ExitCode.USAGE),
    ],
)
def test_what_is_not_met_is_refused_by_cause(
    commands: Commands, verify: tuple[str | Path, ...], option: str, value: str, code: ExitCode
) -> None:
    done = commands.run(*verify, option, value)
    assert done.code == code, done


@pytest.mark.parametrize(
    ("offset", "code"),
    [(0x00, ExitCode.MALFORMED), (0x90, ExitCode.SIGNATURE_REJECTED), (0x2A0, ExitCode.SIGNATURE_REJECTED)],
)
def test_a_changed_bit_is_caught(
    commands: Commands, verify: tuple[str | Path, ...], shared_snp: Path, offset: int, code: ExitCode
) -> None:
    data = bytearray((shared_snp / "snp_report.bin").read_bytes())
    data[offset] ^= 0x40
    (commands.folder / "changed").write_bytes(data)
    done = commands.run("sidecar", "verify", "changed", *verify[3:])
    assert done.code == code, done


def test_get_snp_report_is_a_drop_in(commands: Commands) -> None:
    failed = commands.run("get-snp-report")
    assert (failed.code, failed.out) == (255, "")
    assert failed.err.startswith("get-snp-report: no SNP report")
    commands.environment["SIDECAR_SNP"] = "software"
    done = commands.run("get-snp-report", "0102", check=True)
    report = bytes.fromhex(done.out.strip())
    assert len(report) == 1184
    assert report[REPORT_DATA_AT : REPORT_DATA_AT + 64] == b"\x01\x02".ljust(64, b"\0")
    assert commands.run("get-snp-report", "xyz").code == 255
    assert commands.run("get-snp-report", "00" * 65).code == 255


def test_report_formats(commands: Commands) -> None:
    commands.environment["SIDECAR_SNP"] = "software"
    text = commands.run("sidecar", "report", check=True)
    assert "boot_loader" in text.out
    assert "NOT hardware" in text.err
    decoded = json.loads(commands.run("sidecar", "report", "--format", "json", check=True).out)
    assert decoded["version"] == 3
    assert commands.run("sidecar", "report", "--report-data", "00" * 65).code == ExitCode.USAGE
