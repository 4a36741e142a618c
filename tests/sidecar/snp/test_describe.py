"""The readable decode: complete, and free of judgement."""

from __future__ import annotations

import json
from dataclasses import fields, replace
from pathlib import Path

import pytest
from fakes.snp_chain import Authority

from sidecar.snp.describe import describe, to_json
from sidecar.snp.flags import GuestPolicy, PlatformInfo, names, policy_abi
from sidecar.snp.report import Report, parse_report
from sidecar.snp.tcb import Cpuid, ProductLine, Tcb, TcbLayout


def test_names_of_flags() -> None:
    assert names(PlatformInfo(0x65)) == ["smt_en", "ecc_en", "alias_check_complete", "bit 6"]
    assert names(GuestPolicy(0)) == []
    assert names(GuestPolicy(1 << 63 | GuestPolicy.DEBUG)) == ["debug", "bit 63"]
    assert policy_abi(0x3011F) == (1, 31)


def test_json_says_everything(shared_snp: Path) -> None:
    report = parse_report((shared_snp / "snp_report.bin").read_bytes())
    value = json.loads(json.dumps(to_json(report)))
    assert value["version"] == 2
    assert value["product_line"] is None
    assert value["cpuid"] is None
    assert value["reported_tcb"] == {
        "value": "7308000000000003",
        "boot_loader": 3,
        "tee": 0,
        "snp": 8,
        "microcode": 0x73,
    }
    assert value["policy"]["flags"] == ["smt", "must_be_one"]
    assert value["policy"]["minimum_abi"] == "0.31"
    assert value["signing_key"] == "VCEK"
    assert value["host_data"] == report.host_data.hex()
    assert value["current_version"] == "1.52.4"
    named = {f.name for f in fields(Report)} - {"raw", "flags"}
    assert named <= value.keys()


@pytest.mark.parametrize("line", list(ProductLine))
def test_text_names_line_and_components(line: ProductLine) -> None:
    text = describe(parse_report(Authority(line).report()))
    assert f"product line          {line}\n" in text
    assert ("fmc 1" in text) is (line is ProductLine.TURIN)
    assert "not verified" in text
    assert max(len(text_line) for text_line in text.splitlines()) < 130


def test_text_explains_what_is_odd() -> None:
    report = parse_report(Authority().report())
    odd = replace(
        report,
        policy=report.policy | GuestPolicy.DEBUG,
        vmpl=0xFFFFFFFF,
        chip_id=bytes(64),
        cpuid=Cpuid(0x1A, 0x50, 0),
        flags=0b01100,
        launch_tcb=Tcb(bytes((0, 0, 9, 0, 0, 0, 0, 0)), TcbLayout.MILAN),
    )
    text = describe(odd)
    for words in (
        "DEBUG: the host may read this guest",
        "asked for by the host, not by a guest",
        "masked by the host",
        "no root for this processor is known",
        "signing key           reserved 3",
        "no ID block",
        "reserved 09000000",
    ):
        assert words in text, words
    assert "version 2 reports do not name" in describe(replace(report, version=2, cpuid=None))
