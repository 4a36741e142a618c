"""What `sidecar verify` reads and prints."""

from __future__ import annotations

import hashlib
import json

import pytest
from fakes.snp_chain import NOW, Authority

from sidecar.errors import MalformedInput
from sidecar.snp.hcl import build_hcl
from sidecar.snp.outcome import describe_outcome, outcome_to_json, report_bytes
from sidecar.snp.roots import Roots
from sidecar.snp.verify import examine_evidence

AUTHORITY = Authority()
REPORT = AUTHORITY.report()


def test_forms_of_a_report() -> None:
    text = REPORT.hex()
    folded = "\n".join(text[i : i + 64].upper() for i in range(0, len(text), 64))
    runtime = b"{}"
    inside = AUTHORITY.report(report_data=hashlib.sha256(runtime).digest().ljust(64, b"\0"))
    assert report_bytes(REPORT) == REPORT
    assert report_bytes(text.encode() + b"\n") == REPORT
    assert report_bytes(folded.encode()) == REPORT
    assert report_bytes(build_hcl(inside, runtime)) == inside


@pytest.mark.parametrize(
    "data", [b"", REPORT[:-1], REPORT.hex()[:-1].encode(), b"zz" * 1184, b"HCLA", bytes(70_000)]
)
def test_anything_else_is_refused(data: bytes) -> None:
    with pytest.raises(MalformedInput):
        report_bytes(data)


def test_passed() -> None:
    chain = AUTHORITY.chain()
    seen = examine_evidence(REPORT, chain, roots=Roots.of(chain.ark), at=NOW)
    value = json.loads(json.dumps(outcome_to_json(seen)))
    assert (value["verified"], value["cause"], value["is_hardware"]) == (True, None, False)
    assert (value["product_line"], value["leaf"]) == ("Milan", "VCEK")
    assert [check["ok"] for check in value["checks"]] == [True] * 15
    text = describe_outcome(seen)
    assert text.count("ok  ") == 15
    assert text.endswith("verified: 15 checks, NOT hardware\n")


def test_failed() -> None:
    chain = AUTHORITY.chain()
    seen = examine_evidence(AUTHORITY.report(vmpl=1, policy=0xB001F), chain, roots=Roots.amd(), at=NOW)
    value = outcome_to_json(seen)
    assert (value["verified"], value["cause"], value["product_line"]) == (False, "certificate", None)
    text = describe_outcome(seen)
    assert "FAIL  root                  'ARK-Milan' is not a trusted root" in text
    assert "hint: reports of the software processor" in text
    assert "ok    report signature" in text
    assert text.endswith("checks failed: root, intermediate, leaf, product line, vmpl, debug\n")
