"""`sidecar report` and `sidecar verify`, and the drop-in for the predecessor's get-snp-report.

Kind: entry
"""

from __future__ import annotations

import argparse
import json
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import trio

from sidecar.arguments import Commands, add_snp, command, read_file
from sidecar.errors import ExitCode, MalformedInput, SidecarError, UsageError

if TYPE_CHECKING:
    from sidecar.snp.certs import CertificateChain
    from sidecar.snp.roots import Roots
    from sidecar.snp.tcb import ProductLine, Tcb
    from sidecar.snp.validate import VerifyPolicy

_FAILED = 255  # the predecessor's exit code


def add_commands(commands: Commands) -> None:
    """Declare the commands."""
    _add_report(commands)
    _add_verify(commands)


def _add_report(commands: Commands) -> None:
    parser = command(commands, "report", _report, "Fetch an attestation report and print it.")
    parser.add_argument(
        "--report-data", default="", metavar="HEX", help="up to 64 bytes to put into it, zero padded"
    )
    parser.add_argument("--format", choices=("text", "json", "hex"), default="text")
    add_snp(parser)


def _report(arguments: argparse.Namespace) -> None:
    from sidecar.snp.describe import describe, to_json
    from sidecar.snp.report import parse_report

    raw = fetch_report(arguments.report_data, arguments.snp)
    if arguments.format == "hex":
        print(raw.hex())
    elif arguments.format == "json":
        print(json.dumps(to_json(parse_report(raw)), indent=1))
    else:
        print(describe(parse_report(raw)), end="")


def fetch_report(report_data: str, snp: str | None) -> bytes:
    """A report of this machine, 1184 bytes, over up to 64 bytes given as hex digits.

    Raises:
        UsageError: not hex, or too long.
        ReportUnavailable: no report could be had.
    """
    from sidecar.snp.device import open_report_source

    data = _hex(report_data, "report data")
    if len(data) > 64:
        raise UsageError(f"report data: {len(data)} bytes, wanted at most 64")
    source = open_report_source(snp)
    return trio.run(source.read_report, data.ljust(64, b"\0")).report


def get_snp_report(argv: list[str] | None = None) -> NoReturn:
    """The predecessor's tool: prints a report as hex; on failure a line on stderr and exit code 255."""
    words = sys.argv[1:] if argv is None else argv
    try:
        if len(words) > 1:
            raise UsageError("usage: get-snp-report [HEX]")
        print(fetch_report(words[0] if words else "", None).hex())
    except SidecarError as exc:
        print(f"get-snp-report: {exc}", file=sys.stderr)
        sys.exit(_FAILED)
    sys.exit(0)


def _add_verify(commands: Commands) -> None:
    parser = command(
        commands,
        "verify",
        _verify,
        "Verify a report, raw or hex: signature, chain to AMD's root, and what you ask of its fields.",
        "Prints every check with its outcome; the exit code says which kind failed first.\n"
        "Without options: VMPL 0, no debugging, no migration.",
    )
    parser.add_argument("file", type=Path, help="1184 bytes, or their hex digits; - for standard input")
    parser.add_argument(
        "--certs", type=Path, metavar="FILE", help="PEM chain or THIM JSON (default: this machine's)"
    )
    parser.add_argument("--software-root", type=Path, metavar="DIR", help="trust this software processor too")
    parser.add_argument(
        "--crl", type=Path, action="append", default=[], metavar="FILE", help="revocation list"
    )
    parser.add_argument(
        "--at", metavar="TIME", help="judge certificates at this time, ISO 8601 (default: now)"
    )
    parser.add_argument(
        "--report-data", metavar="HEX", help="what the guest was asked to put in, zero padded"
    )
    parser.add_argument(
        "--host-data", action="append", default=[], metavar="HEX", help="accepted, repeatable"
    )
    parser.add_argument(
        "--measurement", action="append", default=[], metavar="HEX", help="accepted, repeatable"
    )
    parser.add_argument(
        "--uvm-endorsement", type=Path, metavar="FILE", help="COSE_Sign1 that must endorse the measurement"
    )
    parser.add_argument("--vmpl", choices=("0", "1", "2", "3", "any"), default="0")
    parser.add_argument("--allow-debug", action="store_true")
    parser.add_argument("--allow-migration", action="store_true")
    parser.add_argument("--minimum-guest-svn", type=int, default=0, metavar="N")
    parser.add_argument(
        "--minimum-tcb",
        action="append",
        default=[],
        metavar="LINE:NAME=N,...",
        help="floor of the reported TCB, like Milan:boot_loader=3,snp=8,microcode=115",
    )
    parser.add_argument("--json", action="store_true")


def _verify(arguments: argparse.Namespace) -> int:
    from sidecar.snp.outcome import describe_outcome, outcome_to_json, report_bytes
    from sidecar.snp.revocation import parse_revocation_list
    from sidecar.snp.verify import UvmWish, examine_evidence

    endorsement = arguments.uvm_endorsement
    seen = examine_evidence(
        report_bytes(read_file(arguments.file)),
        _chain(arguments.certs),
        roots=_roots(arguments.software_root),
        at=_time(arguments.at),
        policy=_policy(arguments),
        revocation=[parse_revocation_list(read_file(path)) for path in arguments.crl],
        uvm=None if endorsement is None else UvmWish(read_file(endorsement)),
    )
    print(json.dumps(outcome_to_json(seen), indent=1) if arguments.json else describe_outcome(seen).rstrip())
    return seen.failed[0].error().exit_code if seen.failed else ExitCode.OK


def _roots(software: Path | None) -> Roots:
    from sidecar.snp.roots import Roots
    from sidecar.snp.software import SoftwareProcessor

    amd = Roots.amd()
    return amd if software is None else amd | Roots.of(SoftwareProcessor.open(software).ark)


def _chain(path: Path | None) -> CertificateChain:
    from sidecar.snp.certs import parse_chain_pem, parse_thim
    from sidecar.uvm import read_uvm

    if path is not None:
        data = read_file(path)
        return parse_thim(data).chain if data.lstrip().startswith(b"{") else parse_chain_pem(data)
    collateral = read_uvm().host_certificates
    if collateral is None:
        raise UsageError("no certificates given, and this machine has none", hint="name them with --certs")
    return collateral.chain


def _policy(arguments: argparse.Namespace) -> VerifyPolicy:
    from sidecar.snp.validate import VerifyPolicy

    report_data = None
    if arguments.report_data is not None:
        report_data = _sized(arguments.report_data, "report data", 64, padded=True)
    return VerifyPolicy(
        vmpl=None if arguments.vmpl == "any" else int(arguments.vmpl),
        allow_debug=arguments.allow_debug,
        allow_migration=arguments.allow_migration,
        measurements=frozenset(_sized(text, "measurement", 48) for text in arguments.measurement),
        host_data=frozenset(_sized(text, "host data", 32) for text in arguments.host_data),
        report_data=report_data,
        minimum_guest_svn=arguments.minimum_guest_svn,
        minimum_tcb=dict(_minimum_tcb(text) for text in arguments.minimum_tcb),
    )


def _minimum_tcb(text: str) -> tuple[ProductLine, Tcb]:
    from sidecar.snp.tcb import ProductLine, Tcb

    name, _, rest = text.partition(":")
    try:
        line = ProductLine(name.capitalize())
        parts = dict(part.split("=", 1) for part in rest.split(",") if part)
        tcb = Tcb.of(line.layout, **{word: int(number) for word, number in parts.items()})
    except (ValueError, TypeError, MalformedInput) as exc:
        raise UsageError(
            f"--minimum-tcb {text!r}: {exc}", hint="write it like Milan:boot_loader=3,snp=8,microcode=115"
        ) from exc
    return line, tcb


def _sized(text: str, what: str, size: int, *, padded: bool = False) -> bytes:
    data = _hex(text, what)
    if padded and len(data) <= size:
        data = data.ljust(size, b"\0")
    if len(data) != size:
        raise UsageError(f"{what}: {len(data)} bytes, wanted {size}")
    return data


def _hex(text: str, what: str) -> bytes:
    try:
        return bytes.fromhex(text)
    except ValueError:
        raise UsageError(f"{what}: not hex digits") from None


def _time(text: str | None) -> datetime:
    if text is None:
        return datetime.now(UTC)
    try:
        found = datetime.fromisoformat(text)
    except ValueError as exc:
        raise UsageError(
            f"--at {text!r}: {exc}", hint="write it like 2026-03-01 or 2026-03-01T12:00Z"
        ) from exc
    return found if found.tzinfo else found.replace(tzinfo=UTC)
