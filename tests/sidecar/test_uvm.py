"""Where the security context is looked for, and how mistakes in it are named."""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path

import pytest

from sidecar.errors import MalformedInput, UsageError
from sidecar.snp.software import SoftwareProcessor
from sidecar.uvm import read_uvm

POLICY = b"package policy\n"


def write(directory: Path, **files: bytes) -> Path:
    """Write base64 files; underscores in the names stand for hyphens."""
    directory.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (directory / name.replace("_", "-")).write_bytes(base64.b64encode(content) + b"\n")
    return directory


def test_nothing_at_all(tmp_path: Path) -> None:
    info = read_uvm({}, root=tmp_path)
    assert (info.security_policy, info.reference_info, info.host_certificates) == (None, None, None)
    assert info.host_data == bytes(32)
    assert info.directory is None


def test_directory_of_the_variable_comes_first(tmp_path: Path, snp_processor: SoftwareProcessor) -> None:
    chosen = write(
        tmp_path / "chosen",
        security_policy_base64=POLICY,
        reference_info_base64=b"cose",
        host_amd_cert_base64=snp_processor.thim_json(),
    )
    write(tmp_path / "security-context-1", security_policy_base64=b"another")
    info = read_uvm({"UVM_SECURITY_CONTEXT_DIR": str(chosen)}, root=tmp_path)
    assert info.security_policy == POLICY
    assert info.host_data == hashlib.sha256(POLICY).digest()
    assert info.reference_info == b"cose"
    assert info.reference_info_base64 == base64.b64encode(b"cose").decode()
    assert info.host_certificates is not None
    assert info.host_certificates.tcbm == snp_processor.tcb.number
    assert info.host_certificates.source == str(chosen / "host-amd-cert-base64")
    assert info.directory == chosen


def test_then_the_root_then_kata(tmp_path: Path) -> None:
    kata = tmp_path / "opt/confidential-containers/share/kata-containers"
    write(kata, security_policy_base64=b"kata")
    assert read_uvm({}, root=tmp_path).security_policy == b"kata"
    (tmp_path / "a-security-context-file").write_text("a file, not a directory")
    write(tmp_path / "security-context-9", security_policy_base64=b"nine")
    write(tmp_path / "my-security-context-5", security_policy_base64=b"five")
    assert read_uvm({}, root=tmp_path).security_policy == b"five", "the first by name"


def test_variables_fill_in_without_reference_info(tmp_path: Path, snp_processor: SoftwareProcessor) -> None:
    write(tmp_path / "security-context-1", security_policy_base64=b"file")
    variables = {
        "UVM_SECURITY_POLICY": base64.b64encode(POLICY).decode(),
        "UVM_REFERENCE_INFO": base64.b64encode(b"cose").decode(),
        "UVM_HOST_AMD_CERTIFICATE": base64.b64encode(snp_processor.thim_json()).decode(),
    }
    info = read_uvm(variables, root=tmp_path)
    assert (info.security_policy, info.reference_info) == (POLICY, b"cose")
    assert info.host_certificates is not None
    del variables["UVM_SECURITY_POLICY"]
    assert read_uvm(variables, root=tmp_path).security_policy == b"file"


def test_variables_are_ignored_when_files_are_whole(tmp_path: Path) -> None:
    write(tmp_path / "security-context-1", security_policy_base64=b"file", reference_info_base64=b"cose")
    info = read_uvm({"UVM_SECURITY_POLICY": base64.b64encode(POLICY).decode()}, root=tmp_path)
    assert info.security_policy == b"file"


def test_empty_and_unknown_files_are_left_alone(tmp_path: Path) -> None:
    directory = write(tmp_path / "security-context-1", tcb_reference_info_base64=b"new")
    (directory / "security-policy-base64").write_text(" \n")
    assert read_uvm({}, root=tmp_path).security_policy is None


def test_a_directory_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"UVM_SECURITY_CONTEXT_DIR: .*/gone is not a directory"):
        read_uvm({"UVM_SECURITY_CONTEXT_DIR": str(tmp_path / "gone")}, root=tmp_path)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("security-policy-base64", b"not base64!", "security-policy-base64: not standard base64"),
        ("security-policy-base64", b"YWJj_-==", "security-policy-base64: not standard base64"),
        ("security-policy-base64", b"\xff\xfe", "security-policy-base64: not standard base64"),
        ("reference-info-base64", b"YQ", "reference-info-base64: not standard base64"),
        ("host-amd-cert-base64", b"!", "host-amd-cert-base64: host certificates: not base64"),
        ("host-amd-cert-base64", b"e30=", "host-amd-cert-base64: .*'vcekCert' is missing"),
    ],
)
def test_malformed_files_are_named(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(MalformedInput, match=message):
        read_uvm({"UVM_SECURITY_CONTEXT_DIR": str(tmp_path)}, root=tmp_path)


def test_a_malformed_variable_is_named(tmp_path: Path) -> None:
    with pytest.raises(MalformedInput, match="UVM_SECURITY_POLICY: not standard base64"):
        read_uvm({"UVM_SECURITY_POLICY": "ä"}, root=tmp_path)


def test_a_file_that_is_a_directory_is_named(tmp_path: Path) -> None:
    (tmp_path / "security-policy-base64").mkdir()
    with pytest.raises(MalformedInput, match="security-policy-base64: cannot be read"):
        read_uvm({"UVM_SECURITY_CONTEXT_DIR": str(tmp_path)}, root=tmp_path)


def test_size_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sidecar.uvm.MAX_FILE_SIZE", 8)
    (tmp_path / "security-policy-base64").write_bytes(b"A" * 12)
    with pytest.raises(MalformedInput, match="more than 8 bytes"):
        read_uvm({"UVM_SECURITY_CONTEXT_DIR": str(tmp_path)}, root=tmp_path)


def test_real_policy_hashes_to_the_real_host_data(shared_snp: Path, tmp_path: Path) -> None:
    directory = tmp_path / "security-context-1"
    directory.mkdir()
    text = (shared_snp / "uvm_security_policy.base64").read_bytes()
    (directory / "security-policy-base64").write_bytes(text)
    write(directory, host_amd_cert_base64=(shared_snp / "uvm_host_amd_certificate.json").read_bytes())
    write(directory, reference_info_base64=(shared_snp / "uvm_reference_info.bin").read_bytes())
    info = read_uvm({}, root=tmp_path)
    report = (shared_snp / "snp_report.bin").read_bytes()
    assert info.host_data == report[0xC0:0xE0]
    assert info.host_certificates is not None
    assert info.host_certificates.tcbm == int.from_bytes(report[0x180:0x188], "little")
