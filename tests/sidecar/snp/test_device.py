"""The choice of a source: hardware or a clear refusal; software by name only."""

from __future__ import annotations

import base64
import hashlib
import logging
from pathlib import Path

import pytest

from sidecar.errors import ReportUnavailable, UsageError
from sidecar.snp.device import open_report_source
from sidecar.snp.report import parse_report
from sidecar.snp.software import SoftwareProcessor


@pytest.mark.parametrize("environ", [{}, {"SIDECAR_SNP": "auto"}])
def test_auto_never_ends_in_software(environ: dict[str, str], snp_processor: SoftwareProcessor) -> None:
    environ = environ | {"SIDECAR_SNP_DIRECTORY": str(snp_processor.directory)}
    with pytest.raises(ReportUnavailable) as caught:
        open_report_source(environ=environ)
    assert "--snp software" in caught.value.hint


def test_unknown_names_are_refused() -> None:
    with pytest.raises(UsageError, match="'fake', wanted one of auto"):
        open_report_source("fake", environ={})


@pytest.mark.parametrize(
    ("kind", "environ"), [("software", {}), (None, {"SIDECAR_SNP": "software"})], ids=["argument", "variable"]
)
async def test_software_by_name_says_so(
    kind: str | None,
    environ: dict[str, str],
    snp_processor: SoftwareProcessor,
    caplog: pytest.LogCaptureFixture,
) -> None:
    environ = environ | {
        "SIDECAR_SNP_DIRECTORY": str(snp_processor.directory),
        "UVM_SECURITY_POLICY": base64.b64encode(b"policy").decode(),
    }
    with caplog.at_level(logging.WARNING):
        source = open_report_source(kind, environ=environ)
    assert "NOT hardware" in caplog.text
    caplog.clear()
    assert not source.is_hardware
    report = parse_report((await source.read_report(bytes(64))).report)
    assert report.host_data == hashlib.sha256(b"policy").digest()
    assert report.chip_id == snp_processor.chip_id


def test_host_data_can_be_given(
    snp_processor: SoftwareProcessor, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    source = open_report_source(
        "software", directory=snp_processor.directory, host_data=b"h" * 32, environ={}
    )
    caplog.clear()
    assert source.name == "software"
