"""The choice of a source: hardware or a clear refusal; software by name only."""

from __future__ import annotations

import base64
import hashlib
import logging
import time
from pathlib import Path

import pytest

from sidecar.errors import ReportUnavailable, SourceAbsent, UsageError
from sidecar.snp.device import KINDS, AutoSource, open_report_source
from sidecar.snp.report import parse_report
from sidecar.snp.software import SoftwareProcessor
from sidecar.snp.source import RawReport


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


class Scripted:
    """A source that plays outcomes: a report, or an error."""

    is_hardware = True

    def __init__(self, name: str, *outcomes: Exception | bytes) -> None:
        self.name = name
        self.outcomes = list(outcomes)

    async def read_report(self, report_data: bytes) -> RawReport:
        outcome = self.outcomes.pop(0)
        if isinstance(outcome, Exception):
            raise outcome
        return RawReport(outcome)


async def test_absence_leads_to_the_next_and_the_choice_stays() -> None:
    absent = Scripted("one", SourceAbsent("one: not there"))
    present = Scripted("two", b"first", b"second")
    auto = AutoSource([absent, present, Scripted("three")])
    assert (auto.name, auto.is_hardware) == ("auto", True)
    assert (await auto.read_report(bytes(64))).report == b"first"
    assert auto.name == "two"
    assert (await auto.read_report(bytes(64))).report == b"second"


async def test_failure_leads_nowhere_else() -> None:
    failing = Scripted("one", ReportUnavailable("the key is gone"))
    auto = AutoSource([failing, Scripted("two", b"never")])
    with pytest.raises(ReportUnavailable, match="the key is gone"):
        await auto.read_report(bytes(64))
    assert auto.name == "auto"


async def test_all_absent_names_each() -> None:
    auto = AutoSource([Scripted("one", SourceAbsent("one: no")), Scripted("two", SourceAbsent("two: no"))])
    with pytest.raises(ReportUnavailable, match="one: no; two: no") as caught:
        await auto.read_report(bytes(64))
    assert not isinstance(caught.value, SourceAbsent)
    assert "--snp software" in caught.value.hint


def test_auto_opens_when_an_interface_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sidecar.snp.configfs.DIRECTORY", tmp_path)
    source = open_report_source("auto", environ={})
    assert isinstance(source, AutoSource)
    assert [s.name for s in source._sources] == ["configfs-tsm", "sev-guest", "sev"]


@pytest.mark.parametrize(
    ("kind", "name"),
    [("configfs", "configfs-tsm"), ("sev-guest", "sev-guest"), ("sev", "sev"), ("vtpm", "vtpm")],
)
async def test_each_hardware_source_by_name(kind: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """None of them is here, and each says so itself."""
    source = open_report_source(kind, environ={})
    assert (source.name, source.is_hardware) == (name, True)
    assert kind in KINDS
    with pytest.raises(ReportUnavailable):
        await source.read_report(bytes(64))


async def test_a_report_from_software_takes_under_20_ms(snp_processor: SoftwareProcessor) -> None:
    """Median of many, so that a busy machine does not matter."""
    source = snp_processor.source()
    await source.read_report(bytes(64))
    times = []
    for _ in range(25):
        start = time.perf_counter()
        await source.read_report(bytes(64))
        times.append(time.perf_counter() - start)
    assert sorted(times)[12] < 0.020
