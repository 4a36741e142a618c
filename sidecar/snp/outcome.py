"""What `sidecar verify` reads and prints: reports in the forms people keep them, and every check's outcome.

Kind: pure
"""

from __future__ import annotations

from sidecar.errors import MalformedInput
from sidecar.snp.hcl import parse_hcl
from sidecar.snp.report import REPORT_SIZE
from sidecar.snp.verify import Examination

MAX_FILE_SIZE = 64 * 1024


def report_bytes(data: bytes) -> bytes:
    """A report from a file's content: raw, hexadecimal with any white space, or inside an HCL blob.

    Returns:
        1184 bytes, not parsed yet.

    Raises:
        MalformedInput: none of these.
    """
    if len(data) > MAX_FILE_SIZE:
        raise MalformedInput(f"report file: {len(data)} bytes, wanted at most {MAX_FILE_SIZE}")
    if len(data) == REPORT_SIZE:
        return data
    if data.startswith(b"HCLA"):
        return parse_hcl(data).report
    text = b"".join(data.split())
    try:
        report = bytes.fromhex(text.decode("ascii"))
    except ValueError:
        report = b""
    if len(report) != REPORT_SIZE:
        raise MalformedInput(
            f"report file: {len(data)} bytes, wanted {REPORT_SIZE} or {2 * REPORT_SIZE} hexadecimal digits",
            hint="a report is 1184 bytes; `sidecar report --format hex` prints one",
        )
    return report


def outcome_to_json(seen: Examination) -> dict[str, object]:
    """Verdict and checks, for machines; `cause` names what the exit code stands for."""
    first = seen.failed[0] if seen.failed else None
    return {
        "verified": first is None,
        "cause": str(first.cause) if first else None,
        "is_hardware": bool(seen.anchor and seen.anchor.is_hardware),
        "product_line": str(seen.anchor.line) if seen.anchor else None,
        "leaf": str(seen.leaf.kind) if seen.leaf else None,
        "signed_digest": seen.report.digest.hex(),
        "checks": [
            {"name": c.name, "ok": c.ok, "detail": c.detail, "cause": str(c.cause)} for c in seen.checks
        ],
    }


def describe_outcome(seen: Examination) -> str:
    """The same for people: a line per check, then the verdict."""
    lines = []
    for check in seen.checks:
        lines.append(f"{'ok  ' if check.ok else 'FAIL'}  {check.name:<22}{check.detail}")
        if check.hint and not check.ok:
            lines.append(f"      {'':<22}hint: {check.hint}")
    if seen.failed:
        names = ", ".join(check.name for check in seen.failed)
        lines.append(f"not verified: {len(seen.failed)} of {len(seen.checks)} checks failed: {names}")
    else:
        kind = "AMD hardware" if seen.anchor and seen.anchor.is_hardware else "NOT hardware"
        lines.append(f"verified: {len(seen.checks)} checks, {kind}")
    return "\n".join(lines) + "\n"
