"""A report for readers: one dictionary of named values, and the same as text.

Rules: nothing is left out, so that a reader can tell what is there from what is set; a value that was not
verified is not called valid here: this module decodes and judges nothing.

Spec: AMD 56860 (SNP firmware ABI), ATTESTATION_REPORT; names as there, in lower case.

Kind: pure
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from sidecar.snp.flags import GuestPolicy, PlatformInfo, names, policy_abi
from sidecar.snp.report import VMPL_HOST, Report, SigningKey
from sidecar.snp.tcb import Tcb

# What `describe` returns: strings, numbers, truth values and lists, one level of nesting.
Value = str | int | bool | None | list[str] | Mapping[str, "Value"]


def to_json(report: Report) -> dict[str, Value]:
    """Everything the report says, for machines: numbers as numbers, bytes as lower-case hexadecimal.

    Keys are stable; 64-bit words are hexadecimal strings, because many JSON readers lose their low bits.
    """
    key = report.signing_key
    return {
        "version": report.version,
        "product_line": report.product_line,
        "cpuid": _cpuid(report),
        "guest_svn": report.guest_svn,
        "vmpl": report.vmpl,
        "policy": _policy(report.policy),
        "platform_info": _flags(PlatformInfo(report.platform_info)),
        "signing_key": key.name if isinstance(key, SigningKey) else f"reserved {key}",
        "author_key_enabled": report.author_key_enabled,
        "chip_key_masked": report.chip_key_masked,
        "signature_algorithm": report.signature_algorithm,
        "report_data": report.report_data.hex(),
        "host_data": report.host_data.hex(),
        "measurement": report.measurement.hex(),
        "family_id": report.family_id.hex(),
        "image_id": report.image_id.hex(),
        "id_key_digest": report.id_key_digest.hex(),
        "author_key_digest": report.author_key_digest.hex(),
        "report_id": report.report_id.hex(),
        "report_id_ma": report.report_id_ma.hex(),
        "chip_id": report.chip_id.hex(),
        "reported_tcb": _tcb(report.reported_tcb),
        "current_tcb": _tcb(report.current_tcb),
        "committed_tcb": _tcb(report.committed_tcb),
        "launch_tcb": _tcb(report.launch_tcb),
        "current_version": str(report.current_version),
        "committed_version": str(report.committed_version),
        "launch_mitigations": f"{report.launch_mitigations:#018x}",
        "current_mitigations": f"{report.current_mitigations:#018x}",
        "signature_r": f"{report.signature_r:096x}",
        "signature_s": f"{report.signature_s:096x}",
        "signed_digest": report.digest.hex(),
    }


def describe(report: Report) -> str:
    """The same for people: one line per value, byte fields wrapped at 32 bytes, a note where one helps."""
    lines = ["SNP attestation report (decoded, not verified)"]
    for name, value in to_json(report).items():
        label = name.replace("_", " ")
        shown = _text(value)
        note = _NOTES[name](report) if name in _NOTES else ""
        first, *rest = _wrapped(shown)
        lines.append(f"  {label:<22}{first}" + (f"  ({note})" if note else ""))
        lines.extend(f"  {'':<22}{line}" for line in rest)
    return "\n".join(lines) + "\n"


def _cpuid(report: Report) -> Value:
    if report.cpuid is None:
        return None
    cpuid = report.cpuid
    return {"family": f"{cpuid.family:#x}", "model": f"{cpuid.model:#x}", "stepping": f"{cpuid.stepping:#x}"}


def _policy(policy: int) -> Value:
    major, minor = policy_abi(policy)
    return {
        "value": f"{policy:#018x}",
        "minimum_abi": f"{major}.{minor}",
        "flags": names(GuestPolicy(policy & ~0xFFFF)),
    }


def _flags(word: PlatformInfo) -> Value:
    return {"value": f"{int(word):#018x}", "flags": names(word)}


def _tcb(tcb: Tcb) -> Value:
    value: dict[str, Value] = {"value": tcb.hex, **tcb.components}
    if any(tcb.reserved):
        value["reserved"] = tcb.reserved.hex()
    return value


def _text(value: Value) -> str:
    if value is None:
        return "unknown"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(value) or "none"
    if isinstance(value, Mapping):
        return "  ".join(
            f"{_text(part)}" if k == "value" else f"{k} {_text(part)}" for k, part in value.items()
        )
    return str(value)


def _wrapped(text: str) -> list[str]:
    """Hexadecimal of more than 32 bytes goes on several lines; everything else stays on one."""
    if len(text) <= 64 or not all(c in "0123456789abcdef" for c in text):
        return [text]
    return [text[i : i + 64] for i in range(0, len(text), 64)]


def _vmpl_note(report: Report) -> str:
    return "asked for by the host, not by a guest" if report.vmpl == VMPL_HOST else ""


def _line_note(report: Report) -> str:
    if report.cpuid is None:
        return "version 2 reports do not name the processor"
    return "" if report.product_line else "no root for this processor is known"


_NOTES: Mapping[str, Callable[[Report], str]] = {
    "vmpl": _vmpl_note,
    "product_line": _line_note,
    "policy": lambda r: "DEBUG: the host may read this guest" if r.policy & GuestPolicy.DEBUG else "",
    "chip_id": lambda r: "" if any(r.chip_id) else "masked by the host",
    "id_key_digest": lambda r: "" if any(r.id_key_digest) else "no ID block",
    "author_key_digest": lambda r: "" if r.author_key_enabled else "not used",
}
